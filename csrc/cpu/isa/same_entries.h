// Comparison of the entries of a sparse matrix with a copy of them. Included through common/each_isa.h, so there is no
// include guard.
#include <cstdint>

namespace mmssl::MMSSL_ISA {

// Whether found[0], found[stride], ... are the integers kept[0, n). Limited by memory: both are read once. Stops at the
// first block with a difference.
template <typename Found, typename Kept>
bool same_integers(const Found* found, int64_t stride, const Kept* kept, int64_t n);

}  // namespace mmssl::MMSSL_ISA
