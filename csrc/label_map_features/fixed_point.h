#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace ralx::RALX_ISA {

// Regions of any shape have no place where their pixels are gathered, and threads meet in them. So sums are
// integers, of entropies and scores rounded to 1.5e-8: they are the same in every order of the pixels.
constexpr double kFixedUnit = 0x1p-26;

template <typename Real>
RALX_HD int64_t to_fixed(Real x) {
  const Real units = x * static_cast<Real>(1 / kFixedUnit);
  return static_cast<int64_t>(units == units ? units + Real(0.5)
                                             : Real(0));  // what is NaN, the minimum tells
}

}  // namespace ralx::RALX_ISA
