// propagate and lightgcn on CUDA: sequences of the row-wise sums in spmm.cu, with the degree scales as their factors
// and the mean over layers formed in their epilogue.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "common/lightgcn.h"
#include "cuda/library.h"
#include "cuda/spmm_run.h"

namespace mmssl::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// t_crow, t_col and t_value are what backward propagates along; forward does not read them.
at::Tensor propagate_cuda(const at::Tensor& crow, const at::Tensor& col, const OptionalTensor& value,
                          const at::Tensor& t_crow, const at::Tensor& t_col, const OptionalTensor& t_value,
                          const OptionalTensor& row_scale, const OptionalTensor& col_scale, const at::Tensor& x) {
  return call_spmm("propagate", crow, col, value, row_scale, col_scale, x, run_spmm);
}

std::tuple<at::Tensor, at::Tensor> lightgcn_cuda(const at::Tensor& crow, const at::Tensor& col,
                                                 const OptionalTensor& value, const at::Tensor& t_crow,
                                                 const at::Tensor& t_col, const OptionalTensor& t_value,
                                                 const OptionalTensor& users_receive, const OptionalTensor& users_send,
                                                 const OptionalTensor& items_receive, const OptionalTensor& items_send,
                                                 const at::Tensor& users, const at::Tensor& items, int64_t layers) {
  return call_lightgcn(run_spmm, crow, col, value, t_crow, t_col, t_value, users_receive, users_send, items_receive,
                       items_send, users, items, layers);
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) {
  m.impl("lightgcn", &mmssl::cuda::lightgcn_cuda);
  m.impl("propagate", &mmssl::cuda::propagate_cuda);
}
