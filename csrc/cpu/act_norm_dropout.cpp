// act_norm_dropout on the CPU: checks, allocation, threads. The arithmetic is in isa/act_norm_dropout.cpp.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/isa.h"
#include "common/norm_args.h"
#include "cpu/parallel.h"
#include "cpu/seed_offset.h"

#define MMSSL_KERNELS "cpu/isa/act_norm_dropout.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

constexpr int64_t kValueWork = 8;  // operations per value, most of them for the random numbers of the mask

template <typename F>
void with_float_or_double(const char* op, at::ScalarType type, F&& f) {
  if (type == at::kFloat) return f(float{});
  if (type == at::kDouble) return f(double{});
  MMSSL_CHECK(false, op, "z must be float32 or float64, got ", type);
}

Dropout checked_dropout(const char* op, const at::Tensor& z, const at::Tensor& seed_offset, double slope, double eps,
                        double rate) {
  MMSSL_CHECK(z.dim() == 2 && z.size(0) >= 2, op, "z must be [rows, H] with at least 2 rows, got ", z.sizes());
  MMSSL_CHECK(slope >= 0 && eps > 0, op, "slope must not be negative and eps must be positive, got ", slope, " and ",
              eps);
  MMSSL_CHECK(rate >= 0 && rate < 1, op, "rate must be in [0, 1), got ", rate);
  const SeedOffset noise = read_seed_offset(op, seed_offset);
  return dropout_of(noise.seed, noise.offset, rate);
}

at::Tensor like(const char* op, const char* name, const at::Tensor& x, const at::Tensor& z) {
  MMSSL_CHECK(x.sizes() == z.sizes() && x.scalar_type() == z.scalar_type(), op, name, " must be ", z.sizes(), " of ",
              z.scalar_type(), ", got ", x.sizes(), " of ", x.scalar_type());
  return x.contiguous();
}

at::Tensor column(const char* op, const char* name, const at::Tensor& x, const at::Tensor& z) {
  MMSSL_CHECK(x.dim() == 1 && x.size(0) == z.size(1) && x.scalar_type() == z.scalar_type(), op, name, " must be [",
              z.size(1), "] of ", z.scalar_type(), ", got ", x.sizes(), " of ", x.scalar_type());
  return x.contiguous();
}

using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// The memory that the visits of an op share. The forward pass needs the mask once only, and so does not store it.
struct Shared {
  at::Tensor sums, factors, masks;

  Shared(const at::Tensor& z, int64_t kinds_of_sums, int64_t kinds_of_factors, bool with_masks)
      : sums(at::empty({(z.size(0) + kNormRows - 1) / kNormRows, kinds_of_sums, z.size(1)},
                       z.options().dtype(at::kDouble))),
        factors(at::empty({kinds_of_factors, z.size(1)}, z.options())),
        masks(at::empty({with_masks ? z.size(0) : 0, (z.size(1) + kNormColumns - 1) / kNormColumns},
                        z.options().dtype(at::kLong))) {}
};

template <typename T>
NormArgs<T> norm_args(const at::Tensor& z, const at::Tensor& mean, const at::Tensor& variance, const at::Tensor& weight,
                      double slope, double eps, const Dropout& dropout, const Shared& shared) {
  return {.rows = z.size(0),
          .columns = z.size(1),
          .slope = slope,
          .eps = eps,
          .dropout = dropout,
          .z = read_ptr<T>(z),
          .mean = read_ptr<T>(mean),
          .variance = read_ptr<T>(variance),
          .weight = read_ptr<T>(weight),
          .sums = write_ptr<double>(shared.sums),
          .factors = write_ptr<T>(shared.factors),
          .masks = reinterpret_cast<uint64_t*>(write_ptr<int64_t>(shared.masks))};
}

// Calls first(chunk) for the chunks of kNormRows rows of z, then between(), then second(chunk). The second visit takes
// the chunks in descending order, because the last ones are still in the cache.
template <typename First, typename Between, typename Second>
void two_visits(const at::Tensor& z, First&& first, Between&& between, Second&& second) {
  const int64_t chunks = (z.size(0) + kNormRows - 1) / kNormRows;
  const auto backwards = [&](int64_t i) { second(chunks - 1 - i); };
  if (kValueWork * z.numel() >= kWorthThreads) return in_two_steps(chunks, first, between, backwards);
  for (int64_t i = 0; i < chunks; ++i) first(i);
  between();
  for (int64_t i = 0; i < chunks; ++i) backwards(i);
}

Three act_norm_dropout_cpu(const at::Tensor& z_in, const at::Tensor& weight_in, const at::Tensor& bias_in,
                           const at::Tensor& seed_offset, double slope, double eps, double rate) {
  const char* op = "act_norm_dropout";
  const Dropout dropout = checked_dropout(op, z_in, seed_offset, slope, eps, rate);
  const at::Tensor weight = column(op, "weight", weight_in, z_in), bias = column(op, "bias", bias_in, z_in);
  const at::Tensor z = z_in.contiguous();
  const at::Tensor out = at::empty(z.sizes(), z.options());
  const at::Tensor mean = at::empty({z.size(1)}, z.options()), variance = at::empty({z.size(1)}, z.options());
  const Shared shared(z, kFwdSums, kFwdFactors, false);
  with_float_or_double(op, z.scalar_type(), [&](auto value) {
    using T = decltype(value);
    const auto in = norm_args<T>(z, mean, variance, weight, slope, eps, dropout, shared);
    two_visits(
        z, [&](int64_t chunk) { MMSSL_DISPATCH(act_norm_dropout_fwd_sums, in, chunk); },
        [&] { MMSSL_DISPATCH(act_norm_dropout_fwd_factors, in, write_ptr<T>(mean), write_ptr<T>(variance)); },
        [&](int64_t chunk) {
          MMSSL_DISPATCH(act_norm_dropout_fwd_apply, in, read_ptr<T>(bias), write_ptr<T>(out), chunk);
        });
  });
  return {out, mean, variance};
}

