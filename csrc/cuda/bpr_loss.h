// The launchers of bpr_loss. They take raw device pointers. T is float, double or BFloat16. A, the type of sums, is
// float for BFloat16, else T.
#pragma once

#include <cstdint>

#include "common/bfloat16.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

// Two embedding tables with contiguous rows, and triples of their rows.
template <typename T>
struct BprBatch {
  const T* user_emb;  // [n_users, d], rows user_stride apart
  const T* item_emb;  // [n_items, d], rows item_stride apart
  int64_t n_users, user_stride, n_items, item_stride, d;
  const int64_t *users, *pos, *neg;  // [batch] each
  int64_t batch;
};

// loss[b] = log(1 + exp(-m)) with m = u . (p - n), and slope[b], its derivative with respect to m.
template <typename T, typename A>
void launch_bpr_loss(const BprBatch<T>& batch,
                     A* loss,   // [batch]
                     A* slope,  // [batch]
                     cudaStream_t stream);

// grad[u] is the sum of slope[b] (p - n) over the triples b of user u, in their order. Other rows are not changed.
template <typename T, typename A>
void launch_bpr_user_grad(const BprBatch<T>& batch, const A* slope,
                          const int64_t* sorted,  // [batch]: users, ascending
                          const int64_t* order,   // [batch]: the triple of each
                          T* grad,                // [n_users, d]
                          cudaStream_t stream);

// grad[i] is the sum over the entries of item i of slope[b] u (as a positive) and -slope[b] u (as a negative).
template <typename T, typename A>
void launch_bpr_item_grad(const BprBatch<T>& batch, const A* slope,
                          const int64_t* sorted,  // [2 batch]: pos, then neg, ascending
                          const int64_t* order,   // [2 batch]: the place of each in (pos, neg)
                          T* grad,                // [n_items, d]
                          cudaStream_t stream);

}  // namespace mmssl::cuda
