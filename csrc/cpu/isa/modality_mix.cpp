#include "cpu/isa/modality_mix.h"

#include "cpu/isa/exp_log.h"
#include "cpu/isa/short_rows.h"

#define MMSSL_INLINE __attribute__((always_inline))

namespace mmssl::MMSSL_ISA {
namespace {

// kMixNodes consecutive nodes. The scratch arrays have a value per node in their last dimension, so that the softmax is
// computed for all nodes at once; values of nodes beyond `count` are copies of the last one's.
template <bool all, typename T, typename A>
struct Nodes {
  int64_t count, modalities, plane, d, heads, width;
  A scale;
  A* s;         // [heads, M, M, kMixNodes]: the softmax, in the backward pass then the gradient of its logits
  A* w;         // [heads, M, kMixNodes]
  A* grad_w;    // [heads, M, kMixNodes], in the backward pass
  A* grad_row;  // [M, kMixNodes], in the backward pass

  // s[h, a, b] = softmax over b of q[a, n, h] . k[b, n, h] * scale, and w[h, b] = its mean over a.
  inline MMSSL_INLINE void attention(const T* q, const T* k) const {
    const A share = A(1) / static_cast<A>(modalities);
    for (int64_t h = 0; h < heads; ++h) {
      A* mean = w + h * modalities * kMixNodes;
      for (int64_t j = 0; j < modalities * kMixNodes; ++j) mean[j] = 0;
      for (int64_t a = 0; a < modalities; ++a) {
        A* row = s + (h * modalities + a) * modalities * kMixNodes;
        A highest[kMixNodes], sum[kMixNodes];
        for (int64_t b = 0; b < modalities; ++b) {
          A* logit = row + b * kMixNodes;
          dots<all>(q + a * plane + h * width, d, k + b * plane + h * width, d, width, count, kMixNodes, logit);
#pragma omp simd
          for (int64_t i = 0; i < kMixNodes; ++i) {
            logit[i] *= scale;
            highest[i] = b == 0 || logit[i] > highest[i] ? logit[i] : highest[i];
          }
        }
        for (int64_t b = 0; b < modalities; ++b) {
          A* weight = row + b * kMixNodes;
#pragma omp simd
          for (int64_t i = 0; i < kMixNodes; ++i) {
            weight[i] = exp_of(weight[i] - highest[i]);
            sum[i] = b == 0 ? weight[i] : sum[i] + weight[i];
          }
        }
#pragma omp simd
        for (int64_t i = 0; i < kMixNodes; ++i) sum[i] = A(1) / sum[i];
        for (int64_t b = 0; b < modalities; ++b) {
          A *weight = row + b * kMixNodes, *to = mean + b * kMixNodes;
#pragma omp simd
          for (int64_t i = 0; i < kMixNodes; ++i) {
            weight[i] *= sum[i];
            to[i] += weight[i] * share;
          }
        }
      }
    }
  }

