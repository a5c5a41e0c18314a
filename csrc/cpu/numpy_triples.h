// Triples drawn with NumPy's generator, for code that draws them in a Python loop.
#pragma once

#include <pybind11/pybind11.h>

namespace mmssl {

// Adds numpy_triples to the module; see mmssl_fast/dropin/hkuds/sampling.py.
void bind_numpy_triples(pybind11::module_& m);

}  // namespace mmssl
