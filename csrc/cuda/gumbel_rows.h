// Launchers of the dense evaluation of equation 5's rows, and what every Gumbel kernel is told. Raw device pointers.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace mmssl::cuda {

// Whose rows, and their noise. Index: int32_t, int64_t.
template <typename Index>
struct GumbelBatch {
  const int64_t* crow;         // [n_users + 1]: the whole graph
  const Index* col;            // [nnz], ascending within a row
  const int64_t* users;        // [n_rows]
  const int64_t* seed_offset;  // [2]
  int64_t n_users, nnz, n_rows, n_items;
  double tau, noise_scale;
};

// Columns that one block of gumbel_lse reduces: partial sums are [n_rows, lse_splits(n_items), 2] float64.
constexpr int64_t kLseColumns = 16384;
inline int64_t lse_splits(int64_t n_items) { return (n_items + kLseColumns - 1) / kLseColumns; }

// lse[r] = log sum over i of exp((A + s g) / tau), scores and exponentials in T.
template <typename T, typename Index>
void launch_gumbel_lse(const GumbelBatch<Index>& batch,
                       double* partial,  // [n_rows, lse_splits(n_items), 2]
                       double* lse,      // [n_rows]
                       cudaStream_t stream);

// out[r][i - first] = exp((A + s g) / tau - lse[r]), first <= i < last; added to what `out` holds when `accumulate`.
template <typename T, typename Index>
void launch_gumbel_tile(const GumbelBatch<Index>& batch,
                        const double* lse,  // [n_rows]
                        int64_t first, int64_t last, bool accumulate,
                        T* out,  // [n_rows, last - first]
                        cudaStream_t stream);

}  // namespace mmssl::cuda
