// The arguments of the kernels of act_norm_dropout, for every instruction set.
#pragma once

#include <cstdint>

#include "common/dropout.h"

namespace mmssl {

constexpr int64_t kNormRows = 128;    // of a chunk
constexpr int64_t kNormColumns = 64;  // of a word of `masks`

// The inputs of all ops, and what is computed between their visits. H stands for `columns`, and a for
// leaky_relu(z, slope).
template <typename T>
struct NormArgs {
  int64_t rows, columns;
  double slope, eps;
  Dropout dropout;
  const T* z;               // [rows, H]
  const T* mean;            // [H], of a
  const T* variance;        // [H], of a, by rows
  const T* weight;          // [H]
  double* sums;             // [chunks, kinds of sums, H]
  T* factors;               // [kinds of factors, H]
  uint64_t* masks;          // [rows, H / kNormColumns rounded up]: a bit per entry, 1 if dropout keeps it
  const T* grad = nullptr;  // [rows, H], of both derivatives
  const T* gg_z = nullptr;  // [rows, H], of the second derivative
};

// The kinds of sums and of factors per column.
constexpr int64_t kFwdSums = 2, kFwdFactors = 1, kBwdSums = 2, kBwdFactors = 4, kBwdBwdSums = 5, kBwdBwdFactors = 7;

}  // namespace mmssl
