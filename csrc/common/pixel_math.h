// The per-pixel mathematics that the kernels of both backends share. T is a float or double on a GPU and, on
// the CPU, a vector of floats or doubles with a pixel in each lane (common/cpu/vector_math.h).
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/scalar.h"

namespace ralx::RALX_ISA {

// The lanes of T: their type, integers of their size, and words of bits, which may overflow.
template <typename T>
struct LanesOf {
  using Real = T;
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  using Word = std::make_unsigned_t<Int>;
};
template <typename T>
using RealOf = typename LanesOf<T>::Real;
template <typename T>
using IntOf = typename LanesOf<T>::Int;
template <typename T>
using WordOf = typename LanesOf<T>::Word;

// The smaller and the larger of two numbers; b where a or b is NaN.
template <typename T>
RALX_HD T lower(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
RALX_HD T higher(T a, T b) {
  return a > b ? a : b;
}

// One step of argmax over classes, by torch.argmax's rules: the first NaN wins, then the lowest of equal
// classes. `best` ends as the maximum, or as NaN where a number was NaN.
template <typename T>
RALX_HD void argmax_step(T x, IntOf<T> c, T& best, IntOf<T>& label) {
  const auto better = (!(x <= best)) & (best == best);
  best = better ? x : best;
  label = better ? c : label;
}

// A float32 sum loses a little with each number that is added, so only a few numbers are added to one sum.
// Then carry() moves the sum into a total, and leaves in `sum` the part that the rounded total lacks (Kahan
// 1965).
template <typename T>
RALX_HD void carry(T& sum, T& total) {
  const T before = total;
  total = before + sum;
  sum -= total - before;
}

// How many numbers are added to a sum before carry(): kPassesAtOnce passes; all classes where there are at
// most kFewClasses, else kClassesAtOnce classes.
constexpr int kPassesAtOnce = 32, kFewClasses = 32, kClassesAtOnce = 16;

// For t below kFloor, 2^t adds nothing to a sum that holds 1, and for t a little lower 2^t is subnormal.
template <typename Real>
constexpr Real kFloor = sizeof(Real) == 4 ? Real(-125) : Real(-1010);

// 2^t for t from kFloor to 0, and a little above 0. The result for NaN is NaN or, in float, some number.
template <typename T>
RALX_HD T exp2_nonpositive(T t) {
  using Real = RealOf<T>;
  constexpr bool kSingle = sizeof(Real) == 4;
  constexpr Real kMagic = kSingle ? Real(0x1.8p23) : Real(0x1.8p52);  // adding it rounds to an integer
  const T shifted = t + kMagic;
  const T f = t - (shifted - kMagic);
  T p;
  if constexpr (kSingle) {
    // Minimax of the relative error on |f| <= ½: 7.5e-8.
    p = f * 0x1.5c08e6p-10f + 0x1.3d0c52p-7f;
    p = p * f + 0x1.c6b6e4p-5f;
    p = p * f + 0x1.ebf918p-3f;
    p = p * f + 0x1.62e428p-1f;
    p = p * f + 0x1.000002p+0f;
  } else {
    // Taylor's series of e^r: |r|^14 / 14! < 5e-18.
    const T r = f * 0x1.62e42fefa39efp-1;
    p = r * (1.0 / 6227020800) + 1.0 / 479001600;
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
  }
  // The integer, left in the low bits of `shifted`, is added to the exponent.
  return bit_cast<T>(bit_cast<WordOf<T>>(p) + (bit_cast<WordOf<T>>(shifted) << (kSingle ? 23 : 52)));
}

// log2 x for normal x > 0. For zero and subnormal x the result is some -127 (float) or -1023 (double), so
// that x log2 x is right; for NaN and infinity it is some number.
template <typename T>
RALX_HD T log2_positive(T x) {
  using Real = RealOf<T>;
  using Word = WordOf<T>;
  constexpr bool kSingle = sizeof(Real) == 4;
  constexpr WordOf<Real> kHalf = kSingle ? 0x3f3504f3 : 0x3fe6a09e667f3bcd;  // √½
  constexpr int kMantissa = kSingle ? 23 : 52;
  const Word bits = bit_cast<Word>(x);
  // x = 2^exponent · m with m in [√½, √2).
  const IntOf<T> exponent = bit_cast<IntOf<T>>(bits - kHalf) >> kMantissa;
  const T m = bit_cast<T>(bits - (bit_cast<Word>(exponent) << kMantissa));
  const T whole = convert<T>(exponent);
  const T u = m - Real(1);
  if constexpr (kSingle) {
    // Minimax of log2(1 + u) / u, error in log2 below 5e-8.
    T p = u * -0x1.2a82fcp-3f + 0x1.e522acp-3f;
    p = p * u - 0x1.00100ap-2f;
    p = p * u + 0x1.2596ecp-2f;
    p = p * u - 0x1.70baf0p-2f;
    p = p * u + 0x1.ec7b60p-2f;
    p = p * u - 0x1.7155b8p-1f;
    p = p * u + 0x1.715472p+0f;
    return p * u + whole;
  } else {
    // ln m = 2 artanh s, whose series ends early: |s| < 0.172.
    const T s = u / (m + 1.0), s2 = s * s;
    T p = s2 * (2.0 / 21) + 2.0 / 19;
    p = p * s2 + 2.0 / 17;
    p = p * s2 + 2.0 / 15;
    p = p * s2 + 2.0 / 13;
    p = p * s2 + 2.0 / 11;
    p = p * s2 + 2.0 / 9;
    p = p * s2 + 2.0 / 7;
    p = p * s2 + 2.0 / 5;
    p = p * s2 + 2.0 / 3;
    p = p * s2 + 2.0;
    return whole + p * s * 0x1.71547652b82fep+0;
  }
}

constexpr double kLog2E = 0x1.71547652b82fep+0, kLn2 = 0x1.62e42fefa39efp-1;

// Shannon entropy of softmax in nats, from two sums over the classes: z = Σ 2^t and tz = Σ t 2^t with t = (x
// - max) log2 e. In H = ln 2 · (log2 z - tz / z) both terms add, so that nothing cancels. H is never below 0;
// NaN stays NaN.
template <typename T>
RALX_HD T softmax_entropy(T z, T tz, T one_over_z) {
  return higher(T{}, (log2_positive(z) - tz * one_over_z) * RealOf<T>(kLn2));
}

}  // namespace ralx::RALX_ISA
