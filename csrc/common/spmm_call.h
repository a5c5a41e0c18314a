// The arguments of a row-wise sum in the bindings for the CPU and CUDA, and their conversion to the SpmmArgs of a
// kernel.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <optional>
#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/spmm_args.h"

namespace mmssl {

// A row-wise sum as defined in common/spmm_args.h. y, rows, base and total may be undefined.
struct SpmmCall {
  at::Tensor crow;                      // int64 [R + 1]
  at::Tensor col;                       // int32 or int64 [nnz]
  std::optional<at::Tensor> value;      // [nnz], any floating dtype
  std::optional<at::Tensor> row_scale;  // [R]
  std::optional<at::Tensor> col_scale;  // [C]
  at::Tensor x;                         // [C, d] float32, float64 or bfloat16
  at::Tensor y;                         // [R, d] contiguous, dtype of x
  at::Tensor rows;                      // int64 [R], distinct for rows with entries
  at::Tensor base;                      // [*, d], dtype of x
  at::Tensor total;                     // [*, d], dtype of x
  double factor = 1;
  bool from_base = false;  // with base and total, but neither row_scale nor factor
};

// The matrix x, or a copy of it, with contiguous rows of any stride.
inline at::Tensor columns_adjacent(const at::Tensor& x) {
  return x.size(1) <= 1 || x.stride(1) == 1 ? x : x.contiguous();
}

// A factor as the kernels read it: contiguous in the dtype of sums, or undefined.
inline at::Tensor spmm_factor(const char* op, const char* name, const std::optional<at::Tensor>& factor, int64_t size,
                              const at::Tensor& x, at::ScalarType type) {
  if (!factor.has_value() || !factor->defined()) return {};
  MMSSL_CHECK(factor->dim() == 1 && factor->size(0) == size, op, name, " must be [", size, "], got ", factor->sizes());
  MMSSL_CHECK(factor->is_floating_point(), op, name, " must be floating, got ", factor->scalar_type());
  MMSSL_CHECK(factor->device() == x.device(), op, name, " must be on the device of x, ", x.device(), ", got ",
              factor->device());
  return factor->to(type).contiguous();
}

inline void check_spmm_matrix(const char* op, const char* name, const at::Tensor& m, const at::Tensor& x) {
  MMSSL_CHECK(m.dim() == 2 && m.size(1) == x.size(1), op, name, " must be [rows, ", x.size(1), "], got ", m.sizes());
  MMSSL_CHECK(m.scalar_type() == x.scalar_type(), op, name, " must have the dtype of x, ", x.scalar_type(), ", got ",
              m.scalar_type());
  MMSSL_CHECK(m.device() == x.device(), op, name, " must be on the device of x, ", x.device(), ", got ", m.device());
}

inline void check_spmm_crow(const char* op, const at::Tensor& crow) {
  MMSSL_CHECK(crow.scalar_type() == at::kLong && crow.dim() == 1 && crow.numel() > 0 && crow.is_contiguous(), op,
              "crow must be contiguous int64 [rows + 1], got ", crow.scalar_type(), " ", crow.sizes());
}

// The sizes that are not in SpmmArgs, and the dtype of sums.
struct SpmmShape {
  int64_t n_rows, n_cols, nnz;
  at::ScalarType sums;
};

// Checks shapes, dtypes and devices, but not the values in crow, col and rows, and calls f(const SpmmArgs<T, A,
// Index>&, const SpmmShape&). Errors name `op`.
template <typename F>
void with_spmm_args(const char* op, const SpmmCall& call, F&& f) {
  const at::Tensor &crow = call.crow, &col = call.col;
  check_spmm_crow(op, crow);
  MMSSL_CHECK(col.dim() == 1 && col.is_contiguous(), op, "col must be contiguous [nnz], got ", col.sizes());
  MMSSL_CHECK(call.x.dim() == 2, op, "x must be [rows, d], got ", call.x.sizes());
  MMSSL_CHECK(crow.device() == call.x.device() && col.device() == call.x.device(), op,
              "crow, col and x must be on the same device, got ", crow.device(), ", ", col.device(), " and ",
              call.x.device());
  const at::Tensor x = columns_adjacent(call.x);
  const at::ScalarType sums = x.scalar_type() == at::kBFloat16 ? at::kFloat : x.scalar_type();
  const SpmmShape shape{crow.numel() - 1, x.size(0), col.numel(), sums};
  const at::Tensor value = spmm_factor(op, "value", call.value, shape.nnz, x, sums);
  const at::Tensor row_scale = spmm_factor(op, "row_scale", call.row_scale, shape.n_rows, x, sums);
  const at::Tensor col_scale = spmm_factor(op, "col_scale", call.col_scale, shape.n_cols, x, sums);
  const at::Tensor base = call.base.defined() ? columns_adjacent(call.base) : call.base;
  if (call.total.defined()) {
    check_spmm_matrix(op, "base", base, x);
    check_spmm_matrix(op, "total", call.total, x);
  }
  with_value_type(op, x.scalar_type(), [&](auto element) {
    with_index_type(op, col.scalar_type(), [&](auto index) {
      using T = decltype(element);
      using A = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;
      using Index = decltype(index);
      f(
          SpmmArgs<T, A, Index>{
              read_ptr<int64_t>(crow),
              read_ptr<Index>(col),
              value.defined() ? read_ptr<A>(value) : nullptr,
              row_scale.defined() ? read_ptr<A>(row_scale) : nullptr,
              col_scale.defined() ? read_ptr<A>(col_scale) : nullptr,
              read_ptr<T>(x),
              x.stride(0),
              x.size(1),
              call.y.defined() ? write_ptr<T>(call.y) : nullptr,
              call.rows.defined() ? read_ptr<int64_t>(call.rows) : nullptr,
              base.defined() ? read_ptr<T>(base) : nullptr,
              base.defined() ? base.stride(0) : 0,
              call.total.defined() ? write_ptr<T>(call.total) : nullptr,
              call.total.defined() ? call.total.stride(0) : 0,
              static_cast<A>(call.factor),
              call.from_base,
          },
          shape);
    });
  });
}

// Computes a product into a new tensor. run is the implementation of a device: void(const char* op, const SpmmCall&).
template <auto run>
at::Tensor call_spmm(const char* op, const at::Tensor& crow, const at::Tensor& col,
                     const std::optional<at::Tensor>& value, const std::optional<at::Tensor>& row_scale,
                     const std::optional<at::Tensor>& col_scale, const at::Tensor& x) {
  MMSSL_CHECK(crow.dim() == 1 && crow.numel() > 0 && x.dim() == 2, op, "crow must be [rows + 1] and x [rows, d], got ",
              crow.sizes(), " and ", x.sizes());
  SpmmCall call{crow, col, value, row_scale, col_scale, x};
  call.y = at::empty({crow.numel() - 1, x.size(1)}, x.options());
  run(op, call);
  return call.y;
}

// The op spmm.
template <auto run>
at::Tensor spmm_op(const at::Tensor& crow, const at::Tensor& col, const std::optional<at::Tensor>& value,
                   const std::optional<at::Tensor>& row_scale, const std::optional<at::Tensor>& col_scale,
                   const at::Tensor& x) {
  return call_spmm<run>("spmm", crow, col, value, row_scale, col_scale, x);
}

inline SpmmCall spmm_add_call(const char* op, const at::Tensor& out, const at::Tensor& rows, const at::Tensor& crow,
                              const at::Tensor& col, const std::optional<at::Tensor>& value, const at::Tensor& x) {
  MMSSL_CHECK(
      out.dim() == 2 && (out.size(1) <= 1 || out.stride(1) == 1) && (out.size(0) <= 1 || out.stride(0) >= out.size(1)),
      op, "out must be a matrix with contiguous rows that do not overlap, got ", out.sizes(), " with strides ",
      out.strides());
  check_spmm_crow(op, crow);
  const int64_t n = crow.numel() - 1;
  MMSSL_CHECK(rows.scalar_type() == at::kLong && rows.dim() == 1 && rows.size(0) == n && rows.is_contiguous(), op,
              "rows must be contiguous int64 [", n, "], got ", rows.scalar_type(), " ", rows.sizes());
  MMSSL_CHECK(rows.device() == out.device(), op, "rows and out must be on the same device, got ", rows.device(),
              " and ", out.device());
  SpmmCall call{crow, col, value, {}, {}, x};
  call.rows = rows;
  call.base = out;
  call.total = out;
  call.from_base = true;
  return call;
}

}  // namespace mmssl
