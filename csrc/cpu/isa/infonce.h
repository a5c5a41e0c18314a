// Kernels of infonce. Included through common/each_isa.h: no include guard. T: float, double. They work on a tile of
// products of anchors with keys while it lies in L2: about a tenth of the time of the GEMM that makes it at d = 64.
#include <cstdint>

namespace mmssl::MMSSL_ISA {

// Takes a tile into each row's running log-sum-exp: with m = highest, sum = Σ exp((s - m) scale).
template <typename T>
void infonce_sum(T* s,  // [rows, width]; the entries left out are set to -inf
                 int64_t rows, int64_t width, int64_t first_key,
                 const int64_t* left_out,  // [rows]: the key a row does without, or nullptr
                 T scale,
                 T* highest,    // [rows], -inf before the first tile
                 double* sum);  // [rows]

// s = weight exp(s scale - lse), 0 for the entries left out: the derivative of Σ weight lse / scale.
template <typename T>
void infonce_weigh(T* s,  // [rows, width]
                   int64_t rows, int64_t width, int64_t first_key,
                   const int64_t* left_out,  // [rows] or nullptr
                   T scale,
                   const T* weight,  // [rows]
                   const T* lse);    // [rows]

// s = exp((s - 1) scale), 0 for the entries left out, and its rows' sums are added to sum: unit rows, whose products
// with each other do not pass 1.
template <typename T>
void infonce_exp(T* s,  // [rows, width]
                 int64_t rows, int64_t width, int64_t first_key,
                 const int64_t* left_out,  // [rows] or nullptr
                 T scale,
                 double* sum);  // [rows]

// Merges the parts' sums of the rows [begin, end): lse = log Σ exp(s scale), term = lse - scale <anchor, positive>.
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
