// philox4x32 and philox_bits on the CPU: the random number generator as ops.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/isa.h"
#include "common/philox.h"
#include "cpu/parallel.h"
#include "cpu/seed_offset.h"

#define MMSSL_KERNELS "cpu/isa/philox.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

at::Tensor philox4x32_cpu(const at::Tensor& counter_in, int64_t seed) {
  const char* op = "philox4x32";
  MMSSL_CHECK(counter_in.scalar_type() == at::kLong && counter_in.dim() >= 1 && counter_in.size(-1) == 4, op,
              "counter must be int64 [..., 4], got ", counter_in.scalar_type(), " ", counter_in.sizes());
  const at::Tensor counter = counter_in.contiguous();
  at::Tensor words = at::empty(counter.sizes(), counter.options());
  const int64_t* c = read_ptr<int64_t>(counter);
  int64_t* w = write_ptr<int64_t>(words);
  for (int64_t i = 0; i < counter.numel(); i += 4) {
    const auto word = [&](int j) { return static_cast<uint32_t>(c[i + j]); };
    const Philox4 result = philox4x32(philox_key(static_cast<uint64_t>(seed)), word(0), word(1), word(2), word(3));
    for (int j = 0; j < 4; ++j) w[i + j] = result.word[j];
  }
  return words;
}

at::Tensor philox_bits_cpu(const at::Tensor& rows_in, int64_t columns, const at::Tensor& seed_offset, int64_t stream) {
  const char* op = "philox_bits";
  const SeedOffset noise = read_seed_offset(op, seed_offset);
  MMSSL_CHECK(rows_in.scalar_type() == at::kLong && rows_in.dim() == 1, op, "rows must be int64 [B], got ",
              rows_in.scalar_type(), " ", rows_in.sizes());
  MMSSL_CHECK(columns >= 0, op, "columns must not be negative, got ", columns);
  const at::Tensor rows = rows_in.contiguous();
  const int64_t n_rows = rows.numel();
  at::Tensor bits = at::empty({n_rows, columns}, rows.options());
  for_rows(0, n_rows, 4 * n_rows * columns, [&](int64_t begin, int64_t end) {
    MMSSL_DISPATCH(philox_bits, noise.seed, noise.offset, static_cast<uint32_t>(stream), read_ptr<int64_t>(rows),
                   columns, write_ptr<int64_t>(bits), begin, end);
  });
  return bits;
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("philox4x32", &mmssl::philox4x32_cpu);
  m.impl("philox_bits", &mmssl::philox_bits_cpu);
}
