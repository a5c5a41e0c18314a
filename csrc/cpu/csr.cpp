#include "cpu/csr.h"

#include <algorithm>

#include "common/check.h"
#include "common/dispatch.h"

namespace mmssl {

void check_csr(const char* op, const at::Tensor& crow, const at::Tensor& col, int64_t n_rows, int64_t n_cols) {
  MMSSL_CHECK(crow.scalar_type() == at::kLong && crow.dim() == 1, op, "crow must be int64 [rows + 1], got ",
              crow.scalar_type(), " ", crow.sizes());
  MMSSL_CHECK(col.dim() == 1, op, "col must be [nnz], got ", col.sizes());
  MMSSL_CHECK(crow.numel() > 0 && crow.numel() == n_rows + 1, op, "crow must have ", n_rows + 1, " offsets for ",
              n_rows, " rows, got ", crow.numel());
  MMSSL_CHECK(crow.is_contiguous() && col.is_contiguous(), op, "crow and col must be contiguous");
  const int64_t nnz = col.numel();
  const int64_t* offset = crow.const_data_ptr<int64_t>();
  MMSSL_CHECK(offset[0] == 0 && offset[n_rows] == nnz, op, "crow must run from 0 to nnz = ", nnz, ", got ", offset[0],
              " to ", offset[n_rows]);
  for (int64_t r = 0; r < n_rows; ++r) {
    MMSSL_CHECK(offset[r] <= offset[r + 1], op, "crow must not decrease, but falls from ", offset[r], " to ",
                offset[r + 1], " at row ", r);
  }
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    const Index* column = read_ptr<Index>(col);
    for (int64_t e = 0; e < nnz; ++e) {
      MMSSL_CHECK(column[e] >= 0 && column[e] < n_cols, op, "col[", e, "] = ", column[e], " is outside [0, ", n_cols,
                  ")");
    }
  });
}

}  // namespace mmssl