Three act_norm_dropout_bwd_cpu(const at::Tensor& grad_in, const at::Tensor& z_in, const at::Tensor& mean_in,
                               const at::Tensor& variance_in, const at::Tensor& weight_in,
                               const at::Tensor& seed_offset, double slope, double eps, double rate) {
  const char* op = "act_norm_dropout_bwd";
  const Dropout dropout = checked_dropout(op, z_in, seed_offset, slope, eps, rate);
  const at::Tensor grad = like(op, "grad", grad_in, z_in), z = z_in.contiguous();
  const at::Tensor mean = column(op, "mean", mean_in, z), variance = column(op, "variance", variance_in, z);
  const at::Tensor weight = column(op, "weight", weight_in, z);
  const at::Tensor d_z = at::empty(z.sizes(), z.options());
  const at::Tensor d_weight = at::empty({z.size(1)}, z.options()), d_bias = at::empty({z.size(1)}, z.options());
  const Shared shared(z, kBwdSums, kBwdFactors, true);
  with_float_or_double(op, z.scalar_type(), [&](auto value) {
    using T = decltype(value);
    auto in = norm_args<T>(z, mean, variance, weight, slope, eps, dropout, shared);
    in.grad = read_ptr<T>(grad);
    MMSSL_DISPATCH(act_norm_dropout_bwd_prepare, in);
    two_visits(
        z, [&](int64_t chunk) { MMSSL_DISPATCH(act_norm_dropout_bwd_sums, in, chunk); },
        [&] { MMSSL_DISPATCH(act_norm_dropout_bwd_factors, in, write_ptr<T>(d_weight), write_ptr<T>(d_bias)); },
        [&](int64_t chunk) { MMSSL_DISPATCH(act_norm_dropout_bwd_apply, in, write_ptr<T>(d_z), chunk); });
  });
  return {d_z, d_weight, d_bias};
}

Three act_norm_dropout_bwd_bwd_cpu(const at::Tensor& gg_z_in, const at::Tensor& gg_weight_in,
                                   const at::Tensor& gg_bias_in, const at::Tensor& grad_in, const at::Tensor& z_in,
                                   const at::Tensor& mean_in, const at::Tensor& variance_in,
                                   const at::Tensor& weight_in, const at::Tensor& seed_offset, double slope, double eps,
                                   double rate) {
  const char* op = "act_norm_dropout_bwd_bwd";
  const Dropout dropout = checked_dropout(op, z_in, seed_offset, slope, eps, rate);
  const at::Tensor gg_z = like(op, "gg_z", gg_z_in, z_in), grad = like(op, "grad", grad_in, z_in);
  const at::Tensor z = z_in.contiguous(), mean = column(op, "mean", mean_in, z);
  const at::Tensor variance = column(op, "variance", variance_in, z), weight = column(op, "weight", weight_in, z);
  const at::Tensor gg_weight = column(op, "gg_weight", gg_weight_in, z);
  const at::Tensor gg_bias = column(op, "gg_bias", gg_bias_in, z);
  const at::Tensor d_grad = at::empty(z.sizes(), z.options()), d_z = at::empty(z.sizes(), z.options());
  const at::Tensor d_weight = at::empty({z.size(1)}, z.options());
  const Shared shared(z, kBwdBwdSums, kBwdBwdFactors, true);
  with_float_or_double(op, z.scalar_type(), [&](auto value) {
    using T = decltype(value);
    auto in = norm_args<T>(z, mean, variance, weight, slope, eps, dropout, shared);
    in.grad = read_ptr<T>(grad);
    in.gg_z = read_ptr<T>(gg_z);
    MMSSL_DISPATCH(act_norm_dropout_bwd_prepare, in);
    two_visits(
        z, [&](int64_t chunk) { MMSSL_DISPATCH(act_norm_dropout_bwd_bwd_sums, in, chunk); },
        [&] {
          MMSSL_DISPATCH(act_norm_dropout_bwd_bwd_factors, in, read_ptr<T>(gg_weight), read_ptr<T>(gg_bias),
                         write_ptr<T>(d_weight));
        },
        [&](int64_t chunk) {
          MMSSL_DISPATCH(act_norm_dropout_bwd_bwd_apply, in, write_ptr<T>(d_grad), write_ptr<T>(d_z), chunk);
        });
  });
  return {d_grad, d_z, d_weight};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("act_norm_dropout", &mmssl::act_norm_dropout_cpu);
  m.impl("act_norm_dropout_bwd", &mmssl::act_norm_dropout_bwd_cpu);
  m.impl("act_norm_dropout_bwd_bwd", &mmssl::act_norm_dropout_bwd_bwd_cpu);
}
