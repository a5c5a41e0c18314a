// sampled_dot on the CPU: checks, allocation, threads. The arithmetic is in isa/sampled_dot.cpp. The gradients are
// row-wise sums over the block and over its transpose.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/isa.h"
#include "common/sampled_dot_check.h"
#include "cpu/csr.h"
#include "cpu/csr_transpose.h"
#include "cpu/parallel.h"
#include "cpu/spmm.h"

#define MMSSL_KERNELS "cpu/isa/sampled_dot.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

at::Tensor sampled_dot_cpu(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& u_in,
                           const at::Tensor& v_in) {
  const char* op = "sampled_dot";
  check_sampled_dot(op, crow, col, u_in, v_in);
  check_csr(op, crow, col, u_in.size(0), v_in.size(0));
  const at::Tensor u = u_in.contiguous(), v = v_in.contiguous();
  const int64_t n_rows = u.size(0), d = u.size(1);
  at::Tensor s = at::empty({col.numel()}, u.options());
  with_value_type(op, u.scalar_type(), [&](auto value) {
    with_index_type(op, col.scalar_type(), [&](auto index) {
      using T = decltype(value);
      using Index = decltype(index);
      for_rows(0, n_rows, col.numel() * d, [&](int64_t begin, int64_t end) {
        MMSSL_DISPATCH(sampled_dot_fwd, read_ptr<int64_t>(crow), read_ptr<Index>(col), read_ptr<T>(u), read_ptr<T>(v),
                       d, write_ptr<T>(s), begin, end);
      });
    });
  });
  return s;
}

void check_grad(const char* op, const at::Tensor& grad, const at::Tensor& col, const at::Tensor& x) {
  MMSSL_CHECK(grad.sizes() == col.sizes(), op, "grad must be [nnz] = ", col.sizes(), ", got ", grad.sizes());
  MMSSL_CHECK(grad.scalar_type() == x.scalar_type(), op, "grad and rows must have the same dtype, got ",
              grad.scalar_type(), " and ", x.scalar_type());
}

at::Tensor sampled_dot_bwd_u_cpu(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& grad,
                                 const at::Tensor& v) {
  const char* op = "sampled_dot_bwd_u";
  check_sampled_rows(op, "v", v);
  check_grad(op, grad, col, v);
  check_csr(op, crow, col, crow.numel() - 1, v.size(0));
  return call_spmm<run_spmm>(op, crow, col, grad, {}, {}, v);
}

at::Tensor sampled_dot_bwd_v_cpu(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& grad,
                                 const at::Tensor& u, int64_t n_items) {
  const char* op = "sampled_dot_bwd_v";
  check_sampled_rows(op, "u", u);
  check_grad(op, grad, col, u);
  MMSSL_CHECK(crow.numel() == u.size(0) + 1, op, "crow must have ", u.size(0) + 1, " offsets for ", u.size(0),
              " rows, got ", crow.numel());
  const auto [items, t_crow, t_row, order] = csr_transpose(op, crow, col, n_items);
  const at::Tensor dv = at::zeros({n_items, u.size(1)}, u.options());
  run_spmm(op, spmm_add_call(op, dv, items, t_crow, t_row, at::index_select(grad, 0, order), u));
  return dv;
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("sampled_dot", &mmssl::sampled_dot_cpu);
  m.impl("sampled_dot_bwd_u", &mmssl::sampled_dot_bwd_u_cpu);
  m.impl("sampled_dot_bwd_v", &mmssl::sampled_dot_bwd_v_cpu);
}
