// The little that the C++ tests need: CHECK, random numbers, and rows shared between threads.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "common/isa.h"

#define CHECK(rule, ...)                                              \
  do {                                                                \
    if (!(rule)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #rule); \
      std::fprintf(stderr, __VA_ARGS__);                              \
      std::fprintf(stderr, "\n");                                     \
      std::exit(1);                                                   \
    }                                                                 \
  } while (0)

#define MMSSL_STRING_(x) #x
#define MMSSL_STRING(x) MMSSL_STRING_(x)

// Leaves with ctest's code for "skipped" when this processor lacks the level the test was compiled for.
inline void skip_unless_level_is_here() {
  const char* order[] = {"baseline", "avx2", "avx512"};
  const int have = static_cast<int>(mmssl::isa_in_use());
  for (int i = 0; i <= have; ++i) {
    if (std::strcmp(order[i], MMSSL_STRING(MMSSL_ISA)) == 0) return;
  }
  std::exit(77);
}

// The same numbers on every machine: a 64-bit linear congruential generator.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t bits() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(state_ >> 32);
  }
  double uniform() { return bits() * 0x1p-31 - 1.0; }  // in [-1, 1)
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

 private:
  uint64_t state_;
};

// f(begin, end) on both halves of [0, n) at once, as at::parallel_for would.
template <typename F>
void in_two_threads(int64_t n, F f) {
  std::thread first([&] { f(int64_t{0}, n / 2); });
  f(n / 2, n);
  first.join();
}
