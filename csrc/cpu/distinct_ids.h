// Ids that occur several times in a batch, computed once.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "common/dispatch.h"
#include "common/factors.h"

namespace mmssl {

// The distinct ids, ascending, and for every id its index among them.
struct Distinct {
  at::Tensor ids, place;  // [D], [B]

  explicit Distinct(const at::Tensor& given) : place(at::empty(given.sizes(), given.options())) {
    const int64_t* id = read_ptr<int64_t>(given);
    std::vector<int64_t> sorted(id, id + given.numel());
    std::sort(sorted.begin(), sorted.end());
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    ids = at::empty({static_cast<int64_t>(sorted.size())}, given.options());
    std::copy(sorted.begin(), sorted.end(), write_ptr<int64_t>(ids));
    for (int64_t b = 0; b < given.numel(); ++b) {
      write_ptr<int64_t>(place)[b] = std::lower_bound(sorted.begin(), sorted.end(), id[b]) - sorted.begin();
    }
  }

  // Adds the values [B] of equal ids, in their order: [D].
  at::Tensor sums(const at::Tensor& values) const {
    at::Tensor found = at::empty(ids.sizes(), values.options());
    with_wide_type(values.scalar_type(), [&](auto value) {
      using T = decltype(value);
      const at::Tensor given = values.contiguous();
      std::vector<double> sum(ids.numel(), 0.0);
      for (int64_t b = 0; b < place.numel(); ++b) sum[read_ptr<int64_t>(place)[b]] += read_ptr<T>(given)[b];
      std::transform(sum.begin(), sum.end(), write_ptr<T>(found), [](double s) { return static_cast<T>(s); });
    });
    return found;
  }

  // Selects a value for every distinct id from values [B] that are the same for equal ids: [D].
  at::Tensor one_each(const at::Tensor& values) const {
    at::Tensor found = at::empty(ids.sizes(), values.options());
    with_wide_type(values.scalar_type(), [&](auto value) {
      using T = decltype(value);
      const at::Tensor given = values.contiguous();
      for (int64_t b = 0; b < place.numel(); ++b) {
        write_ptr<T>(found)[read_ptr<int64_t>(place)[b]] = read_ptr<T>(given)[b];
      }
    });
    return found;
  }
};

}  // namespace mmssl
