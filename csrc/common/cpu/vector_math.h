// The CPU's side of common/pixel_math.h: the types of a vector's lanes, and functions of vectors alone.
#pragma once

#include "common/cpu/simd.h"
#include "common/pixel_math.h"

namespace ralx::RALX_ISA {

template <>
struct LanesOf<Vector<float>> {
  using Real = float;
  using Int = Vector<int32_t>;
  using Word = Vector<uint32_t>;
};
template <>
struct LanesOf<Vector<double>> {
  using Real = double;
  using Int = Vector<int64_t>;
  using Word = Vector<uint64_t>;
};

#if defined(__AVX512F__)
// Takes five sixths of the instructions of the general exp2_nonpositive(), and is right for every t down to
// -inf.
inline Vector<float> exp2_nonpositive(Vector<float> t) {
  const auto f = (Vector<float>)_mm512_reduce_ps((__m512)t, _MM_FROUND_TO_NEG_INF);
  // Minimax of the relative error on 0 <= f < 1 with 2^0 = 1: 8.3e-8.
  Vector<float> p = f * 0x1.e974fap-10f + 0x1.277856p-7f;
  p = p * f + 0x1.c91ce6p-5f;
  p = p * f + 0x1.ebdb56p-3f;
  p = p * f + 0x1.62e4bap-1f;
  p = p * f + 1.0f;
  return (Vector<float>)_mm512_scalef_ps((__m512)p, (__m512)t);
}
#endif

// 1 / x to nearly the last bit, for normal x.
template <typename T>
RALX_HD T reciprocal(T x) {
  return RealOf<T>(1) / x;
}

#if defined(__AVX512F__)
inline Vector<float> reciprocal(Vector<float> x) {
  const auto r = (Vector<float>)_mm512_rcp14_ps((__m512)x);
  return r * (2.0f - x * r);
}
#endif

}  // namespace ralx::RALX_ISA
