// The launchers of the BPR samplers. They take raw device pointers. Index is int32_t or int64_t.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace mmssl::cuda {

template <typename Index>
struct SampledGraph {
  const int64_t* crow;         // [n_users + 1]
  const Index* col;            // [nnz], ascending within a row
  const int64_t* seed_offset;  // [2]
  int64_t n_users, nnz, n_items;
};

struct Triples {
  int64_t *users, *pos, *neg;  // [batch] each
  int64_t batch;
};

// For every slot, a uniformly drawn edge of the users with a negative item, and a uniform negative item of the user.
template <typename Index>
void launch_sample_bpr(const SampledGraph<Index>& graph,
                       const int64_t* full_users,  // [n_full], ascending: users with every item
                       int64_t n_full, Triples out, cudaStream_t stream);

// key[user] has the same order as the 64-bit words of the users. Users without a positive or negative item come last.
template <typename Index>
void launch_user_keys(const SampledGraph<Index>& graph,
                      int64_t* key,  // [n_users]
                      cudaStream_t stream);

// Draws a positive and a negative item for users[b] = drawn[b]. Stops with an assertion if a user lacks one of them.
template <typename Index>
void launch_sample_bpr_items(const SampledGraph<Index>& graph,
                             const int64_t* drawn,  // [batch]
                             Triples out, cudaStream_t stream);

}  // namespace mmssl::cuda
