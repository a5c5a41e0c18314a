// Kernels of bpr_loss for the triples [begin, end). Included through common/each_isa.h, so there is no include guard.
// T is float, double or BFloat16 (A = float). Rows may have any stride. Every index must be in range.
#include <cstdint>

#include "common/bfloat16.h"

namespace mmssl::MMSSL_ISA {

// With the margin m_b = u[users[b]] . (i[pos[b]] - i[neg[b]]), loss[b] = -log sigmoid(m_b) and
// slope[b] = d loss[b] / d m_b = -sigmoid(-m_b). Limited by memory: three gathered rows of d values per triple.
template <typename T, typename A>
void bpr_loss_fwd(const T* user_emb, int64_t user_stride,  // [U, d]
                  const T* item_emb, int64_t item_stride,  // [I, d]
                  const int64_t* users, const int64_t* pos, const int64_t* neg, int64_t d, A* loss, A* slope,
                  int64_t begin, int64_t end);

// The gradient of the users rows[begin, end): grad[rows[r]] is the sum of slope[b] (i[pos[b]] - i[neg[b]]) over the
// triples b of row r, in their order.
template <typename T, typename A>
void bpr_loss_bwd_users(const int64_t* crow, const int64_t* triple, const int64_t* rows,  // as csr_transpose gives them
                        const T* item_emb, int64_t item_stride, const int64_t* pos, const int64_t* neg, const A* slope,
                        int64_t d,
                        T* grad,  // [U, d]
                        int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
