// exp and log1p by the type of the argument: vec_math.h for float, libm for double. For files in csrc/cpu/isa only.
#pragma once

#include "cpu/isa/vec_math.h"

namespace mmssl::MMSSL_ISA {

inline float exp_of(float x) { return exp_f32(x); }
inline double exp_of(double x) { return __builtin_exp(x); }

// For x in [0, 1].
inline float log1p_of(float x) { return log1p_f32(x); }
inline double log1p_of(double x) { return __builtin_log1p(x); }

}  // namespace mmssl::MMSSL_ISA
