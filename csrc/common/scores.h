// The mathematics of the scores, for both backends.
#pragma once

#include <cstdint>

#include "common/pixel_math.h"
#include "common/region_outputs.h"

namespace ralx::RALX_ISA {

RALX_HD int64_t count(const Scores& scores) {
  return scores.margin + scores.least_confidence + (scores.neighbourhood > 0 ? 1 : 0);
}

// The impurity of a pixel is the entropy of the class histogram of the window around the pixel: ln n - Σ c ln
// c / n for a window of n pixels with c pixels of each class. A window is cut at the image's border. Each c
// ln c is rounded to an integer, so that a sum to which it is added and from which it is taken again is
// unchanged.
constexpr double kImpurityUnit = 0x1p-40;

RALX_HD int64_t c_log_c(int64_t c) {
  if (c == 0) return 0;
  const double count = static_cast<double>(c);
  return static_cast<int64_t>(count * log2_positive(count) * (kLn2 / kImpurityUnit) + 0.5);
}

// The impurity of a window from c_log_c(pixels) and the sum of c_log_c over the classes.
RALX_HD double impurity_of(int64_t pixels, int64_t log_pixels, int64_t sum) {
  return static_cast<double>(log_pixels - sum) * kImpurityUnit / static_cast<double>(pixels);
}

}  // namespace ralx::RALX_ISA
