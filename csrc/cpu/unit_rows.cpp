// unit_rows on the CPU: checks, allocation, threads. The arithmetic is in isa/unit_rows.cpp.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/dispatch.h"
#include "common/factors.h"
#include "common/isa.h"
#include "common/unit_rows_check.h"
#include "cpu/parallel.h"

#define MMSSL_KERNELS "cpu/isa/unit_rows.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

std::tuple<at::Tensor, at::Tensor> unit_rows_cpu(const at::Tensor& x_in) {
  const char* op = "unit_rows";
  check_unit_rows(op, x_in);
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
  check_unit_rows_bwd(op, grad_in, x_in, inverse_in);
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
