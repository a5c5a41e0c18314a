#include "cpu/isa/modality_mix.h"

#include "cpu/isa/exp_log.h"
#include "cpu/isa/short_rows.h"

namespace mmssl::MMSSL_ISA {
namespace {

// s[h, a, b] = softmax over b of q[a, n, h] . k[b, n, h] * scale, and w[h, b] = its mean over a.
template <typename T, typename A>
inline void attention(const T* q, const T* k, int64_t modalities, int64_t plane, int64_t width, int64_t heads, A scale,
                      A* s, A* w) {
  const int64_t size = heads * modalities * modalities;
  A* logit = s;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t a = 0; a < modalities; ++a) {
      A highest = 0;
      for (int64_t b = 0; b < modalities; ++b) {
        logit[b] = dot(q + a * plane + h * width, k + b * plane + h * width, width) * scale;
        highest = b == 0 || logit[b] > highest ? logit[b] : highest;
      }
      for (int64_t b = 0; b < modalities; ++b) logit[b] -= highest;
      logit += modalities;
    }
  }
  for (int64_t j = 0; j < size; ++j) s[j] = exp_of(s[j]);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t b = 0; b < modalities; ++b) w[h * modalities + b] = 0;
    for (int64_t a = 0; a < modalities; ++a) {
      A* row = s + (h * modalities + a) * modalities;
      A sum = 0;
      for (int64_t b = 0; b < modalities; ++b) sum += row[b];
      const A share = A(1) / sum;
      for (int64_t b = 0; b < modalities; ++b) {
        row[b] *= share;
        w[h * modalities + b] += row[b];
      }
    }
    for (int64_t b = 0; b < modalities; ++b) w[h * modalities + b] /= static_cast<A>(modalities);
  }
}

}  // namespace

template <typename T, typename A>
void modality_mix_fwd(const T* q, const T* k, const T* e, int64_t modalities, int64_t nodes, int64_t d, int64_t heads,
                      A* scratch, T* mixed, int64_t begin, int64_t end) {
  const int64_t width = d / heads, plane = nodes * d;
  const A scale = A(1) / static_cast<A>(__builtin_sqrt(static_cast<double>(width)));
  A* w = scratch + heads * modalities * modalities;
  for (int64_t n = begin; n < end; ++n) {
    attention(q + n * d, k + n * d, modalities, plane, width, heads, scale, scratch, w);
    for (int64_t h = 0; h < heads; ++h) {
      weighted_sum(w + h * modalities, 1, e + n * d, plane, modalities, A(1), d, mixed + (n * heads + h) * d);
    }
  }
}

template <typename T, typename A>
void modality_mix_bwd(const T* grad, const T* q, const T* k, const T* e, int64_t modalities, int64_t nodes, int64_t d,
                      int64_t heads, A* scratch, T* grad_q, T* grad_k, T* grad_e, int64_t begin, int64_t end) {
  const int64_t width = d / heads, plane = nodes * d;
  const A scale = A(1) / static_cast<A>(__builtin_sqrt(static_cast<double>(width)));
  A* s = scratch;                              // [heads, M, M]: the softmax, then the gradient of its logits
  A* w = s + heads * modalities * modalities;  // [heads, M]
  A* grad_w = w + heads * modalities;          // [heads, M]
  for (int64_t n = begin; n < end; ++n) {
    const T* grad_n = grad + n * heads * d;
    attention(q + n * d, k + n * d, modalities, plane, width, heads, scale, s, w);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t b = 0; b < modalities; ++b) {
        grad_w[h * modalities + b] = dot(grad_n + h * d, e + b * plane + n * d, d) / static_cast<A>(modalities);
      }
      for (int64_t a = 0; a < modalities; ++a) {
        A* row = s + (h * modalities + a) * modalities;
        A mean = 0;
        for (int64_t b = 0; b < modalities; ++b) mean += row[b] * grad_w[h * modalities + b];
        for (int64_t b = 0; b < modalities; ++b) row[b] *= grad_w[h * modalities + b] - mean;
      }
      const A* grad_s = s + h * modalities * modalities;
      const int64_t part = n * d + h * width;
      for (int64_t a = 0; a < modalities; ++a) {
        weighted_sum(grad_s + a * modalities, 1, k + part, plane, modalities, scale, width, grad_q + a * plane + part);
        weighted_sum(grad_s + a, modalities, q + part, plane, modalities, scale, width, grad_k + a * plane + part);
      }
    }
    for (int64_t b = 0; b < modalities; ++b) {
      weighted_sum(w + b, modalities, grad_n, d, heads, A(1), d, grad_e + b * plane + n * d);
    }
  }
}

#define MMSSL_INSTANTIATE(T, A)                                                                                        \
  template void modality_mix_fwd<T, A>(const T*, const T*, const T*, int64_t, int64_t, int64_t, int64_t, A*, T*,       \
                                       int64_t, int64_t);                                                              \
  template void modality_mix_bwd<T, A>(const T*, const T*, const T*, const T*, int64_t, int64_t, int64_t, int64_t, A*, \
                                       T*, T*, T*, int64_t, int64_t);
MMSSL_INSTANTIATE(float, float)
MMSSL_INSTANTIATE(double, double)
MMSSL_INSTANTIATE(BFloat16, float)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::MMSSL_ISA
