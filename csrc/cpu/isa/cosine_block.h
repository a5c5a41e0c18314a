// Kernels of cosine_block. Included through common/each_isa.h, so there is no include guard. T is float, double or
// BFloat16. A, the type of arithmetic, is float for BFloat16, else T. Index is int32_t or int64_t. A tile is a range of
// rows times a range of items.
#include <cstdint>

#include "common/bfloat16.h"

namespace mmssl::MMSSL_ISA {

// Writes a tile of products to the block, with 0 at seen entries, while the tile is in cache.
template <typename T, typename A, typename Index>
void cosine_block_place(A* products,  // [rows, width], `stride` apart; may be `block`
                        int64_t stride, int64_t rows, int64_t first_item, int64_t width,
                        const int64_t* crow,  // [rows + 1], or nullptr if there are no seen items
                        const Index* col,     // [nnz], ascending within a row
                        T* block,             // [rows, width], n_items apart
                        int64_t n_items,
                        double* square);  // [rows], += Σ products², or nullptr

// Divides the rows by their lengths. A zero row stays zero and has inverse length 0.
template <typename T, typename A>
void cosine_block_scale(T* block,  // [rows, n_items]
                        int64_t rows, int64_t n_items,
                        const double* square,  // [rows]
                        A* inverse);           // [rows]: 1 / length

// along[r] is the inner product of grad[r] and block[r], for the rows [begin, end).
template <typename T>
void cosine_block_along(const T* grad, const T* block, int64_t n_items, double* along, int64_t begin, int64_t end);

// The gradient of a tile of products: inverse (grad - along block), or grad without inverse, with 0 at seen entries.
template <typename T, typename A, typename Index>
void cosine_block_grad(const T* grad,   // [rows, width], n_items apart
                       const T* block,  // likewise; unused without inverse
                       int64_t n_items, int64_t rows, int64_t first_item, int64_t width,
                       const int64_t* crow,  // [rows + 1] or nullptr
                       const Index* col,
                       const A* inverse,     // [rows] or nullptr
                       const double* along,  // [rows]; unused without inverse
                       A* products);         // [rows, width]

}  // namespace mmssl::MMSSL_ISA
