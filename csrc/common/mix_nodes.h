// How many nodes the kernels of modality_mix take at a time, for every instruction set.
#pragma once

#include <cstdint>

namespace mmssl {

constexpr int64_t kMixNodes = 16;  // the largest number of lanes

// The number of values of the scratch memory of a call.
inline int64_t mix_scratch(int64_t heads, int64_t modalities) {
  return (heads * (modalities + 2) + 1) * modalities * kMixNodes;
}

}  // namespace mmssl
