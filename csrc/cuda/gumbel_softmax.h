// The launchers of gumbel_softmax, the rows of equation 5 as a matrix. They take raw device pointers.
#pragma once

#include <cstdint>

#include "cuda/gumbel_rows.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

// Rows of at most this many bytes are in the shared memory of a block. Two such blocks fit a multiprocessor of an H100.
constexpr int64_t kSharedRowBytes = 96 * 1024;

// rows[r] = softmax((A + s g) / tau), added to `rows` if `accumulate`, and divided by its length if `l2`. inv_norm[r]
// is the inverse length (0 for a zero row), or 1 without l2. Requires n_items * sizeof(T) <= kSharedRowBytes.
template <typename T, typename Index>
void launch_gumbel_softmax(const GumbelBatch<Index>& batch, bool accumulate, bool l2,
                           T* rows,      // [B, I]
                           T* inv_norm,  // [B]
                           cudaStream_t stream);

// Divides every row by its length. inv_norm is as above.
template <typename T>
void launch_row_l2(int64_t n_rows, int64_t n_items,
                   T* rows,      // [B, I]
                   T* inv_norm,  // [B]
                   cudaStream_t stream);

// rows[r][col[e]] += value[e] for the entries e of row r. With `inv_norm`, the values of a row are divided by their
// length.
template <typename T, typename Index>
void launch_scatter_rows(int64_t n_rows, int64_t n_items,
                         const int64_t* crow,  // [B + 1]
                         const Index* col,     // [crow[B]]
                         const float* value,   // [crow[B]]
                         T* rows,              // [B, I]
                         T* inv_norm,          // [B] or nullptr
                         cudaStream_t stream);

}  // namespace mmssl::cuda
