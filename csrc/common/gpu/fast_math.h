// The GPU's side of common/pixel_math.h: functions that are one instruction there, some of them less exact.
// On the host's grid, plain C++ stands in for the instruction.
#pragma once

#include "common/pixel_math.h"

namespace ralx::RALX_ISA {

// The larger and the smaller of two numbers, or NaN where a or b is NaN.
RALX_HD float larger_or_nan(float a, float b) {
#if defined(__CUDA_ARCH__)
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
#else
  return a > b || a != a ? a : b;
#endif
}
RALX_HD float smaller_or_nan(float a, float b) {
#if defined(__CUDA_ARCH__)
  float smaller;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(smaller) : "f"(a), "f"(b));
  return smaller;
#else
  return a < b || a != a ? a : b;
#endif
}

// a · b, rounded on its own, also where the product is added to something.
RALX_HD float rounded_product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// 2^t of any t <= 0: exactly 0 far below kFloor, exactly 1 at 0. NaN stays NaN.
RALX_HD float exp2_to_zero(float t) {
#if defined(__CUDA_ARCH__)
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(t));  // to 2^-22 of its size
  return e;
#else
  if (t != t) return t;
  if (t == 0) return 1;
  return t < kFloor<float> ? 0.0f : exp2_nonpositive(t);
#endif
}

// log2 z of normal z. The error is 2^-22 of the result or, for z between 1/2 and 2, 2^-22. NaN stays NaN.
RALX_HD float log2_of_sum(float z) {
#if defined(__CUDA_ARCH__)
  float log;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(log) : "f"(z));
  return log;
#else
  return z == z ? log2_positive(z) : z;
#endif
}

// log2 p of 0 <= p <= 1, with the error of log2_of_sum(); -126 where p is 0 or subnormal, so that p log2 p is
// right.
RALX_HD float log2_of_share(float p) { return log2_of_sum(larger_or_nan(p, 0x1p-126f)); }

// 1 / z to the last bit but one, for normal z.
RALX_HD float reciprocal_of_sum(float z) {
#if defined(__CUDA_ARCH__)
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(z));
  return reciprocal;
#else
  return 1 / z;
#endif
}

}  // namespace ralx::RALX_ISA
