// The seed and offset of counter-based noise. Kernels read them on the device, so that they can be changed in a
// captured CUDA graph.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/check.h"

namespace mmssl::cuda {

// seed_offset: int64 [2], the seed's 64 bits and the offset (32 of its bits count), on the device of `beside`.
inline void check_seed_offset(const char* op, const at::Tensor& seed_offset, const at::Tensor& beside) {
  MMSSL_CHECK(seed_offset.scalar_type() == at::kLong && seed_offset.dim() == 1 && seed_offset.numel() == 2 &&
                  seed_offset.is_contiguous(),
              op, "seed_offset must be contiguous int64 [2], got ", seed_offset.scalar_type(), " ",
              seed_offset.sizes());
  MMSSL_CHECK(seed_offset.device() == beside.device(), op, "seed_offset is on ", seed_offset.device(),
              ", the other arguments on ", beside.device());
}

}  // namespace mmssl::cuda
