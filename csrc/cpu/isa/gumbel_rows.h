// Kernels of the dense evaluation of equation 5 for the rows [begin, end). Included through common/each_isa.h, so there
// is no include guard. crow and col are the whole graph. Index is int32_t or int64_t. T is float or double; the noise
// is float32 for both, because its bits are part of the definition.
//
// Limited by arithmetic. gumbel_softmax takes about 1.0 ns per entry and thread with AVX-512 at 3.7 GHz. Its 340 vector
// instructions for 64 entries would take 0.7 ns at two instructions per cycle. The evaluation in two passes, which low
// temperatures and the other kernels use, takes 1.8 ns. A row is generated, reduced and scaled while it is in L1 or L2.
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

// out[r][i - first] = exp((A + s g) / tau - lse[r]) for first <= i < last: a tile of the softmax.
template <typename Index>
void gumbel_tile(GumbelNoise noise, const int64_t* crow,  // [U + 1]
                 const Index* col,                        // [nnz], ascending within a row
                 const int64_t* users,                    // [B], rows of crow
                 const double* lse,                       // [B]
                 int64_t first, int64_t last,
                 float* out,  // [B, last - first]
                 int64_t begin, int64_t end);

// rows[r] = softmax((A + s g) / tau), plus addend times the rows on entry (if `accumulate`), divided by the length (if
// `l2`). inv_norm[r] is the inverse length, 0 for a zero row.
template <typename T, typename Index>
void gumbel_softmax(GumbelNoise noise, const int64_t* crow,  // [U + 1]
                    const Index* col,                        // [nnz], ascending within a row
                    const int64_t* users,                    // [B], rows of crow
                    int64_t n_items, bool accumulate, bool l2,
                    T* rows,      // [B, I]
                    T* inv_norm,  // [B]
                    T* scratch,   // [I], or nullptr without `accumulate`
                    int64_t begin, int64_t end);

// Divides every row by its length, for rows that were computed by other kernels.
template <typename T>
void row_l2(int64_t n_items,
            T* rows,      // [B, I]
            T* inv_norm,  // [B]
            int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
