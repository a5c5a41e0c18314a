// Kernels of modality_mix for the nodes [begin, end). Included through common/each_isa.h, so there is no include guard.
// T is float, double or BFloat16 (A = float). All arrays are contiguous. d is a multiple of heads.
#include <cstdint>

#include "common/bfloat16.h"
#include "common/mix_nodes.h"

namespace mmssl::MMSSL_ISA {

// mixed[n, h] = sum over b of w[h, b] e[b, n], where w[h, b] is the mean over a of softmax_b(q[a, n, h] . k[b, n, h] /
// sqrt(d / heads)). Limited by memory: reads 3 M d values per node and writes heads d. The softmax is in `scratch`.
template <typename T, typename A>
void modality_mix_fwd(const T* q,  // [M, N, d]; head h has columns [h d / heads, (h + 1) d / heads)
                      const T* k,  // [M, N, d]
                      const T* e,  // [M, N, d]
                      int64_t modalities, int64_t nodes, int64_t d, int64_t heads,
                      A* scratch,  // [mix_scratch(heads, M)], not shared with other calls
                      T* mixed,    // [N, heads, d]
                      int64_t begin, int64_t end);

// The gradients of q, k and e. The attention weights are computed again.
template <typename T, typename A>
void modality_mix_bwd(const T* grad,  // [N, heads, d]
                      const T* q, const T* k, const T* e, int64_t modalities, int64_t nodes, int64_t d, int64_t heads,
                      A* scratch,  // [mix_scratch(heads, M)], not shared with other calls
                      T* grad_q, T* grad_k, T* grad_e, int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
