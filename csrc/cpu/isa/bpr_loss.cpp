#include "cpu/isa/bpr_loss.h"

#include "cpu/isa/exp_log.h"
#include "cpu/isa/lanes.h"

namespace mmssl::MMSSL_ISA {
namespace {

constexpr int64_t kAhead = 4;  // number of triples ahead for which rows are prefetched

template <typename T>
inline void prefetch_row(const T* x, int64_t d) {
  const char* bytes = reinterpret_cast<const char*>(x);
  for (int64_t at = 0; at < d * static_cast<int64_t>(sizeof(T)); at += 64) __builtin_prefetch(bytes + at);
}

// u . (p - n). The difference is computed first, which avoids cancellation for similar items.
template <typename T, typename A>
inline A margin(const T* u, const T* p, const T* n, int64_t d) {
  Lanes<A> sums = {};
  int64_t j = 0;
  for (; j + kLanes<A> <= d; j += kLanes<A>) sums += load_lanes(u + j) * (load_lanes(p + j) - load_lanes(n + j));
  A total = j > 0 ? sum_lanes<A>(sums) : A(0);
  for (; j < d; ++j) total += load(u[j]) * (load(p[j]) - load(n[j]));
  return total;
}

}  // namespace

template <typename T, typename A>
void bpr_loss_fwd(const T* user_emb, int64_t user_stride, const T* item_emb, int64_t item_stride, const int64_t* users,
                  const int64_t* pos, const int64_t* neg, int64_t d, A* loss, A* slope, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    if (b + kAhead < end) {
      prefetch_row(user_emb + users[b + kAhead] * user_stride, d);
      prefetch_row(item_emb + pos[b + kAhead] * item_stride, d);
      prefetch_row(item_emb + neg[b + kAhead] * item_stride, d);
    }
    loss[b] = margin<T, A>(user_emb + users[b] * user_stride, item_emb + pos[b] * item_stride,
                           item_emb + neg[b] * item_stride, d);
  }
  for (int64_t b = begin; b < end; ++b) {
    const A m = loss[b];
    const A small = exp_of(m < 0 ? m : -m);  // exp(-|m|), which does not overflow
    slope[b] = -(m < 0 ? A(1) : small) / (A(1) + small);
    loss[b] = (m < 0 ? -m : A(0)) + log1p_of(small);
  }
}

template <typename T, typename A>
void bpr_loss_bwd_users(const int64_t* crow, const int64_t* triple, const int64_t* rows, const T* item_emb,
                        int64_t item_stride, const int64_t* pos, const int64_t* neg, const A* slope, int64_t d, T* grad,
                        int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    T* y = grad + rows[r] * d;
    int64_t j = 0;
    for (; j + kLanes<A> <= d; j += kLanes<A>) {
      Lanes<A> sum = {};
      for (int64_t k = crow[r]; k < crow[r + 1]; ++k) {
        const int64_t b = triple[k];
        const T *p = item_emb + pos[b] * item_stride + j, *n = item_emb + neg[b] * item_stride + j;
        sum += slope[b] * (load_lanes(p) - load_lanes(n));
      }
      store_lanes(sum, y + j);
    }
    for (; j < d; ++j) {
      A sum = 0;
      for (int64_t k = crow[r]; k < crow[r + 1]; ++k) {
        const int64_t b = triple[k];
        sum += slope[b] * (load(item_emb[pos[b] * item_stride + j]) - load(item_emb[neg[b] * item_stride + j]));
      }
      store(sum, y + j);
    }
  }
}

#define MMSSL_INSTANTIATE(T, A)                                                                             \
  template void bpr_loss_fwd<T, A>(const T*, int64_t, const T*, int64_t, const int64_t*, const int64_t*,    \
                                   const int64_t*, int64_t, A*, A*, int64_t, int64_t);                      \
  template void bpr_loss_bwd_users<T, A>(const int64_t*, const int64_t*, const int64_t*, const T*, int64_t, \
                                         const int64_t*, const int64_t*, const A*, int64_t, T*, int64_t, int64_t);
MMSSL_INSTANTIATE(float, float)
MMSSL_INSTANTIATE(double, double)
MMSSL_INSTANTIATE(BFloat16, float)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::MMSSL_ISA
