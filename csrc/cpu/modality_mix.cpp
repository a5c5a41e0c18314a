// modality_mix on the CPU: checks, allocation, threads. The arithmetic is in isa/modality_mix.cpp.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>
#include <type_traits>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/isa.h"
#include "common/mix_nodes.h"
#include "cpu/parallel.h"

#define MMSSL_KERNELS "cpu/isa/modality_mix.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

void check_mix(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& e, int64_t heads) {
  MMSSL_CHECK(e.dim() == 3 && e.size(0) > 0 && e.size(2) > 0, op, "e must be [M, N, d] with M, d ≥ 1, got ", e.sizes());
  MMSSL_CHECK(q.sizes() == e.sizes() && k.sizes() == e.sizes(), op, "q, k and e must have the same shape, got ",
              q.sizes(), ", ", k.sizes(), " and ", e.sizes());
  MMSSL_CHECK(q.scalar_type() == e.scalar_type() && k.scalar_type() == e.scalar_type(), op,
              "q, k and e must have the same dtype, got ", q.scalar_type(), ", ", k.scalar_type(), " and ",
              e.scalar_type());
  MMSSL_CHECK(heads > 0 && e.size(2) % heads == 0, op, "d = ", e.size(2), " is not a multiple of heads = ", heads);
}

// Runs body(T, A, scratch, begin, end) for chunks of nodes in parallel.
template <typename F>
void for_nodes(const char* op, const at::Tensor& e, int64_t heads, F&& body) {
  const int64_t modalities = e.size(0), nodes = e.size(1), d = e.size(2);
  with_value_type(op, e.scalar_type(), [&](auto element) {
    using T = decltype(element);
    using A = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;
    const int64_t work = nodes * (3 * modalities + heads) * d;
    for_rows(0, nodes, work, [&](int64_t begin, int64_t end) {
      std::vector<A> scratch(mix_scratch(heads, modalities));
      body(element, scratch.data(), begin, end);
    });
  });
}

at::Tensor modality_mix_cpu(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& e_in, int64_t heads) {
  const char* op = "modality_mix";
  check_mix(op, q_in, k_in, e_in, heads);
  const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), e = e_in.contiguous();
  at::Tensor mixed = at::empty({e.size(1), heads * e.size(2)}, e.options());
  for_nodes(op, e, heads, [&](auto element, auto* scratch, int64_t begin, int64_t end) {
    using T = decltype(element);
    MMSSL_DISPATCH(modality_mix_fwd, read_ptr<T>(q), read_ptr<T>(k), read_ptr<T>(e), e.size(0), e.size(1), e.size(2),
                   heads, scratch, write_ptr<T>(mixed), begin, end);
  });
  return mixed;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> modality_mix_bwd_cpu(const at::Tensor& grad_in, const at::Tensor& q_in,
                                                                    const at::Tensor& k_in, const at::Tensor& e_in,
                                                                    int64_t heads) {
  const char* op = "modality_mix_bwd";
  check_mix(op, q_in, k_in, e_in, heads);
  MMSSL_CHECK(grad_in.dim() == 2 && grad_in.size(0) == e_in.size(1) && grad_in.size(1) == heads * e_in.size(2), op,
              "grad must be [", e_in.size(1), ", ", heads * e_in.size(2), "], got ", grad_in.sizes());
  MMSSL_CHECK(grad_in.scalar_type() == e_in.scalar_type(), op, "grad and e must have the same dtype, got ",
              grad_in.scalar_type(), " and ", e_in.scalar_type());
  const at::Tensor grad = grad_in.contiguous(), q = q_in.contiguous(), k = k_in.contiguous(), e = e_in.contiguous();
  at::Tensor grad_q = at::empty(e.sizes(), e.options()), grad_k = at::empty(e.sizes(), e.options());
  at::Tensor grad_e = at::empty(e.sizes(), e.options());
  for_nodes(op, e, heads, [&](auto element, auto* scratch, int64_t begin, int64_t end) {
    using T = decltype(element);
    MMSSL_DISPATCH(modality_mix_bwd, read_ptr<T>(grad), read_ptr<T>(q), read_ptr<T>(k), read_ptr<T>(e), e.size(0),
                   e.size(1), e.size(2), heads, scratch, write_ptr<T>(grad_q), write_ptr<T>(grad_k),
                   write_ptr<T>(grad_e), begin, end);
  });
  return {grad_q, grad_k, grad_e};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("modality_mix", &mmssl::modality_mix_cpu);
  m.impl("modality_mix_bwd", &mmssl::modality_mix_bwd_cpu);
}
