// Kernels of infonce. Included through common/each_isa.h, so there is no include guard. T is float or double. They
// process a tile of products of anchors with keys while it is in L2, which takes about a tenth of the time of the GEMM
// that computes it for d = 64.
#include <cstdint>

namespace mmssl::MMSSL_ISA {

// Adds a tile to the running log-sum-exp of every row: sum = Σ exp((s - highest) scale).
template <typename T>
void infonce_sum(T* s,  // [rows, width]; excluded entries are set to -inf
                 int64_t rows, int64_t width, int64_t first_key,
                 const int64_t* left_out,  // [rows]: the key that is excluded for a row, or nullptr
                 T scale,
                 T* highest,    // [rows], -inf before the first tile
                 double* sum);  // [rows]

// s = weight exp(s scale - lse), 0 for excluded entries: the derivative of Σ weight lse / scale.
template <typename T>
void infonce_weigh(T* s,  // [rows, width]
                   int64_t rows, int64_t width, int64_t first_key,
                   const int64_t* left_out,  // [rows] or nullptr
                   T scale,
                   const T* weight,  // [rows]
                   const T* lse);    // [rows]

// s = exp((s - 1) scale), 0 for excluded entries, and the sums of its rows are added to `sum`. The shift by 1 is
// enough, because the products of unit rows are at most 1.
template <typename T>
void infonce_exp(T* s,  // [rows, width]
                 int64_t rows, int64_t width, int64_t first_key,
                 const int64_t* left_out,  // [rows] or nullptr
                 T scale,
                 double* sum);  // [rows]

// Rounds to bfloat16, ties to even.
void infonce_round(float* x,  // [n]
                   int64_t n);

// Merges the sums of the parts for the rows [begin, end): lse = log Σ exp(s scale), and term = lse minus scale times
// the inner product of anchor and positive.
template <typename T>
void infonce_finish(const T* highest,   // [parts, rows]
                    const double* sum,  // [parts, rows]
                    int64_t parts, int64_t rows, T scale,
                    const T* anchors,    // [rows, d]
                    const T* positives,  // [rows, d]
                    int64_t d,
                    T* lse,   // [rows]
                    T* term,  // [rows]
                    int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
