// CUDA C++ on the CPU: enough of the language to run csrc/cuda's kernels without a GPU, for tests of their results.
//
// Blocks run one after another. A block's threads are fibers: each runs until it waits for others (__syncthreads, a
// warp intrinsic) or ends; odd blocks run theirs in reverse order, so that a missing barrier shows. What a real GPU
// would leave undefined is an error here: lanes of a warp that do not all come, a block that waits for a thread for
// ever. Dynamic shared memory is filled with NaN before every block. Needs a POSIX system; one kernel at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define MMSSL_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(mmssl::cuda::emulated::shared_memory())
#define MMSSL_DEVICE_CHECK(condition) \
  ((condition) ? void(0) : throw std::runtime_error("device check failed: " #condition))

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define MMSSL_VECTOR(T, name, bytes2, bytes4)                \
  struct alignas(bytes2) name##2 { T x, y; };                \
  struct name##3 { T x, y, z; };                             \
  struct alignas(bytes4) name##4 { T x, y, z, w; };          \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
MMSSL_VECTOR(float, float, 8, 16)
MMSSL_VECTOR(double, double, 16, 16)
MMSSL_VECTOR(int, int, 8, 16)
MMSSL_VECTOR(long long, longlong, 16, 16)
MMSSL_VECTOR(unsigned short, ushort, 4, 8)
#undef MMSSL_VECTOR
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace mmssl::cuda {

inline void check(cudaError_t, const char*) {}
inline int multiprocessors() { return 2; }

namespace emulated {

// Runs body() as every thread of every block. Throws std::runtime_error that names the kernel and the block.
void run(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);
void* shared_memory();
void wait_for_block();
// Gives `value` (at most 16 bytes) to the lanes of `mask`, waits for theirs; returns all 32 places, 16 bytes each.
const unsigned char* exchange(unsigned mask, const void* value, size_t bytes);
int lane();

template <typename T>
T from_lane(const unsigned char* places, int lane) {
  T value;
  std::memcpy(&value, places + 16 * lane, sizeof(T));
  return value;
}

template <typename T>
T shuffle(unsigned mask, T value, int source, int width, bool inside) {
  static_assert(sizeof(T) <= 16);
  const unsigned char* places = exchange(mask, &value, sizeof(T));
  const int at = lane() / width * width + source;
  if (!inside) return value;
  if (!(mask >> at & 1u)) throw std::runtime_error("a shuffle reads lane " + std::to_string(at) + ", not in its mask");
  return from_lane<T>(places, at);
}

template <typename T, typename F>
T reduce(unsigned mask, T value, F f) {
  const unsigned char* places = exchange(mask, &value, sizeof(T));
  bool first = true;
  T total{};
  for (int at = 0; at < 32; ++at) {
    if (!(mask >> at & 1u)) continue;
    const T other = from_lane<T>(places, at);
    total = first ? other : f(total, other);
    first = false;
  }
  return total;
}

}  // namespace emulated

template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            A&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  emulated::run(name, grid, block, shared_bytes, [&] { kernel(static_cast<P>(args)...); });
}

}  // namespace mmssl::cuda

inline void __syncthreads() { mmssl::cuda::emulated::wait_for_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { mmssl::cuda::emulated::exchange(mask, nullptr, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return mmssl::cuda::emulated::shuffle(mask, value, source & (width - 1), width, true);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int source = mmssl::cuda::emulated::lane() % width - static_cast<int>(delta);
  return mmssl::cuda::emulated::shuffle(mask, value, source, width, source >= 0);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int source = mmssl::cuda::emulated::lane() % width + static_cast<int>(delta);
  return mmssl::cuda::emulated::shuffle(mask, value, source, width, source < width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  const int source = (mmssl::cuda::emulated::lane() % width) ^ with;
  return mmssl::cuda::emulated::shuffle(mask, value, source, width, source < width);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned char* places = mmssl::cuda::emulated::exchange(mask, &predicate, sizeof(int));
  unsigned found = 0;
  for (int at = 0; at < 32; ++at) {
    if (mask >> at & 1u && mmssl::cuda::emulated::from_lane<int>(places, at) != 0) found |= 1u << at;
  }
  return found;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return mmssl::cuda::emulated::reduce(mask, value, [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_add_sync(unsigned mask, int value) {
  return mmssl::cuda::emulated::reduce(mask, value, [](int a, int b) { return a + b; });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value) {
  return mmssl::cuda::emulated::reduce(mask, value, [](T a, T b) { return a < b ? a : b; });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value) {
  return mmssl::cuda::emulated::reduce(mask, value, [](T a, T b) { return a > b ? a : b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return mmssl::cuda::emulated::reduce(mask, value, [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return mmssl::cuda::emulated::reduce(mask, value, [](unsigned a, unsigned b) { return a & b; });
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const unsigned char* places = mmssl::cuda::emulated::exchange(mask, &value, sizeof(T));
  unsigned found = 0;
  for (int at = 0; at < 32; ++at) {
    if (mask >> at & 1u && mmssl::cuda::emulated::from_lane<T>(places, at) == value) found |= 1u << at;
  }
  return found;
}

template <typename T, typename U>
T atomicAdd(T* at, U value) {
  return std::exchange(*at, static_cast<T>(*at + static_cast<T>(value)));
}
template <typename T, typename U>
T atomicMax(T* at, U value) {
  return std::exchange(*at, *at < static_cast<T>(value) ? static_cast<T>(value) : *at);
}
template <typename T, typename U>
T atomicMin(T* at, U value) {
  return std::exchange(*at, static_cast<T>(value) < *at ? static_cast<T>(value) : *at);
}
template <typename T, typename U>
T atomicOr(T* at, U value) {
  return std::exchange(*at, static_cast<T>(*at | static_cast<T>(value)));
}
template <typename T, typename U>
T atomicExch(T* at, U value) {
  return std::exchange(*at, static_cast<T>(value));
}
template <typename T, typename U, typename V>
T atomicCAS(T* at, U expected, V value) {
  return std::exchange(*at, *at == static_cast<T>(expected) ? static_cast<T>(value) : *at);
}

template <typename T>
T __ldg(const T* at) {
  return *at;
}
template <typename T>
T __ldcs(const T* at) {
  return *at;
}
template <typename T>
void __stcs(T* at, T value) {
  *at = value;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

namespace mmssl::cuda::emulated {
template <typename To, typename From>
To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof(To));
  return y;
}
}  // namespace mmssl::cuda::emulated
inline unsigned __float_as_uint(float x) { return mmssl::cuda::emulated::bits<unsigned>(x); }
inline int __float_as_int(float x) { return mmssl::cuda::emulated::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return mmssl::cuda::emulated::bits<float>(x); }
inline float __int_as_float(int x) { return mmssl::cuda::emulated::bits<float>(x); }
inline long long __double_as_longlong(double x) { return mmssl::cuda::emulated::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return mmssl::cuda::emulated::bits<double>(x); }

template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
