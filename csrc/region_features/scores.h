#pragma once

#include <cstdint>

#include "common/pixel_math.h"
#include "region_features/region_features.h"

namespace ralx::RALX_ISA {

RALX_HD int64_t count(const Scores& scores) {
  return scores.margin + scores.least_confidence + (scores.neighbourhood > 0 ? 1 : 0);
}

// The impurity of a pixel is the entropy of the class histogram of the window around it, which is
// ln n - Σ c ln c / n with n pixels in the window, c of each class. A window is cut at the image's border.
// Sums of c ln c are integers, so that what is added and taken away again leaves nothing.
constexpr double kImpurityUnit = 0x1p-40;

RALX_HD int64_t c_log_c(int64_t c) {
  if (c == 0) return 0;
  const double count = static_cast<double>(c);
  return static_cast<int64_t>(count * log2_positive(count) * (kLn2 / kImpurityUnit) + 0.5);
}

// Of a window of so many pixels, from its c_log_c and the sum of those of the classes.
RALX_HD double impurity_of(int64_t pixels, int64_t log_pixels, int64_t sum) {
  return static_cast<double>(log_pixels - sum) * kImpurityUnit / static_cast<double>(pixels);
}

}  // namespace ralx::RALX_ISA
