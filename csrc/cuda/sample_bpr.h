// Launchers of the BPR samplers. Raw device pointers. Index: int32_t, int64_t.
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

// A slot each: a uniform edge of those whose user has a negative, and a uniform negative of that user.
template <typename Index>
void launch_sample_bpr(const SampledGraph<Index>& graph,
                       const int64_t* full_users,  // [n_full], ascending: users with every item
                       int64_t n_full, Triples out, cudaStream_t stream);

// key[user] orders users as their 64-bit words do; those without an item or without a negative come last.
template <typename Index>
void launch_user_keys(const SampledGraph<Index>& graph,
                      int64_t* key,  // [n_users]
                      cudaStream_t stream);

// A positive and a negative for users[b] = drawn[b]. Traps on a user without either.
template <typename Index>
void launch_sample_bpr_items(const SampledGraph<Index>& graph,
                             const int64_t* drawn,  // [batch]
                             Triples out, cudaStream_t stream);

}  // namespace mmssl::cuda
