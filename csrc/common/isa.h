// Which instruction set the CPU kernels run with: chosen once, when the library is loaded.
//
// csrc/cpu/isa/<op>.cpp is compiled once per level into namespace mmssl::<level>. A binding declares the kernels of all
// levels and calls the right one:
//
//   #define MMSSL_KERNELS "cpu/isa/sampled_dot.h"
//   #include "common/each_isa.h"
//   ...
//   MMSSL_DISPATCH(sampled_dot_fwd, crow, col, u, v, ...);
#pragma once

namespace mmssl {

enum class Isa { baseline, avx2, avx512 };

// The best level this processor has, or the one named by the environment variable MMSSL_FAST_ISA (for tests).
// Throws std::runtime_error when that variable names no level, or one that this processor or this build lacks.
Isa isa_in_use();

const char* isa_name(Isa isa);

// Comma-separated names of the levels this library holds.
const char* isa_levels();

}  // namespace mmssl

// Calls mmssl::<level in use>::kernel(...). Template arguments are deduced from the pointers.
#if defined(__x86_64__)
#define MMSSL_DISPATCH(kernel, ...)                    \
  [&] {                                                \
    switch (::mmssl::isa_in_use()) {                   \
      case ::mmssl::Isa::avx512:                       \
        return ::mmssl::avx512::kernel(__VA_ARGS__);   \
      case ::mmssl::Isa::avx2:                         \
        return ::mmssl::avx2::kernel(__VA_ARGS__);     \
      default:                                         \
        return ::mmssl::baseline::kernel(__VA_ARGS__); \
    }                                                  \
  }()
#else
#define MMSSL_DISPATCH(kernel, ...) ::mmssl::baseline::kernel(__VA_ARGS__)
#endif
