// The element types of tensors, and the types in which their numbers are computed.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/tensor_view.h"

#if defined(__CUDACC__)
#define RALX_HD __host__ __device__ inline
#else
#define RALX_HD inline
#endif

namespace ralx::RALX_ISA {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

RALX_HD int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename To, typename From>
RALX_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename To, typename From>
RALX_HD To convert(From from) {
  if constexpr (sizeof(from) > 8)  // a vector
    return __builtin_convertvector(from, To);
  else
    return static_cast<To>(from);
}

RALX_HD double to_real(double x) { return x; }
RALX_HD float to_real(float x) { return x; }
RALX_HD float to_real(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// Exact for every value. A half's exponent and mantissa, moved to those of a float, make a number that is
// 2^112 too small, for a subnormal half too; only infinity and NaN need the float's own top exponent.
RALX_HD float to_real(Half x) {
#if defined(__CUDA_ARCH__)
  float real;
  asm("cvt.f32.f16 %0, %1;" : "=f"(real) : "h"(x.bits));
  return real;
#else
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t bits = magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : finite;
  return bit_cast<float>(bits | static_cast<uint32_t>(x.bits & 0x8000) << 16);
#endif
}

template <typename Function>
RALX_HD void dispatch_integral(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::uint8: return function(uint8_t{});
    case DType::int16: return function(int16_t{});
    case DType::int32: return function(int32_t{});
    default: return function(int64_t{});
  }
}

}  // namespace ralx::RALX_ISA
