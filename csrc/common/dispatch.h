// Dispatch from the dtype of a tensor to the type of a kernel. The callable gets a value of the type and uses its
// decltype.
//
//   with_value_type("sampled_dot", u.scalar_type(), [&](auto value) { using T = decltype(value); ... });
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include "common/bfloat16.h"
#include "common/check.h"

namespace mmssl {

template <typename F>
void with_value_type(const char* op, at::ScalarType type, F&& f) {
  switch (type) {
    case at::kFloat:
      return f(float{});
    case at::kDouble:
      return f(double{});
    case at::kBFloat16:
      return f(BFloat16{});
    default:
      MMSSL_CHECK(false, op, "values must be float32, float64 or bfloat16, got ", type);
  }
}

template <typename F>
void with_index_type(const char* op, at::ScalarType type, F&& f) {
  switch (type) {
    case at::kInt:
      return f(int32_t{});
    case at::kLong:
      return f(int64_t{});
    default:
      MMSSL_CHECK(false, op, "indices must be int32 or int64, got ", type);
  }
}

// The data of a contiguous tensor as a pointer of the kernel's type, which with_value_type has matched to the dtype.
template <typename T>
const T* read_ptr(const at::Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <typename T>
T* write_ptr(const at::Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

}  // namespace mmssl
