#pragma once

#include <cstdint>

#include "common/pixel_math.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {

// A row whose sum is too large for float64 is taken times this, which changes no share of it.
constexpr double kOfHugeRow = 0x1p-64;

// Equal bins over low..high.
struct Bins {
  double low = 0, unit = 1, scale = 1, last = 0;

  Bins() = default;
  RALX_HD Bins(double low, double high, int64_t count) : low(low), last(static_cast<double>(count - 1)) {
    unit = high - low < 1 ? 0x1p128 : 1;  // or the quotient of a subnormal range would overflow
    scale = static_cast<double>(count) / ((high - low) * unit);
  }

  // Over the range of what was met.
  RALX_HD static Bins of_own_range(double low, double high, int64_t count) {
    return low < high ? Bins(low, high, count) : Bins(low - 0.5, high + 0.5, count);
  }

  // The bin, cut to an integer, of a number or a vector of them: 0..last. NaN gets some bin.
  template <typename T>
  RALX_HD T position(T x) const {
    const T first = {}, last = this->last - first;
    return lower(higher((x * unit - low * unit) * scale, first), last);
  }
};

}  // namespace ralx::RALX_ISA
