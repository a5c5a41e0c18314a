// The seen items of relation rows, an optional CSR block.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace mmssl {

struct Seen {
  at::Tensor crow;  // int64 [rows + 1], or undefined if there are no seen items
  at::Tensor col;   // int32 or int64 [nnz], ascending within a row

  const int64_t* offsets() const { return crow.defined() ? crow.const_data_ptr<int64_t>() : nullptr; }
  at::ScalarType index_type() const { return crow.defined() ? col.scalar_type() : at::kInt; }
  template <typename Index>
  const Index* columns() const {
    return crow.defined() ? static_cast<const Index*>(col.const_data_ptr()) : nullptr;
  }
};

// Checks that the block is n_rows x n_cols, and that both or neither of the tensors are given. If the rows are not
// sorted, the result is a sorted copy, because kernels process tiles from left to right and read every row once.
Seen read_seen(const char* op, const std::optional<at::Tensor>& crow, const std::optional<at::Tensor>& col,
               int64_t n_rows, int64_t n_cols);

}  // namespace mmssl
