// Kernels of the dense evaluation of equation 5 over the rows [begin, end). Included through common/each_isa.h: no
// include guard. crow, col: the whole graph. Index: int32_t, int64_t. T: float, double (the noise is float32 for both:
// its bits are the definition).
//
// Bound by arithmetic: gumbel_softmax takes some 1.0 ns an entry and thread with AVX-512 at 3.7 GHz; its 340 vector
// instructions for 64 entries would take 0.7 at two a cycle. The two-pass evaluation, of low temperatures and of the
// others, takes 1.8. A row is made, reduced and scaled while it is in L1 or L2.
#include <cstdint>

#include "common/gumbel.h"

namespace mmssl::MMSSL_ISA {

// lse[r] = log sum over i of exp((A + s g) / tau).
template <typename Index>
void gumbel_lse(GumbelNoise noise, const int64_t* crow,  // [U + 1]
                const Index* col,                        // [nnz], ascending within a row
                const int64_t* users,                    // [B], rows of crow
                int64_t n_items,
                double* lse,  // [B]
                int64_t begin, int64_t end);

// out[r][i - first] = exp((A + s g) / tau - lse[r]) for first <= i < last: the softmax's tile.
template <typename Index>
void gumbel_tile(GumbelNoise noise, const int64_t* crow,  // [U + 1]
                 const Index* col,                        // [nnz], ascending within a row
                 const int64_t* users,                    // [B], rows of crow
                 const double* lse,                       // [B]
                 int64_t first, int64_t last,
                 float* out,  // [B, last - first]
                 int64_t begin, int64_t end);

// rows[r] = softmax((A + s g) / tau) + addend rows[r] (when `accumulate`: what rows holds on entry), then divided by
// its length (when `l2`); inv_norm[r] = 1 / that length, 0 for a zero row.
template <typename T, typename Index>
void gumbel_softmax(GumbelNoise noise, const int64_t* crow,  // [U + 1]
                    const Index* col,                        // [nnz], ascending within a row
                    const int64_t* users,                    // [B], rows of crow
                    int64_t n_items, bool accumulate, bool l2,
                    T* rows,      // [B, I]
                    T* inv_norm,  // [B]
                    T* scratch,   // [I], or nullptr without `accumulate`
                    int64_t begin, int64_t end);

// The tail of the above for rows made otherwise: divides each by its length.
template <typename T>
void row_l2(int64_t n_items,
            T* rows,      // [B, I]
            T* inv_norm,  // [B]
            int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
