#include "cpu/isa/same_entries.h"

namespace mmssl::MMSSL_ISA {

template <typename Found, typename Kept>
bool same_integers(const Found* found, int64_t stride, const Kept* kept, int64_t n) {
  constexpr int64_t kBlock = 2048;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    // The inner loops have no early exit, so that they are vectorised.
    Found different = 0;
    if (stride == 1) {
      for (int64_t i = begin; i < end; ++i) different |= found[i] ^ static_cast<Found>(kept[i]);
    } else {
      for (int64_t i = begin; i < end; ++i) different |= found[i * stride] ^ static_cast<Found>(kept[i]);
    }
    if (different != 0) return false;
  }
  return true;
}

template bool same_integers<int32_t, int32_t>(const int32_t*, int64_t, const int32_t*, int64_t);
template bool same_integers<int64_t, int32_t>(const int64_t*, int64_t, const int32_t*, int64_t);
template bool same_integers<int64_t, int64_t>(const int64_t*, int64_t, const int64_t*, int64_t);

}  // namespace mmssl::MMSSL_ISA
