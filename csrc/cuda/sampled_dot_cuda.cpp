// sampled_dot on CUDA: checks, allocation, stream. The kernel is in sampled_dot.cu.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/sampled_dot_check.h"
#include "cuda/library.h"
#include "cuda/sampled_dot.h"

namespace mmssl::cuda {
namespace {

at::Tensor sampled_dot_op(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& u_in,
                          const at::Tensor& v_in) {
  const char* op = "sampled_dot";
  check_sampled_dot(op, crow, col, u_in, v_in);
  MMSSL_CHECK(crow.scalar_type() == at::kLong && crow.dim() == 1 && crow.is_contiguous(), op,
              "crow must be contiguous int64 [rows + 1], got ", crow.scalar_type(), " ", crow.sizes());
  MMSSL_CHECK(crow.numel() == u_in.size(0) + 1, op, "crow must have ", u_in.size(0) + 1, " offsets for ", u_in.size(0),
              " rows, got ", crow.numel());
  MMSSL_CHECK(col.dim() == 1 && col.is_contiguous(), op, "col must be contiguous [nnz], got ", col.sizes());
  const OnDevice device(u_in);
  const at::Tensor u = u_in.contiguous(), v = v_in.contiguous();
  const at::Tensor s = at::empty({col.numel()}, u.options());
  with_value_type(op, u.scalar_type(), [&](auto value) {
    with_index_type(op, col.scalar_type(), [&](auto index) {
      using T = decltype(value);
      using Index = decltype(index);
      const SampledDotArgs<T, Index> args{
          read_ptr<int64_t>(crow),
          read_ptr<Index>(col),
          read_ptr<T>(u),
          read_ptr<T>(v),
          write_ptr<T>(s),
          u.size(0),
          v.size(0),
          col.numel(),
          u.size(1),
      };
      sampled_dot_cuda(args, device.stream());
    });
  });
  return s;
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) { m.impl("sampled_dot", &mmssl::cuda::sampled_dot_op); }
