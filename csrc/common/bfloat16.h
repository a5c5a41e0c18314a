// bfloat16 as the kernels see it: two bytes. Arithmetic is in float, see cpu/isa/scalar.h. Same layout as at::BFloat16.
#pragma once

#include <cstdint>

namespace mmssl {

struct BFloat16 {
  uint16_t bits;
};

}  // namespace mmssl
