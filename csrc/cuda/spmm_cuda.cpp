// spmm and spmm_add_ on CUDA: checks, allocation, stream. The kernels are in spmm.cu.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cuda/library.h"
#include "cuda/spmm.h"
#include "cuda/spmm_run.h"

namespace mmssl::cuda {
namespace {

// Memory for the partial sums, in the type of the factors.
template <typename T, typename A, typename Index>
void run_kernels(const char* op, const SpmmArgs<T, A, Index>& args, const SpmmSizes& sizes, const at::Tensor& partial,
                 cudaStream_t stream) {
  spmm_cuda(op, args, sizes, write_ptr<A>(partial), stream);
}

}  // namespace

void run_spmm(const char* op, const SpmmCall& call) {
  const OnDevice device(call.x);
  with_spmm_args(op, call, [&](const auto& args, const SpmmShape& shape) {
    const at::Tensor partial = at::empty({spmm_partial_rows(shape.nnz), args.d}, call.x.options().dtype(shape.sums));
    const SpmmSizes sizes{shape.n_rows, shape.n_cols, shape.nnz, call.total.defined() ? call.total.size(0) : 0};
    run_kernels(op, args, sizes, partial, device.stream());
  });
}

namespace {

void spmm_add_op(at::Tensor& out, const at::Tensor& rows, const at::Tensor& crow, const at::Tensor& col,
                 const std::optional<at::Tensor>& value, const at::Tensor& x) {
  run_spmm("spmm_add_", spmm_add_call("spmm_add_", out, rows, crow, col, value, x));
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) {
  m.impl("spmm", &mmssl::spmm_op<mmssl::cuda::run_spmm>);
  m.impl("spmm_add_", &mmssl::cuda::spmm_add_op);
}
