// The launchers of gumbel_order_statistics, the rows of equation 5 as a CSR block. They take raw device pointers.
#pragma once

#include <cstdint>

#include "cuda/gumbel_rows.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

// count[r] is the number of entries of row r: its seen items and its draws.
template <typename Index>
void launch_order_statistics_count(const GumbelBatch<Index>& batch,
                                   int64_t* count,  // [B]
                                   cudaStream_t stream);

// Writes the entries of row r to crow[r] .. crow[r + 1], sorted by item. Stops with an assertion if they exceed
// `capacity`.
template <typename Index>
void launch_order_statistics_draw(const GumbelBatch<Index>& batch,
                                  const int64_t* crow,  // [B + 1]: running sums of `count`
                                  int64_t capacity,
                                  unsigned long long* slots,  // scratch [2 capacity]
                                  double* weight,             // scratch [capacity]
                                  Index* col,                 // [capacity]
                                  float* value,               // [capacity]
                                  cudaStream_t stream);

}  // namespace mmssl::cuda
