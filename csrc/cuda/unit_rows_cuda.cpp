// unit_rows on CUDA: checks, allocation, stream. The kernels are in unit_rows.cu.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/dispatch.h"
#include "common/factors.h"
#include "common/unit_rows_check.h"
#include "cuda/library.h"
#include "cuda/unit_rows.h"

namespace mmssl::cuda {
namespace {

std::tuple<at::Tensor, at::Tensor> unit_rows_op(const at::Tensor& x_in) {
  const char* op = "unit_rows";
  check_unit_rows(op, x_in);
  const OnDevice device(x_in);
  const at::Tensor x = x_in.contiguous();
  const int64_t n_rows = x.size(0), d = x.size(1);
  const at::Tensor unit = at::empty({n_rows, d}, x.options());
  const at::Tensor inverse = at::empty({n_rows}, x.options().dtype(wide_type(x.scalar_type())));
  with_value_type(op, x.scalar_type(), [&](auto value) {
    using T = decltype(value);
    unit_rows_cuda(read_ptr<T>(x), n_rows, d, write_ptr<T>(unit), write_ptr<wide_t<T>>(inverse), device.stream());
  });
  return {unit, inverse};
}

at::Tensor unit_rows_bwd_op(const at::Tensor& grad_in, const at::Tensor& x_in, const at::Tensor& inverse_in) {
  const char* op = "unit_rows_bwd";
  check_unit_rows_bwd(op, grad_in, x_in, inverse_in);
  const OnDevice device(x_in);
  const at::Tensor grad = grad_in.contiguous(), x = x_in.contiguous(), inverse = inverse_in.contiguous();
  const int64_t n_rows = x.size(0), d = x.size(1);
  const at::Tensor x_grad = at::empty({n_rows, d}, x.options());
  with_value_type(op, x.scalar_type(), [&](auto value) {
    using T = decltype(value);
    unit_rows_bwd_cuda(read_ptr<T>(grad), read_ptr<T>(x), read_ptr<wide_t<T>>(inverse), n_rows, d, write_ptr<T>(x_grad),
                       device.stream());
  });
  return x_grad;
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) {
  m.impl("unit_rows", &mmssl::cuda::unit_rows_op);
  m.impl("unit_rows_bwd", &mmssl::cuda::unit_rows_bwd_op);
}
