// Vectors of the instruction set that a kernel file is compiled for, as the compiler's own vector types:
// their arithmetic operators, comparisons and ?: work on every lane.
#pragma once

#include <cstdint>

#include "common/isa.h"

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

// From and to memory that needn't be aligned.
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

// Whether a comparison, whose lanes are 0 or -1, holds in all of them.
template <typename V>
inline bool all(V comparison) {
  bool every = true;
  for (uint32_t i = 0; i < sizeof(V) / sizeof(comparison[0]); ++i) every &= comparison[i] != 0;
  return every;
}

// a · b + c, rounded once where kFused. Said outright: whether the compiler contracts an expression depends
// on what is around it.
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

// Bit i of the results tells whether lanes i are equal.
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
