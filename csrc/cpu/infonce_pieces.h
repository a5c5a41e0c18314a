// infonce by products of bfloat16 numbers, and what it shares with infonce.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/infonce.h"
#include "cpu/tile.h"

namespace mmssl {

// The tasks: one for every chunk of the keys of h, then one for every chunk of the keys of e.
struct InfonceTasks {
  Chunks chunks;

  explicit InfonceTasks(int64_t users) : chunks(users, kInfonceKeys) {}
  int64_t count() const { return 2 * chunks.count; }
  bool within(int64_t task) const { return task >= chunks.count; }  // of e
  int64_t begin(int64_t task) const { return chunks.begin(task % chunks.count); }
  int64_t end(int64_t task) const { return chunks.end(task % chunks.count); }
};

// One call: unit rows, distinct ids in ascending order, everything contiguous.
struct InfonceCall {
  at::Tensor h, e, ids;  // [U, d], [U, d], [B]
  double tau;
  bool exclude_self;
  bool bfloat16;  // round the operands of products to bfloat16
};

// Both functions return false, and do nothing, if the processor or the call does not suit them.

// Computes the term and the log-sum-exp of every anchor.
bool infonce_forward_by_pieces(const InfonceCall& call, at::Tensor& term, at::Tensor& lse);

// Adds the gradients to h_grad and e_grad. push [B] are the weights of the gradient of the log-sum-exp, and pull [B]
// those of the positives.
bool infonce_backward_by_pieces(const InfonceCall& call, const at::Tensor& push, const at::Tensor& pull,
                                const at::Tensor& lse, at::Tensor& h_grad, at::Tensor& e_grad);

// Adds the gradients of the weighted terms of the anchors to h_grad and e_grad, which are zero on entry, and adds the
// weighted sum of the terms to `loss`. Only for rounded operands, and not on processors with AMX, which compute a
// product again in less time than it takes to keep it.
bool infonce_with_grad_by_pieces(const InfonceCall& call,
                                 const double* weights,  // [B]
                                 double& loss, at::Tensor& h_grad, at::Tensor& e_grad);

}  // namespace mmssl
