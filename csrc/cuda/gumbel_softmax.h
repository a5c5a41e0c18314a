// Launchers of gumbel_softmax: equation 5's rows as a matrix. Raw device pointers.
#pragma once

#include <cstdint>

#include "cuda/gumbel_rows.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

// Rows of at most this many bytes stay in a block's shared memory (two such blocks fit an H100's multiprocessor).
constexpr int64_t kSharedRowBytes = 96 * 1024;

// rows[r] = softmax((A + s g) / tau), added to what `rows` holds when `accumulate`, divided by its length when `l2`;
// inv_norm[r] = 1 / that length (0 for a zero row), 1 without l2. n_items * sizeof(T) <= kSharedRowBytes.
template <typename T, typename Index>
void launch_gumbel_softmax(const GumbelBatch<Index>& batch, bool accumulate, bool l2,
                           T* rows,      // [B, I]
                           T* inv_norm,  // [B]
                           cudaStream_t stream);

// Divides each row by its length; inv_norm as above.
template <typename T>
void launch_row_l2(int64_t n_rows, int64_t n_items,
                   T* rows,      // [B, I]
                   T* inv_norm,  // [B]
                   cudaStream_t stream);

// rows[r][col[e]] += value[e] for the entries e of row r; with `inv_norm`, the block's values divided by their length.
template <typename T, typename Index>
void launch_scatter_rows(int64_t n_rows, int64_t n_items,
                         const int64_t* crow,  // [B + 1]
                         const Index* col,     // [crow[B]]
                         const float* value,   // [crow[B]]
                         T* rows,              // [B, I]
                         T* inv_norm,          // [B] or nullptr
                         cudaStream_t stream);

}  // namespace mmssl::cuda
