// The launchers of the dense evaluation of equation 5, and the common arguments of the Gumbel kernels. They take raw
// device pointers.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace mmssl::cuda {

// The graph, the users of the rows, and their noise. Index is int32_t or int64_t.
template <typename Index>
struct GumbelBatch {
  const int64_t* crow;         // [n_users + 1]: the whole graph
  const Index* col;            // [nnz], ascending within a row
  const int64_t* users;        // [n_rows]
  const int64_t* seed_offset;  // [2]
  int64_t n_users, nnz, n_rows, n_items;
  double tau, noise_scale;
};

// The columns that one block of gumbel_lse reduces. The partial sums are float64 [n_rows, lse_splits(n_items), 2].
constexpr int64_t kLseColumns = 16384;
inline int64_t lse_splits(int64_t n_items) { return (n_items + kLseColumns - 1) / kLseColumns; }

// lse[r] = log sum over i of exp((A + s g) / tau). The scores and exponentials have type T.
template <typename T, typename Index>
void launch_gumbel_lse(const GumbelBatch<Index>& batch,
                       double* partial,  // [n_rows, lse_splits(n_items), 2]
                       double* lse,      // [n_rows]
                       cudaStream_t stream);

// out[r][i - first] = exp((A + s g) / tau - lse[r]) for first <= i < last. If `accumulate`, it is added to `out`.
template <typename T, typename Index>
void launch_gumbel_tile(const GumbelBatch<Index>& batch,
                        const double* lse,  // [n_rows]
                        int64_t first, int64_t last, bool accumulate,
                        T* out,  // [n_rows, last - first]
                        cudaStream_t stream);

}  // namespace mmssl::cuda
