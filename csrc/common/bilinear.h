#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace ralx::RALX_ISA {

// Where a pixel of the upsampled image lies between two pixels of the source, along one axis.
struct Neighbours {
  int64_t first, second;
  double weight;  // of `second`; exactly 0, and second == first, where the source pixel itself is hit
};

// torch.nn.functional.interpolate's coordinates, as exact fractions: a neighbour of weight 0 must not be
// read, since it may be -inf, and a rounded coordinate would give that neighbour a weight of 1e-7.
RALX_HD Neighbours bilinear(int64_t position, int64_t source_size, int64_t size, bool align_corners) {
  int64_t numerator, denominator;
  if (align_corners) {
    numerator = position * (source_size - 1);
    denominator = size > 1 ? size - 1 : 1;
  } else {
    numerator = (2 * position + 1) * source_size - size;
    denominator = 2 * size;
    numerator = numerator > 0 ? numerator : 0;
  }
  int64_t first;
  if ((numerator | denominator) >> 31 == 0)  // 32-bit division takes a fraction of the time
    first = static_cast<uint32_t>(numerator) / static_cast<uint32_t>(denominator);
  else
    first = numerator / denominator;
  const int64_t remainder = numerator - first * denominator;
  if (first >= source_size - 1) return {source_size - 1, source_size - 1, 0.0};
  if (remainder == 0) return {first, first, 0.0};
  return {first, first + 1, static_cast<double>(remainder) / static_cast<double>(denominator)};
}

// (1 - weight) · first + weight · second, without looking at `second` where its weight is 0.
template <typename Real>
RALX_HD Real interpolate(Real first, Real second, Real weight) {
  const Real rest = weight > 0 ? weight * second : Real(0);
  return (1 - weight) * first + rest;
}

}  // namespace ralx::RALX_ISA
