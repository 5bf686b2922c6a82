// The per-pixel mathematics of the ops, for host and device: what is written here once is vectorised over
// pixels on the CPU and runs in one thread per pixel on a GPU.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace ralx::RALX_ISA {

// One step of argmax over classes, as torch.argmax: the first NaN wins, then the lowest of equal classes.
// `best` ends as the maximum, or NaN where there is one.
template <typename Real>
RALX_HD void argmax_step(Real x, int32_t c, Real& best, int32_t& label) {
  const bool better = !(x <= best) & (best == best);
  best = better ? x : best;
  label = better ? c : label;
}

// Below this, e^x is nothing beside 1 and soon leaves the normal numbers.
template <typename Real>
constexpr Real kExpFloor = sizeof(Real) == 4 ? Real(-86) : Real(-700);

// e^x for kExpFloor <= x <= 0; NaN gives NaN. Relative error in float 2e-7 · (1 + |x|), in double 1e-15:
// where e^x counts beside the maximum's e^0 = 1, x is small.
RALX_HD float exp_nonpositive(float x) {
  constexpr float kMagic = 0x1.8p23f;  // adding it rounds to an integer, left in the low bits of the mantissa
  const float shifted = x * 0x1.715476p+0f + kMagic;
  const float r = x - (shifted - kMagic) * 0x1.62e43p-1f;
  // Minimax on |r| <= ln 2 / 2 with the first two coefficients held at 1; relative error 1.05e-7.
  float p = 0x1.10625cp-7f;
  p = p * r + 0x1.572a6ap-5f;
  p = p * r + 0x1.5557b0p-3f;
  p = p * r + 0x1.fffdfcp-2f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // Multiplied, not added to the exponent: that would turn some NaNs into numbers.
  return p * bit_cast<float>((bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
}

RALX_HD double exp_nonpositive(double x) {
  constexpr double kMagic = 0x1.8p52;
  const double shifted = x * 0x1.71547652b82fep+0 + kMagic;
  const double n = shifted - kMagic;
  // ln 2 in two parts, of which n times the first is exact.
  const double r = (x - n * 0x1.62e42fefa3800p-1) - n * 0x1.ef35793c76730p-45;
  // Taylor's series: |r|^14 / 14! < 5e-18.
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return p * bit_cast<double>((bit_cast<uint64_t>(shifted) << 52) + 0x3ff0000000000000u);
}

// ln x for normal x > 0. Zero and subnormal numbers give some -88 (float) or -708 (double), so that x ln x is
// right for them; NaN and infinity give a number.
RALX_HD float log_positive(float x) {
  const int32_t bits = bit_cast<int32_t>(x);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;  // of x = 2^exponent · m with m in [√½, √2)
  const float m = bit_cast<float>(bits - exponent * 0x800000);
  // ln m = 2 artanh s, whose series ends early: |s| < 0.172.
  const float s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
  float p = 2.0f / 9;
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  p = p * s2 + 2.0f;
  return static_cast<float>(exponent) * 0x1.62e43p-1f + p * s;
}

RALX_HD double log_positive(double x) {
  const int64_t bits = bit_cast<int64_t>(x);
  const int64_t exponent = (bits - 0x3fe6a09e667f3bcd) >> 52;
  const double m = bit_cast<double>(bits - exponent * 0x10000000000000);
  const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
  double p = 2.0 / 21;
  p = p * s2 + 2.0 / 19;
  p = p * s2 + 2.0 / 17;
  p = p * s2 + 2.0 / 15;
  p = p * s2 + 2.0 / 13;
  p = p * s2 + 2.0 / 11;
  p = p * s2 + 2.0 / 9;
  p = p * s2 + 2.0 / 7;
  p = p * s2 + 2.0 / 5;
  p = p * s2 + 2.0 / 3;
  p = p * s2 + 2.0;
  return static_cast<double>(static_cast<int32_t>(exponent)) * 0x1.62e42fefa39efp-1 + p * s;
}

// Shannon entropy of softmax in nats, from two sums over the classes. With d = x - max and
// z = Σ e^d, H = -Σ (e^d / z) (d - ln z) = ln z - Σ d e^d / z: two terms >= 0, nothing cancels.
template <typename Real>
struct SoftmaxEntropy {
  // Adds one class and returns e^d. d = -inf (a masked class) becomes a large finite number, or 0 · -inf
  // would be NaN; so does the overflowing difference of two finite logits.
  RALX_HD static Real add(Real x, Real max, Real& z, Real& de) {
    Real d = x - max;
    d = d < kExpFloor<Real> ? kExpFloor<Real> : d;  // NaN stays
    const Real e = exp_nonpositive(d);
    z += e;
    de += d * e;
    return e;
  }

  RALX_HD static Real entropy(Real z, Real de) { return log_positive(z) - de / z; }
};

}  // namespace ralx::RALX_ISA
