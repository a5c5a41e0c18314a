// The parts of torch that all CUDA bindings need: the library for registration, the device and the stream.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "cuda/launch.h"

#if defined(MMSSL_CUDA_EMULATED)

// The emulated kernels take CPU tensors, as torch.ops.mmssl_fast_emulated.*
#define MMSSL_CUDA_LIBRARY(m) TORCH_LIBRARY_IMPL(mmssl_fast_emulated, CPU, m)

namespace mmssl::cuda {

// Makes a tensor's device the current one for a scope, and gives its current stream.
class OnDevice {
 public:
  explicit OnDevice(const at::Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};

}  // namespace mmssl::cuda

#else

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#define MMSSL_CUDA_LIBRARY(m) TORCH_LIBRARY_IMPL(mmssl_fast, CUDA, m)

namespace mmssl::cuda {

// Makes a tensor's device the current one for a scope, and gives its current stream.
class OnDevice {
 public:
  explicit OnDevice(const at::Tensor& x) : guard_(x.device()) {}
  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }

 private:
  c10::cuda::CUDAGuard guard_;
};

}  // namespace mmssl::cuda

#endif

namespace mmssl::cuda {

// The stream for a launch: `launch_spmm(args, current_stream(x))`. Use an OnDevice if tensors can be on several
// devices.
inline cudaStream_t current_stream(const at::Tensor& x) { return OnDevice(x).stream(); }

}  // namespace mmssl::cuda
