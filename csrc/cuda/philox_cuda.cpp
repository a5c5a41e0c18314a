// philox4x32 and philox_bits on CUDA.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/check.h"
#include "common/dispatch.h"
#include "cuda/library.h"
#include "cuda/philox.h"
#include "cuda/seed_offset.h"

namespace mmssl::cuda {
namespace {

at::Tensor philox4x32_cuda(const at::Tensor& counter_in, int64_t seed) {
  const char* op = "philox4x32";
  MMSSL_CHECK(counter_in.scalar_type() == at::kLong && counter_in.dim() >= 1 && counter_in.size(-1) == 4, op,
              "counter must be int64 [..., 4], got ", counter_in.scalar_type(), " ", counter_in.sizes());
  const OnDevice device(counter_in);
  const at::Tensor counter = counter_in.contiguous();
  const at::Tensor words = at::empty(counter.sizes(), counter.options());
  launch_philox4x32(static_cast<uint64_t>(seed), read_ptr<int64_t>(counter), counter.numel() / 4,
                    write_ptr<int64_t>(words), device.stream());
  return words;
}

at::Tensor philox_bits_cuda(const at::Tensor& rows_in, int64_t columns, const at::Tensor& seed_offset, int64_t stream) {
  const char* op = "philox_bits";
  MMSSL_CHECK(rows_in.scalar_type() == at::kLong && rows_in.dim() == 1, op, "rows must be int64 [B], got ",
              rows_in.scalar_type(), " ", rows_in.sizes());
  MMSSL_CHECK(columns >= 0, op, "columns must not be negative, got ", columns);
  check_seed_offset(op, seed_offset, rows_in);
  const OnDevice device(rows_in);
  const at::Tensor rows = rows_in.contiguous();
  const at::Tensor bits = at::empty({rows.numel(), columns}, rows.options());
  launch_philox_bits(read_ptr<int64_t>(seed_offset), static_cast<uint32_t>(stream), read_ptr<int64_t>(rows),
                     rows.numel(), columns, write_ptr<int64_t>(bits), device.stream());
  return bits;
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) {
  m.impl("philox4x32", &mmssl::cuda::philox4x32_cuda);
  m.impl("philox_bits", &mmssl::cuda::philox_bits_cuda);
}
