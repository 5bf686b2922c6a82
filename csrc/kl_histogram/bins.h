#pragma once

#include <cstdint>

#include "common/pixel_math.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {

// A row whose sum is too large for float64 is multiplied by this, which changes none of the row's shares.
constexpr double kOfHugeRow = 0x1p-64;

// Equal bins over low..high.
struct Bins {
  double low = 0, unit = 1, scale = 1, last = 0;

  Bins() = default;
  RALX_HD Bins(double low, double high, int64_t count) : low(low), last(static_cast<double>(count - 1)) {
    unit = high - low < 1 ? 0x1p128 : 1;  // or the quotient below would overflow in a subnormal range
    scale = static_cast<double>(count) / ((high - low) * unit);
  }

  // Bins over low..high, the lowest and highest divergence that a row has; ±0.5 around them where they are
  // equal.
  RALX_HD static Bins of_own_range(double low, double high, int64_t count) {
    return low < high ? Bins(low, high, count) : Bins(low - 0.5, high + 0.5, count);
  }

  // The position of a number or of a vector of numbers, whose integer part is the bin, 0..last. NaN gets some
  // bin.
  template <typename T>
  RALX_HD T position(T x) const {
    const T first = {}, last = this->last - first;
    return lower(higher((x * unit - low * unit) * scale, first), last);
  }
};

}  // namespace ralx::RALX_ISA
