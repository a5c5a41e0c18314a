// The instruction set of the CPU kernels, which is chosen when the library is loaded.
//
// csrc/cpu/isa/<op>.cpp is compiled once per level into the namespace mmssl::<level>. A binding declares the kernels of
// all levels and calls the right one:
//
//   #define MMSSL_KERNELS "cpu/isa/sampled_dot.h"
//   #include "common/each_isa.h"
//   ...
//   MMSSL_DISPATCH(sampled_dot_fwd, crow, col, u, v, ...);
#pragma once

namespace mmssl {

enum class Isa { baseline, avx2, avx512 };

// The best level that the processor supports, or the level in the environment variable MMSSL_FAST_ISA (for tests).
// Throws std::runtime_error if the variable is not the name of a level, or the processor or the build does not support
// the level.
Isa isa_in_use();

const char* isa_name(Isa isa);

// The comma-separated names of the levels in this library.
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
