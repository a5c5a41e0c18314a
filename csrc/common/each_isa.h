// Declares the kernels of the header MMSSL_KERNELS in the namespace of every instruction set. There is no include
// guard, because the file is included once per kernel header. The kernel headers have none for the same reason.
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
