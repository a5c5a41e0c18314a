// unit_rows on the CPU: checks, allocation, threads. The arithmetic is in isa/unit_rows.cpp.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/factors.h"
#include "common/isa.h"
#include "cpu/parallel.h"

#define MMSSL_KERNELS "cpu/isa/unit_rows.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

std::tuple<at::Tensor, at::Tensor> unit_rows_cpu(const at::Tensor& x_in) {
  const char* op = "unit_rows";
  MMSSL_CHECK(x_in.dim() == 2, op, "x must be [rows, d], got ", x_in.sizes());
  const at::Tensor x = x_in.contiguous();
  const int64_t n_rows = x.size(0), d = x.size(1);
  at::Tensor unit = at::empty({n_rows, d}, x.options());
  at::Tensor inverse = at::empty({n_rows}, x.options().dtype(wide_type(x.scalar_type())));
  with_value_type(op, x.scalar_type(), [&](auto value) {
    using T = decltype(value);
    for_rows(0, n_rows, n_rows * d, [&](int64_t begin, int64_t end) {
      MMSSL_DISPATCH(unit_rows_fwd, read_ptr<T>(x), d, write_ptr<T>(unit), write_ptr<wide_t<T>>(inverse), begin, end);
    });
  });
  return {unit, inverse};
}

at::Tensor unit_rows_bwd_cpu(const at::Tensor& grad_in, const at::Tensor& x_in, const at::Tensor& inverse_in) {
  const char* op = "unit_rows_bwd";
  MMSSL_CHECK(x_in.dim() == 2 && grad_in.sizes() == x_in.sizes() && grad_in.scalar_type() == x_in.scalar_type(), op,
              "grad and x must both be [rows, d], got ", grad_in.sizes(), " of ", grad_in.scalar_type(), " and ",
              x_in.sizes(), " of ", x_in.scalar_type());
  MMSSL_CHECK(inverse_in.dim() == 1 && inverse_in.size(0) == x_in.size(0) &&
                  inverse_in.scalar_type() == wide_type(x_in.scalar_type()),
              op, "inverse must be [", x_in.size(0), "] of ", wide_type(x_in.scalar_type()), ", got ",
              inverse_in.sizes(), " of ", inverse_in.scalar_type());
  const at::Tensor grad = grad_in.contiguous(), x = x_in.contiguous(), inverse = inverse_in.contiguous();
  const int64_t n_rows = x.size(0), d = x.size(1);
  at::Tensor x_grad = at::empty({n_rows, d}, x.options());
  with_value_type(op, x.scalar_type(), [&](auto value) {
    using T = decltype(value);
    for_rows(0, n_rows, n_rows * d, [&](int64_t begin, int64_t end) {
      MMSSL_DISPATCH(unit_rows_bwd, read_ptr<T>(grad), read_ptr<T>(x), read_ptr<wide_t<T>>(inverse), d,
                     write_ptr<T>(x_grad), begin, end);
    });
  });
  return x_grad;
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("unit_rows", &mmssl::unit_rows_cpu);
  m.impl("unit_rows_bwd", &mmssl::unit_rows_bwd_cpu);
}
