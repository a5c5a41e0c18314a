// The checks of unit_rows on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/check.h"
#include "common/factors.h"

namespace mmssl {

inline void check_unit_rows(const char* op, const at::Tensor& x) {
  MMSSL_CHECK(x.dim() == 2, op, "x must be [rows, d], got ", x.sizes());
}

inline void check_unit_rows_bwd(const char* op, const at::Tensor& grad, const at::Tensor& x,
                                const at::Tensor& inverse) {
  MMSSL_CHECK(x.dim() == 2 && grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type(), op,
              "grad and x must both be [rows, d], got ", grad.sizes(), " of ", grad.scalar_type(), " and ", x.sizes(),
              " of ", x.scalar_type());
  MMSSL_CHECK(inverse.dim() == 1 && inverse.size(0) == x.size(0) && inverse.scalar_type() == wide_type(x.scalar_type()),
              op, "inverse must be [", x.size(0), "] of ", wide_type(x.scalar_type()), ", got ", inverse.sizes(),
              " of ", inverse.scalar_type());
  MMSSL_CHECK(grad.device() == x.device() && inverse.device() == x.device(), op,
              "grad, x and inverse must be on the same device, got ", grad.device(), ", ", x.device(), " and ",
              inverse.device());
}

}  // namespace mmssl
