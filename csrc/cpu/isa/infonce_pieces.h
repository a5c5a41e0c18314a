// Kernels of infonce on processors that multiply bfloat16 numbers and add in float32: by the matrix unit of AMX, or by
// vector instructions (AVX512-BF16).
// Included through common/each_isa.h, so there is no include guard. They are defined for avx512 only.
//
// A float32 number is the sum of up to three bfloat16 numbers, its pieces: its 8 leading bits, the 8 leading bits of
// the rest, and the next 8. Both kinds of instructions read the left factor of a product row by row, and the right
// factor with the entries of two rows next to each other ("pairs").
//
// The products of a tile are [keys, anchors], so that the sums of an anchor are in the lanes of vectors, and the
// weights of the tile can be written in both layouts without a transposition.
#include <cstdint>

#include "common/bfloat16.h"

namespace mmssl::MMSSL_ISA {

constexpr int64_t kPiecesKeys = 128;  // keys of a tile
constexpr int64_t kPiecesStep = 32;   // keys whose products with a group of anchors are in L1 at once

// Sets up the matrix unit for the thread, and switches it off.
void matrix_unit_begin();
void matrix_unit_end();

// c = a b, or c += a b. With three pieces, the six products of pieces whose sizes are above 2^-24 of the product. m, n
// and k are multiples of 32.
void pieces_product(int64_t m, int64_t n, int64_t k,
                    const BFloat16* a,  // [pieces, m, k], a_size values per piece
                    int64_t a_size,
                    const BFloat16* b,  // [pieces, k / 2, n, 2], b_size values per piece
                    int64_t b_size, int pieces, bool add,
                    float* c);  // [m, n]

// The same with one piece, by vector instructions: no matrix unit is set up. The left factor may also be the transpose
// of a matrix in pairs.
void vector_product(int64_t m, int64_t n, int64_t k,
                    const BFloat16* a,  // [m, k], or in pairs: [k / 2, m, 2]
                    bool in_pairs,
                    const BFloat16* b,  // [k / 2, n, 2]
                    bool add,
                    float* c);  // [m, n]

// The pieces of x times scale: rows [n_rows, width], filled up with 0.
void pieces_rows(const float* x,      // [rows, d]
                 const float* scale,  // [rows], or nullptr
                 int64_t rows, int64_t d, int64_t n_rows, int64_t width, int pieces,
                 BFloat16* out);  // [pieces, n_rows, width]

// The transposed matrices: [pieces, width, n_rows].
void pieces_transposed(const BFloat16* rows,  // [pieces, n_rows, width]
                       int64_t n_rows, int64_t width, int pieces, BFloat16* out);

// Pairs of the rows of the transposed matrices: [pieces, width / 2, n_rows, 2].
void pieces_transposed_pairs(const BFloat16* rows,  // [pieces, n_rows, width]
                             int64_t n_rows, int64_t width, int pieces, BFloat16* out);

// Pairs of rows: [pieces, n_rows / 2, width, 2].
void pieces_pairs(const BFloat16* rows,  // [pieces, n_rows, width]; width is a multiple of 32
                  int64_t n_rows, int64_t width, int pieces, BFloat16* out);

// sum[a] += Σ over the keys of exp2(s scale - shift).
void pieces_sum(const float* s,  // [keys, width]; width is a multiple of 32
                int64_t keys, int64_t width, float scale, float shift,
                double* sum);  // [width]

// The pieces of the weights exp2(s scale - shift[a]) of kPiecesStep keys in both layouts, at their place in the
// matrices of a tile. The keys after `keys` have weight 0.
void pieces_weigh(const float* s,  // [kPiecesStep, width]; width is a multiple of 32
                  int64_t keys, int64_t width, float scale,
                  const float* shift,  // [width]
                  int pieces, int64_t first_key,
                  BFloat16* rows,    // [pieces, kPiecesKeys, width]
                  BFloat16* pairs);  // [pieces, kPiecesKeys / 2, width, 2]

// The same with one piece and the weights exp2((s - 1) scale). sum[a] += Σ of the weights, before they are rounded.
void pieces_exp(const float* s,  // [kPiecesStep, width]; width is a multiple of 32
                int64_t keys, int64_t width, float scale, int64_t first_key,
                BFloat16* rows,   // [kPiecesKeys, width]
                BFloat16* pairs,  // [kPiecesKeys / 2, width, 2]
                double* sum);     // [width]

}  // namespace mmssl::MMSSL_ISA
