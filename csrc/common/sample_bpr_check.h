// The checks of sample_bpr on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/check.h"
#include "common/graph_check.h"

namespace mmssl {

inline void check_sampled_graph(const char* op, const at::Tensor& crow, const at::Tensor& col, int64_t n_items,
                                int64_t batch) {
  check_graph_arrays(op, crow, col);
  MMSSL_CHECK(col.numel() < (int64_t{1} << 31) && n_items >= 0 && n_items < (int64_t{1} << 31), op,
              "there must be fewer than 2^31 interactions and items, got ", col.numel(), " and ", n_items);
  MMSSL_CHECK(batch >= 0, op, "batch must not be negative, got ", batch);
}

}  // namespace mmssl
