// The checks of the factors of relation rows, u [B, d] and v [I, d].
#pragma once

#include <ATen/core/Tensor.h>

#include <type_traits>

#include "common/bfloat16.h"
#include "common/check.h"

namespace mmssl {

inline void check_factors(const char* op, const at::Tensor& u, const at::Tensor& v) {
  MMSSL_CHECK(u.dim() == 2, op, "u must be [B, d], got ", u.sizes());
  MMSSL_CHECK(v.dim() == 2, op, "v must be [I, d], got ", v.sizes());
  MMSSL_CHECK(u.size(1) == v.size(1), op, "u and v must have the same width, got ", u.size(1), " and ", v.size(1));
  MMSSL_CHECK(u.scalar_type() == v.scalar_type(), op, "u and v must have the same dtype, got ", u.scalar_type(),
              " and ", v.scalar_type());
  MMSSL_CHECK(u.scalar_type() == at::kFloat || u.scalar_type() == at::kDouble || u.scalar_type() == at::kBFloat16, op,
              "values must be float32, float64 or bfloat16, got ", u.scalar_type());
}

// The dtype in which products of `type` are computed.
inline at::ScalarType wide_type(at::ScalarType type) { return type == at::kBFloat16 ? at::kFloat : type; }

template <typename T>
using wide_t = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;

// Calls f with a value of type float or double.
template <typename F>
void with_wide_type(at::ScalarType wide, F&& f) {
  if (wide == at::kDouble) {
    f(double{});
  } else {
    f(float{});
  }
}

}  // namespace mmssl
