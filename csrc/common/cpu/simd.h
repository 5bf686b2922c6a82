// Vectors of the instruction set that a kernel file is compiled for, as the compiler's own vector types:
// their arithmetic operators, comparisons and ?: work on every lane.
#pragma once

#include <cstdint>

#include "common/scalar.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace ralx::RALX_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
};

template <typename T>
using Vector = typename VectorOf<T>::Type;

template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

// Load from memory, and store to memory, that needn't be aligned.
template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> vector;
  __builtin_memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <typename T>
inline void store(T* to, Vector<T> vector) {
  __builtin_memcpy(to, &vector, sizeof(vector));
}

// Loads numbers as they are stored and converts them to V, the vector type in which they are computed; the
// second argument is there for its type alone.
template <typename Stored, typename V>
inline V widen(const Stored* from, V vector) {
  for (uint32_t i = 0; i < sizeof(V) / sizeof(vector[0]); ++i) vector[i] = to_real(from[i]);
  return vector;
}

inline Vector<float> widen(const float* from, Vector<float>) { return load(from); }

#if defined(__AVX512F__)
inline Vector<float> widen(const Half* from, Vector<float>) {
  return (Vector<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

// One permutation fills the upper half of each lane; the lower half is zero.
inline Vector<float> widen(const BFloat16* from, Vector<float>) {
  const __m512i places = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5,
                                          0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
  const __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return (Vector<float>)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, places, words);
}
#endif

// table[place] for each lane, of places 0 .. kLanes - 1. All of the table's kLanes numbers may be read.
template <typename Real, typename Places>
inline Vector<Real> look_up(const Real* table, Places places) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4)
    return (Vector<Real>)_mm512_permutexvar_ps((__m512i)places, (__m512)load(table));
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 4)
    return (Vector<Real>)_mm256_permutevar8x32_ps((__m256)load(table), (__m256i)places);
#endif
  Vector<Real> found;
  for (int i = 0; i < kLanes<Real>; ++i) found[i] = table[places[i]];
  return found;
}

// Whether a comparison, whose lanes are 0 or -1, holds in all of them.
template <typename V>
inline bool all(V comparison) {
#if defined(__AVX512F__)
  return _mm512_movepi8_mask((__m512i)comparison) == ~uint64_t{0};
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)comparison) == -1;
#else
  bool every = true;
  for (uint32_t i = 0; i < sizeof(V) / sizeof(comparison[0]); ++i) every &= comparison[i] != 0;
  return every;
#endif
}

// a · b + c, rounded once where kFused. The instruction is written out, because whether the compiler
// contracts an expression depends on the code around the expression.
#if defined(__AVX512F__)
constexpr bool kFused = true;
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif defined(__AVX2__)
constexpr bool kFused = true;
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#elif defined(__aarch64__)
constexpr bool kFused = true;
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#else
constexpr bool kFused = false;
template <typename V>
inline V multiply_add(V a, V b, V c) {
  return a * b + c;
}
#endif

// Bit i of the result tells whether a and b are equal in lane i.
#if defined(__AVX512F__)
inline uint32_t equal_lanes(Vector<float> a, Vector<float> b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
}
inline uint32_t equal_lanes(Vector<double> a, Vector<double> b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ);
}
#elif defined(__AVX2__)
inline uint32_t equal_lanes(Vector<float> a, Vector<float> b) {
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)(a == b)));
}
inline uint32_t equal_lanes(Vector<double> a, Vector<double> b) {
  return static_cast<uint32_t>(_mm256_movemask_pd((__m256d)(a == b)));
}
#else
template <typename V>
inline uint32_t equal_lanes(V a, V b) {
  const auto equal = a == b;
  uint32_t bits = 0;
  for (uint32_t i = 0; i < sizeof(V) / sizeof(a[0]); ++i) bits |= static_cast<uint32_t>(equal[i] & 1) << i;
  return bits;
}
#endif

}  // namespace ralx::RALX_ISA
