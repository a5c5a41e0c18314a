// The checks of the factors of sampled_dot on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/check.h"

namespace mmssl {

inline void check_sampled_rows(const char* op, const char* name, const at::Tensor& x) {
  MMSSL_CHECK(x.dim() == 2, op, name, " must be [rows, d], got ", x.sizes());
}

inline void check_sampled_dot(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& u,
                              const at::Tensor& v) {
  check_sampled_rows(op, "u", u);
  check_sampled_rows(op, "v", v);
  MMSSL_CHECK(u.size(1) == v.size(1), op, "u and v must have the same width, got ", u.size(1), " and ", v.size(1));
  MMSSL_CHECK(u.scalar_type() == v.scalar_type(), op, "u and v must have the same dtype, got ", u.scalar_type(),
              " and ", v.scalar_type());
  MMSSL_CHECK(crow.device() == u.device() && col.device() == u.device() && v.device() == u.device(), op,
              "crow, col, u and v must be on the same device, got ", crow.device(), ", ", col.device(), ", ",
              u.device(), " and ", v.device());
}

}  // namespace mmssl
