// The parameters of Gumbel rows (equation 5) as the kernels see them.
#pragma once

#include <cstdint>

namespace mmssl {

// Equation 5: the logit of an entry is (A + noise_scale g) / tau.
struct GumbelNoise {
  double tau;          // temperature, > 0
  double noise_scale;  // what the noise is multiplied by, >= 0; 1 in equation 5
  uint64_t seed;
  uint32_t offset;
};

}  // namespace mmssl
