// Kernels of act_norm_dropout. Included through common/each_isa.h, so there is no include guard. T is float or double.
//
// An op visits its inputs twice, in the order of memory: the first visit adds up sums over the rows, and the second
// one, which needs the sums, computes the results. Memory traffic per entry: forward reads z twice and writes out;
// backward reads z and grad twice and writes d_z; the second derivative reads z, grad and gg_z twice and writes d_grad
// and d_z. Every entry also needs one Philox word. The first visit keeps one bit of it for the second.
//
// Threads take chunks of kNormRows rows. The sums of a chunk are stored apart and added in the order of the chunks, so
// that they do not depend on the threads. Sums of up to 32 rows are in T, and larger ones in double.
#include <cstdint>

#include "common/norm_args.h"

namespace mmssl::MMSSL_ISA {

// out = m (weight (a - mean) / sqrt(variance + eps) + bias) with a = leaky_relu(z, slope) and the dropout factors m.
template <typename T>
void act_norm_dropout_fwd_sums(const NormArgs<T>& in, int64_t chunk);
template <typename T>
void act_norm_dropout_fwd_factors(const NormArgs<T>& in,
                                  T* mean,     // [H], in.mean
                                  T* variance  // [H], in.variance
);
template <typename T>
void act_norm_dropout_fwd_apply(const NormArgs<T>& in,
                                const T* bias,  // [H]
                                T* out,         // [rows, H]
                                int64_t chunk);

template <typename T>
void act_norm_dropout_bwd_prepare(const NormArgs<T>& in);  // before the sums of both derivatives
template <typename T>
void act_norm_dropout_bwd_sums(const NormArgs<T>& in, int64_t chunk);
template <typename T>
void act_norm_dropout_bwd_factors(const NormArgs<T>& in,
                                  T* d_weight,  // [H]
                                  T* d_bias     // [H]
);
template <typename T>
void act_norm_dropout_bwd_apply(const NormArgs<T>& in,
                                T* d_z,  // [rows, H]
                                int64_t chunk);

// The derivative of act_norm_dropout_bwd: gg_* are the gradients of the loss with respect to its outputs d_*.
template <typename T>
void act_norm_dropout_bwd_bwd_sums(const NormArgs<T>& in, int64_t chunk);
template <typename T>
void act_norm_dropout_bwd_bwd_factors(const NormArgs<T>& in,
                                      const T* gg_weight,  // [H]
                                      const T* gg_bias,    // [H]
                                      T* d_weight          // [H]
);
template <typename T>
void act_norm_dropout_bwd_bwd_apply(const NormArgs<T>& in,
                                    T* d_grad,  // [rows, H]
                                    T* d_z,     // [rows, H]
                                    int64_t chunk);

}  // namespace mmssl::MMSSL_ISA
