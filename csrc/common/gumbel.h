// The parameters of Gumbel rows (equation 5) in kernels.
#pragma once

#include <cstdint>

namespace mmssl {

// Equation 5: the logit of an entry is (A + noise_scale g) / tau.
struct GumbelNoise {
  double tau;          // temperature, > 0
  double noise_scale;  // factor of the noise, >= 0; 1 in equation 5
  uint64_t seed;
  uint32_t offset;
};

}  // namespace mmssl
