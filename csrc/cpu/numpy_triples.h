// Triples drawn from NumPy's generator, for code whose own loop draws them one call at a time.
#pragma once

#include <pybind11/pybind11.h>

namespace mmssl {

// Adds numpy_triples to the module; see mmssl_fast/dropin/hkuds/sampling.py.
void bind_numpy_triples(pybind11::module_& m);

}  // namespace mmssl
