// Matrix products of tiles inside a parallel region: torch's GEMM, with one thread per tile, so that the bits do not
// depend on the number of threads.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <algorithm>

#include "cpu/parallel.h"

namespace mmssl {

// Runs f(queue) on every thread. f takes tasks of [0, n) until none is left. Even a single task runs in a parallel
// region, because outside of it the GEMM would use all threads and might round differently.
template <typename F>
void for_tasks(int64_t n, F&& f) {
  in_region(0, n, 1, [&](ChunkQueue& tasks) {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    f(tasks);
  });
}

inline at::Tensor rows_of(const at::Tensor& x, int64_t begin, int64_t end) { return x.narrow(0, begin, end - begin); }

// The first rows x columns values of a scratch buffer, as a contiguous matrix.
inline at::Tensor matrix_in(const at::Tensor& scratch, int64_t rows, int64_t columns) {
  return scratch.narrow(0, 0, rows * columns).view({rows, columns});
}

// n keys divided into chunks of whole tiles, one per task. The number of tasks is enough for many cores, and does not
// depend on the number of cores.
struct Chunks {
  static constexpr int64_t kMost = 32;

  int64_t n, length, count;

  Chunks(int64_t n, int64_t tile) : n(n) {
    const int64_t tiles = (n + tile - 1) / tile;
    length = std::max<int64_t>((tiles + kMost - 1) / kMost, 1) * tile;
    count = (n + length - 1) / length;
  }
  int64_t begin(int64_t i) const { return i * length; }
  int64_t end(int64_t i) const { return std::min((i + 1) * length, n); }
};

// out = a bᵀ
inline void product_transposed(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  at::cpu::mm_out(out, a, b.t());
}

// out += a b
inline void add_product(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  at::cpu::addmm_out(out, out, a, b, 1, 1);
}

}  // namespace mmssl
