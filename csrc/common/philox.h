// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011), for host and
// device.
//
// The CPU and CUDA kernels share this source. `philox4x32` in mmssl_fast/reference.py is the definition. The counter of
// an entry is (column / 4, row, offset, stream), and its lane is column % 4. The bits of an entry depend on nothing
// else, so they are the same for every tiling, number of threads and device.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define MMSSL_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always inlined, because the linker keeps one out-of-line copy of a function, which could be the one for AVX-512.
#define MMSSL_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace mmssl {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// The last word of the counter, which differs between uses of the same seed and offset. The order is that of
// reference.py.
enum PhiloxStream : uint32_t {
  kStreamDense = 0,
  kStreamGap = 1,
  kStreamItem = 2,
  kStreamPositive = 3,
  kStreamNegative = 4,
  kStreamUser = 5,
  kStreamAlpha = 6,
  kStreamDropout = 7,
};

struct Philox4 {
  uint32_t word[4];
};

struct PhiloxKey {
  uint32_t low;
  uint32_t high;
};

MMSSL_HOST_DEVICE PhiloxKey philox_key(uint64_t seed) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
}

MMSSL_HOST_DEVICE Philox4 philox4x32(PhiloxKey key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kPhiloxMultiplier0) * c0;
    const uint64_t p1 = static_cast<uint64_t>(kPhiloxMultiplier1) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key.low;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key.high;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    key.low += kPhiloxWeyl0;
    key.high += kPhiloxWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

// floor((w1 2^32 + w0) n / 2^64): an index uniform over [0, n), n < 2^31, from two words (reference.uniform64).
MMSSL_HOST_DEVICE int64_t uniform64(uint32_t w0, uint32_t w1, int64_t n) {
  const uint64_t m = static_cast<uint64_t>(n);
  return static_cast<int64_t>((w1 * m + ((w0 * m) >> 32)) >> 32);
}

// The uniform of an Exp(1) draw: (k + 1/2) 2^-32 in float32, at most 1 - 2^-24, so that neither logarithm is infinite.
MMSSL_HOST_DEVICE float unit_from_bits(uint32_t bits) {
  const float v = static_cast<float>(bits) * 0x1p-32f + 0x1p-33f;
  return v < 1.0f - 0x1p-24f ? v : 1.0f - 0x1p-24f;
}

}  // namespace mmssl
