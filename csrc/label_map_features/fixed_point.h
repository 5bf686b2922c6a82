#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace ralx::RALX_ISA {

// Several threads may have pixels of one region, in any order. So entropies and scores are rounded to
// multiples of 1.5e-8 and added up as integers, whose sum does not depend on the order.
constexpr double kFixedUnit = 0x1p-26;

template <typename Real>
RALX_HD int64_t to_fixed(Real x) {
  const Real units = x * static_cast<Real>(1 / kFixedUnit);
  return static_cast<int64_t>(units == units ? units + Real(0.5)
                                             : Real(0));  // the region's minimum tells whether there was NaN
}

}  // namespace ralx::RALX_ISA
