// The per-pixel mathematics of the ops, for host and device, written once: T is a float or double on a GPU,
// where a thread has a pixel, and a vector of them on the CPU.
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

// The second operand where one is NaN.
template <typename T>
RALX_HD T lower(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
RALX_HD T higher(T a, T b) {
  return a > b ? a : b;
}

// One step of argmax over classes, as torch.argmax: the first NaN wins, then the lowest of equal classes.
// `best` ends as the maximum, or NaN where there is one.
template <typename T>
RALX_HD void argmax_step(T x, IntOf<T> c, T& best, IntOf<T>& label) {
  const auto better = (!(x <= best)) & (best == best);
  best = better ? x : best;
  label = better ? c : label;
}

// A float32 sum loses a little with each number that it takes, so it takes a few at a time: then carry() moves
// it into a total, and leaves in it what rounding took from the total (Kahan 1965).
template <typename T>
RALX_HD void carry(T& sum, T& total) {
  const T before = total;
  total = before + sum;
  sum -= total - before;
}

// So many passes; all classes where they are few, else so many.
constexpr int kPassesAtOnce = 32, kFewClasses = 32, kClassesAtOnce = 16;

// 2^t is nothing beside 1 below this, and soon leaves the normal numbers.
template <typename Real>
constexpr Real kFloor = sizeof(Real) == 4 ? Real(-125) : Real(-1010);

// 2^t for kFloor <= t <= 0, and a little above; NaN gives NaN or, in float, some number.
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

// log2 x for normal x > 0. Zero and subnormal numbers give some -127 (float) or -1023 (double), so that
// x log2 x is right for them; NaN and infinity give a number.
template <typename T>
RALX_HD T log2_positive(T x) {
  using Real = RealOf<T>;
  using Word = WordOf<T>;
  constexpr bool kSingle = sizeof(Real) == 4;
  constexpr WordOf<Real> kHalf = kSingle ? 0x3f3504f3 : 0x3fe6a09e667f3bcd;  // √½
  constexpr int kMantissa = kSingle ? 23 : 52;
  const Word bits = bit_cast<Word>(x);
  // Of x = 2^exponent · m with m in [√½, √2).
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

// Shannon entropy of softmax in nats, from two sums over the classes. With t = (x - max) log2 e and z = Σ
// 2^t, H = ln 2 · (log2 z - Σ t 2^t / z): two terms >= 0, nothing cancels; never below 0, NaN stays.
template <typename T>
RALX_HD T softmax_entropy(T z, T tz, T one_over_z) {
  return higher(T{}, (log2_positive(z) - tz * one_over_z) * RealOf<T>(kLn2));
}

}  // namespace ralx::RALX_ISA
