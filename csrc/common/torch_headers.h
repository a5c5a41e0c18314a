// What nearly every binding includes. No file includes this one: setup.py has GCC precompile it, because parsing these
// headers is two thirds of a binding's compilation. Files include what they use all the same.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>
