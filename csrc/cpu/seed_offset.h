// The seed and offset of counter-based noise. The ops take them as a tensor, so that they can be changed in a captured
// CUDA graph.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/check.h"

namespace mmssl {

struct SeedOffset {
  uint64_t seed;
  uint32_t offset;
};

// seed_offset: int64 [2], the seed's 64 bits and the offset, in [0, 2^32).
inline SeedOffset read_seed_offset(const char* op, const at::Tensor& seed_offset) {
  MMSSL_CHECK(seed_offset.scalar_type() == at::kLong && seed_offset.dim() == 1 && seed_offset.numel() == 2, op,
              "seed_offset must be int64 [2], got ", seed_offset.scalar_type(), " ", seed_offset.sizes());
  const int64_t* word = seed_offset.const_data_ptr<int64_t>();
  const int64_t offset = word[seed_offset.stride(0)];
  MMSSL_CHECK(offset >= 0 && offset < (int64_t{1} << 32), op, "offset must be in [0, 2**32), got ", offset);
  return {static_cast<uint64_t>(word[0]), static_cast<uint32_t>(offset)};
}

}  // namespace mmssl
