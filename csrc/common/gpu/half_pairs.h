// Two 16-bit floats in one word, with which a GPU computes in one instruction.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace ralx::RALX_ISA {

template <typename Short>
struct LowestPair;
template <>
struct LowestPair<Half> {
  static constexpr uint32_t kBits = 0xfc00fc00u;  // -inf
};
template <>
struct LowestPair<BFloat16> {
  static constexpr uint32_t kBits = 0xff80ff80u;
};

// function(x, y) of the first floats of a and b, and of the second floats.
template <typename Short, typename Function>
RALX_HD uint32_t each_half(uint32_t a, uint32_t b, const Function& function) {
  const auto half = [](uint32_t word, int i) { return Short{static_cast<uint16_t>(word >> 16 * i)}; };
  return function(half(a, 0), half(b, 0)) | function(half(a, 1), half(b, 1)) << 16;
}

// In each half of the result: max_of_pairs() has the larger float, or NaN where one is NaN; min_of_pairs()
// has the smaller float, or the other one where one is NaN; greater_pairs() has all bits set where a > b.
#if defined(__CUDA_ARCH__)
#define RALX_OF_PAIRS(name, Short, instruction)                      \
  __device__ inline uint32_t name(uint32_t a, uint32_t b, Short) {   \
    uint32_t result;                                                 \
    asm(instruction " %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b)); \
    return result;                                                   \
  }
RALX_OF_PAIRS(max_of_pairs, Half, "max.NaN.f16x2")
RALX_OF_PAIRS(min_of_pairs, Half, "min.f16x2")
RALX_OF_PAIRS(greater_pairs, Half, "set.gt.u32.f16x2")
RALX_OF_PAIRS(max_of_pairs, BFloat16, "max.NaN.bf16x2")
RALX_OF_PAIRS(min_of_pairs, BFloat16, "min.bf16x2")
#if __CUDA_ARCH__ >= 900
RALX_OF_PAIRS(greater_pairs, BFloat16, "set.gt.u32.bf16x2")
#else
__device__ inline uint32_t greater_pairs(uint32_t a, uint32_t b, BFloat16) {
  return each_half<BFloat16>(a, b,
                             [](BFloat16 x, BFloat16 y) { return to_real(x) > to_real(y) ? 0xffffu : 0u; });
}
#endif
#undef RALX_OF_PAIRS
#else
template <typename Short>
uint32_t max_of_pairs(uint32_t a, uint32_t b, Short) {
  return each_half<Short>(a, b, [](Short x, Short y) -> uint32_t {
    return to_real(x) > to_real(y) || to_real(x) != to_real(x) ? x.bits : y.bits;
  });
}
template <typename Short>
uint32_t min_of_pairs(uint32_t a, uint32_t b, Short) {
  return each_half<Short>(a, b, [](Short x, Short y) -> uint32_t {
    return to_real(x) < to_real(y) || to_real(y) != to_real(y) ? x.bits : y.bits;
  });
}
template <typename Short>
uint32_t greater_pairs(uint32_t a, uint32_t b, Short) {
  return each_half<Short>(a, b, [](Short x, Short y) { return to_real(x) > to_real(y) ? 0xffffu : 0u; });
}
#endif

}  // namespace ralx::RALX_ISA