  // Turns s into the gradient of the logits.
  inline MMSSL_INLINE void attention_bwd(const T* grad, const T* e) const {
    const A share = A(1) / static_cast<A>(modalities);
    for (int64_t h = 0; h < heads; ++h) {
      A* of = grad_w + h * modalities * kMixNodes;
      for (int64_t b = 0; b < modalities; ++b) {
        dots<all>(grad + h * d, heads * d, e + b * plane, d, d, count, kMixNodes, of + b * kMixNodes);
      }
      for (int64_t a = 0; a < modalities; ++a) {
        A* row = s + (h * modalities + a) * modalities * kMixNodes;
        // of[b] less the mean of `of` by the weights, as a sum of differences: nothing cancels where a weight is
        // near 1.
        for (int64_t b = 0; b < modalities; ++b) {
          A apart[kMixNodes] = {};
          for (int64_t c = 0; c < modalities; ++c) {
#pragma omp simd
            for (int64_t i = 0; i < kMixNodes; ++i) {
              apart[i] += row[c * kMixNodes + i] * (of[b * kMixNodes + i] - of[c * kMixNodes + i]);
            }
          }
#pragma omp simd
          for (int64_t i = 0; i < kMixNodes; ++i) {
            grad_row[b * kMixNodes + i] = row[b * kMixNodes + i] * apart[i] * share;
          }
        }
        for (int64_t j = 0; j < modalities * kMixNodes; ++j) row[j] = grad_row[j];
      }
    }
  }
};

// Calls f(nodes, first node) for the nodes [begin, end), kMixNodes at a time. M is the number of modalities, or 0 if
// the compiler does not know it.
template <int M, typename T, typename A, typename F>
inline MMSSL_INLINE void for_nodes(int64_t modalities, int64_t nodes, int64_t d, int64_t heads, A* scratch,
                                   int64_t begin, int64_t end, F&& f) {
  const int64_t m = M > 0 ? M : modalities, width = d / heads;
  const A scale = A(1) / static_cast<A>(__builtin_sqrt(static_cast<double>(width)));
  A *w = scratch + heads * m * m * kMixNodes, *grad_w = w + heads * m * kMixNodes,
    *grad_row = grad_w + heads * m * kMixNodes;
  int64_t n = begin;
  for (; n + kMixNodes <= end; n += kMixNodes) {
    f(Nodes<true, T, A>{kMixNodes, m, nodes * d, d, heads, width, scale, scratch, w, grad_w, grad_row}, n);
  }
  if (n < end) f(Nodes<false, T, A>{end - n, m, nodes * d, d, heads, width, scale, scratch, w, grad_w, grad_row}, n);
}

template <int M, typename T, typename A>
void mix(const T* q, const T* k, const T* e, int64_t modalities, int64_t nodes, int64_t d, int64_t heads, A* scratch,
         T* mixed, int64_t begin, int64_t end) {
  for_nodes<M, T>(modalities, nodes, d, heads, scratch, begin, end, [&](const auto& at, int64_t n) MMSSL_INLINE {
    at.attention(q + n * d, k + n * d);
    const int64_t m = M > 0 ? M : modalities;
    for (int64_t i = 0; i < at.count; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        weighted_sum(at.w + h * m * kMixNodes + i, kMixNodes, e + (n + i) * d, at.plane, m, A(1), d,
                     mixed + ((n + i) * heads + h) * d);
      }
    }
  });
}

template <int M, typename T, typename A>
void mix_bwd(const T* grad, const T* q, const T* k, const T* e, int64_t modalities, int64_t nodes, int64_t d,
             int64_t heads, A* scratch, T* grad_q, T* grad_k, T* grad_e, int64_t begin, int64_t end) {
  for_nodes<M, T>(modalities, nodes, d, heads, scratch, begin, end, [&](const auto& at, int64_t n) MMSSL_INLINE {
    at.attention(q + n * d, k + n * d);
    at.attention_bwd(grad + n * heads * d, e + n * d);
    const int64_t m = M > 0 ? M : modalities;
    for (int64_t i = 0; i < at.count; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        const A* grad_s = at.s + h * m * m * kMixNodes + i;
        const int64_t part = (n + i) * d + h * at.width;
        for (int64_t a = 0; a < m; ++a) {
          weighted_sum(grad_s + a * m * kMixNodes, kMixNodes, k + part, at.plane, m, at.scale, at.width,
                       grad_q + a * at.plane + part);
          weighted_sum(grad_s + a * kMixNodes, m * kMixNodes, q + part, at.plane, m, at.scale, at.width,
                       grad_k + a * at.plane + part);
        }
      }
      for (int64_t b = 0; b < m; ++b) {
        weighted_sum(at.w + b * kMixNodes + i, m * kMixNodes, grad + (n + i) * heads * d, d, heads, A(1), d,
                     grad_e + b * at.plane + (n + i) * d);
      }
    }
  });
}

}  // namespace

template <typename T, typename A>
void modality_mix_fwd(const T* q, const T* k, const T* e, int64_t modalities, int64_t nodes, int64_t d, int64_t heads,
                      A* scratch, T* mixed, int64_t begin, int64_t end) {
  const auto run = modalities == 2 ? mix<2, T, A> : modalities == 3 ? mix<3, T, A> : mix<0, T, A>;
  run(q, k, e, modalities, nodes, d, heads, scratch, mixed, begin, end);
}

template <typename T, typename A>
void modality_mix_bwd(const T* grad, const T* q, const T* k, const T* e, int64_t modalities, int64_t nodes, int64_t d,
                      int64_t heads, A* scratch, T* grad_q, T* grad_k, T* grad_e, int64_t begin, int64_t end) {
  const auto run = modalities == 2 ? mix_bwd<2, T, A> : modalities == 3 ? mix_bwd<3, T, A> : mix_bwd<0, T, A>;
  run(grad, q, k, e, modalities, nodes, d, heads, scratch, grad_q, grad_k, grad_e, begin, end);
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
