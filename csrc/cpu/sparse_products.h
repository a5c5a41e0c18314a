// The calls of torch's matrix products inside mmssl_fast.dropin.sparse.accelerated(), as far as they are decided
// without Python: dense products, products that torch computes faster, and products of matrices that are prepared
// already.
#pragma once

#include <pybind11/pybind11.h>

namespace mmssl {

void bind_sparse_products(pybind11::module_& m);

}  // namespace mmssl
