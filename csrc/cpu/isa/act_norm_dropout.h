// Kernels of act_norm_dropout for blocks of 64 columns [begin, end). Included through common/each_isa.h, so there is no
// include guard. T is float or double.
//
// A block of 2048 rows of float is 512 KiB, so all passes after the first read the cache. Memory traffic per entry:
// forward reads z and writes y; backward reads z and grad and writes d_z; the second derivative reads z, grad and gg_z
// and writes d_grad and d_z. Every entry also needs one Philox word, and two in the second derivative. Sums over rows
// are in double and in the order of the rows.
#include <cstdint>

#include "common/dropout.h"

namespace mmssl::MMSSL_ISA {

// out = m (weight (a - mean) / sqrt(variance + eps) + bias) with a = leaky_relu(z, slope) and the dropout factors m.
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

// The derivative of act_norm_dropout_bwd: gg_* are the gradients of the loss with respect to its outputs d_*.
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
