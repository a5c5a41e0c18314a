// The launch of CUDA kernels, and the functions that they may use in addition to plain CUDA C++. Every .cu file
// includes this header and no torch header.
//
// The sources can also be compiled for the CPU with tests/emulator/cuda_emulated.h (MMSSL_CUDA_EMULATED), in which
// every thread of a block is a fiber. In this way their results are tested without a GPU. Kernels must only use
// functions that the emulation provides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#if defined(MMSSL_CUDA_EMULATED)
#include "cuda_emulated.h"
#else
#include <cassert>  // CUDA declares __assert_fail for the device with it

#include <cuda_runtime.h>

// Declares T* name, the dynamic shared memory of the block, aligned to 16 bytes.
#define MMSSL_DYNAMIC_SHARED(T, name)                           \
  extern __shared__ __align__(16) unsigned char mmssl_shared[]; \
  T* const name = reinterpret_cast<T*>(mmssl_shared)

// Stops the kernel with a device-side assertion. For checks of indices, which the host cannot read without waiting.
#define MMSSL_DEVICE_CHECK(condition) \
  ((condition) ? void(0) : __assert_fail(#condition, "mmssl_fast", __LINE__, __func__))

namespace mmssl::cuda {

inline void check(cudaError_t error, const char* name) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(error));
  }
}

#if defined(__CUDACC__)  // bindings include this header, too, and the host compiler does not support launches
// Calls kernel<<<grid, block, shared_bytes, stream>>>(args...), unless the grid is empty. If the kernel cannot be
// launched, throws std::runtime_error with its name.
template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          name);
  }
  // clang-format off
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(std::forward<A>(args))...);
  // clang-format on
  check(cudaGetLastError(), name);
}
#endif

// The number of multiprocessors of the current device, for grids that fill it once.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

}  // namespace mmssl::cuda
#endif

namespace mmssl::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

}  // namespace mmssl::cuda
