// Matrix products tile by tile inside at::parallel_for: torch's own GEMM, one thread a tile, so that neither the number
// of threads nor who runs a tile can change a bit of it.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <algorithm>

namespace mmssl {

// Runs f(begin, end) over the tasks [0, n) in parallel. There are always two iterations to share out: a lone task would
// be run outside a parallel region, where the GEMM inside it takes all threads and may round otherwise.
template <typename F>
void for_tasks(int64_t n, F&& f) {
  at::parallel_for(0, std::max<int64_t>(n, 2), 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    if (begin < n) f(begin, std::min(end, n));
  });
}

inline at::Tensor rows_of(const at::Tensor& x, int64_t begin, int64_t end) { return x.narrow(0, begin, end - begin); }

// The first rows x columns values of a scratch buffer, as a contiguous matrix.
inline at::Tensor matrix_in(const at::Tensor& scratch, int64_t rows, int64_t columns) {
  return scratch.narrow(0, 0, rows * columns).view({rows, columns});
}

// n keys cut into chunks of whole tiles, one task each: as many as many cores want, never more, whatever their number.
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
