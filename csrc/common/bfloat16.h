// bfloat16 in kernels: two bytes with the layout of at::BFloat16. Arithmetic is done in float, see cpu/isa/scalar.h.
#pragma once

#include <cstdint>

namespace mmssl {

struct BFloat16 {
  uint16_t bits;
};

}  // namespace mmssl
