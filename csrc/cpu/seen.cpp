#include "cpu/seen.h"

#include <ATen/ops/clone.h>

#include <algorithm>

#include "common/check.h"
#include "common/dispatch.h"
#include "cpu/csr.h"

namespace mmssl {

Seen read_seen(const char* op, const std::optional<at::Tensor>& crow, const std::optional<at::Tensor>& col,
               int64_t n_rows, int64_t n_cols) {
  MMSSL_CHECK(crow.has_value() == col.has_value(), op, "pass both or neither of crow and col, got only ",
              crow.has_value() ? "crow" : "col");
  if (!crow.has_value()) return {};
  check_csr(op, *crow, *col, n_rows, n_cols);
  Seen seen{*crow, *col};
  const int64_t* offset = seen.offsets();
  with_index_type(op, col->scalar_type(), [&](auto index) {
    using Index = decltype(index);
    const Index* column = seen.columns<Index>();
    bool ascend = true;
    for (int64_t r = 0; r < n_rows && ascend; ++r) {
      ascend = std::is_sorted(column + offset[r], column + offset[r + 1]);
    }
    if (ascend) return;
    seen.col = col->clone();
    Index* sorted = write_ptr<Index>(seen.col);
    for (int64_t r = 0; r < n_rows; ++r) std::sort(sorted + offset[r], sorted + offset[r + 1]);
  });
  return seen;
}

}  // namespace mmssl
