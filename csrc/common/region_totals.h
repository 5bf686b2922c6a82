#pragma once

#include <cstdint>

#include "common/buffer.h"
#include "common/class_counts.h"
#include "common/region_grid.h"

namespace ralx::RALX_ISA {

// What units of work found in the regions they cover, a row of regions [cols] each; added up in the units'
// order, so that the number of threads doesn't show.
class RegionTotals {
 public:
  RegionTotals(const RegionGrid& grid, int64_t classes, int64_t units)
      : grid_(grid), classes_(classes), sums_(units * grid.cols), counts_(units * grid.cols * classes) {}

  double* sums(int64_t unit) { return sums_.data() + unit * grid_.cols; }

  void set_counts(int64_t unit, const ClassCounts& counts) {
    int32_t* out = counts_.data() + unit * grid_.cols * classes_;
    for (int64_t i = 0; i < grid_.cols * classes_; ++i) out[i] = counts.count(i);
  }

  // Of one row of regions, made by units begin .. end - 1: sum [cols], class_hist [cols, C].
  void add_up(int64_t begin, int64_t end, float* sum, float* class_hist) const {
    const double area = static_cast<double>(grid_.region.height * grid_.region.width);
    for (int64_t col = 0; col < grid_.cols; ++col) {
      double total = 0;
      for (int64_t unit = begin; unit < end; ++unit) total += sums_[unit * grid_.cols + col];
      sum[col] = static_cast<float>(total);
    }
    for (int64_t i = 0; i < grid_.cols * classes_; ++i) {
      int64_t count = 0;
      for (int64_t unit = begin; unit < end; ++unit) count += counts_[unit * grid_.cols * classes_ + i];
      class_hist[i] = static_cast<float>(static_cast<double>(count) / area);
    }
  }

 private:
  const RegionGrid& grid_;
  const int64_t classes_;
  Buffer<double> sums_;     // [units, cols]
  Buffer<int32_t> counts_;  // [units, cols, C]
};

}  // namespace ralx::RALX_ISA
