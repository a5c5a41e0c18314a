// Declares the kernels of the header MMSSL_KERNELS in the namespace of every instruction set. No include guard: it is
// included once per kernel header, and the kernel headers have none either.
#ifndef MMSSL_KERNELS
#error "define MMSSL_KERNELS as the kernel header's path before including common/each_isa.h"
#endif

#define MMSSL_ISA baseline
#include MMSSL_KERNELS
#undef MMSSL_ISA

#if defined(__x86_64__)
#define MMSSL_ISA avx2
#include MMSSL_KERNELS
#undef MMSSL_ISA
#define MMSSL_ISA avx512
#include MMSSL_KERNELS
#undef MMSSL_ISA
#endif

#undef MMSSL_KERNELS
