// exp, log and log1p in float32 without branches, so that loops that call them are vectorised for every instruction
// set. A call of libm would prevent that. For files in csrc/cpu/isa only.
//
// The errors, measured for every 37th float, are at most 2 ulp on the ranges below. ln 2 is split as in fdlibm. The
// polynomials are minimax fits that were computed for this file.
#pragma once

#include <cstdint>
#include <cstring>

namespace mmssl::MMSSL_ISA {

inline float float_of_bits(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

inline int32_t bits_of_float(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// a * b + c, fused if the instruction set supports it. It is explicit, so that vector code and the scalar remainder of
// a loop round in the same way.
inline float fma_f32(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

constexpr float kLn2High = 6.9313812256e-01f;
constexpr float kLn2Low = 9.0580006145e-06f;

// log(1 + f) + e ln 2 for f in [sqrt(1/2) - 1, sqrt(2) - 1].
inline float log_from_parts(float f, float e) {
  float p = -0.07634493f;
  p = fma_f32(p, f, 0.12761575f);
  p = fma_f32(p, f, -0.13160183f);
  p = fma_f32(p, f, 0.14201759f);
  p = fma_f32(p, f, -0.16623357f);
  p = fma_f32(p, f, 0.20001227f);
  p = fma_f32(p, f, -0.2500082f);
  p = fma_f32(p, f, 0.3333333f);
  const float square = f * f;
  const float tail = fma_f32(p * f, square, fma_f32(-0.5f, square, e * kLn2Low));
  return fma_f32(e, kLn2High, f + tail);
}

// log(x) for a positive, normal, finite x.
inline float log_f32(float x) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;
  const int32_t shifted = bits_of_float(x) - kSqrtHalf;
  const float mantissa = float_of_bits((shifted & 0x7fffff) + kSqrtHalf);  // in [sqrt(1/2), sqrt(2))
  return log_from_parts(mantissa - 1.0f, static_cast<float>(shifted >> 23));
}

// log(1 + x) for -1 + 2^-24 <= x <= 1, accurate for tiny x, too: the rounding error of 1 + x is added to the reduced
// argument.
inline float log1p_f32(float x) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;
  const float sum = 1.0f + x;
  const float lost = x - (sum - 1.0f);
  const int32_t shifted = bits_of_float(sum) - kSqrtHalf;
  const int32_t exponent = shifted >> 23;
  const float mantissa = float_of_bits((shifted & 0x7fffff) + kSqrtHalf);
  const float scale = float_of_bits((127 - exponent) << 23);
  return log_from_parts(fma_f32(lost, scale, mantissa - 1.0f), static_cast<float>(exponent));
}

// exp(x); 0 below -86.9 (1.8e-38: no denormals), inf above 88.72, NaN for NaN.
inline float exp_f32(float x) {
  constexpr float kLowest = -86.9f;
  constexpr float kHighest = 88.72283f;
  constexpr float kRound = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer, left in the low bits
  const float clamped = x < kLowest ? kLowest : (x > kHighest ? kHighest : x);
  const float shifted = fma_f32(clamped, 1.44269504f, kRound);
  const float n = shifted - kRound;
  const float r = fma_f32(n, -kLn2Low, fma_f32(n, -kLn2High, clamped));
  float p = 0.0013814599f;
  p = fma_f32(p, r, 0.008368717f);
  p = fma_f32(p, r, 0.04166839f);
  p = fma_f32(p, r, 0.16666521f);
  p = fma_f32(p, r, 0.49999994f);
  p = fma_f32(p, r * r, r) + 1.0f;
  // The scale 2^n is applied in two halves, because n can be 128, for which 2^n is not a float.
  const float half = float_of_bits((bits_of_float(shifted) - 0x4b400000 + 126) << 23);
  const float y = p * half * 2.0f;
  return x < kLowest ? 0.0f : (x > kHighest ? __builtin_inff() : y);
}

}  // namespace mmssl::MMSSL_ISA
