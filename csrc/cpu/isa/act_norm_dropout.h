// Kernels of act_norm_dropout over blocks of 64 columns [begin, end). Included through common/each_isa.h: no include
// guard. T: float, double.
//
// A block of 2048 rows of float is 512 KiB: its passes after the first read the cache. From memory comes and goes, an
// entry: forward z in and y out; backward z, grad in and d_z out; its derivative z, grad, gg_z in and d_grad, d_z out.
// Beside that a Philox word an entry and, in the derivative, two. Sums over rows run in row order, in double.
#include <cstdint>

#include "common/dropout.h"

namespace mmssl::MMSSL_ISA {

// out = m (weight (a - mean) / sqrt(variance + eps) + bias), a = leaky_relu(z, slope), m the dropout's factors.
template <typename T>
void act_norm_dropout_fwd(const T* z,  // [rows, columns]
                          int64_t rows, int64_t columns,
                          const T* weight,  // [columns]
                          const T* bias,    // [columns]
                          double slope, double eps, Dropout dropout,
                          T* out,       // [rows, columns]
                          T* mean,      // [columns], of a
                          T* variance,  // [columns], of a, by rows
                          int64_t begin, int64_t end);

template <typename T>
void act_norm_dropout_bwd(const T* grad,      // [rows, columns]
                          const T* z,         // [rows, columns]
                          const T* mean,      // [columns]
                          const T* variance,  // [columns]
                          const T* weight,    // [columns]
                          int64_t rows, int64_t columns, double slope, double eps, Dropout dropout,
                          T* d_z,       // [rows, columns]
                          T* d_weight,  // [columns]
                          T* d_bias,    // [columns]
                          int64_t begin, int64_t end);

// The derivative of act_norm_dropout_bwd: gg_* is the loss's with respect to its d_*.
template <typename T>
void act_norm_dropout_bwd_bwd(const T* gg_z,       // [rows, columns]
                              const T* gg_weight,  // [columns]
                              const T* gg_bias,    // [columns]
                              const T* grad,       // [rows, columns]
                              const T* z,          // [rows, columns]
                              const T* mean,       // [columns]
                              const T* variance,   // [columns]
                              const T* weight,     // [columns]
                              int64_t rows, int64_t columns, double slope, double eps, Dropout dropout,
                              T* d_grad,    // [rows, columns]
                              T* d_z,       // [rows, columns]
                              T* d_weight,  // [columns]
                              int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
