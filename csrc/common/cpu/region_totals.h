#pragma once

#include <cstdint>

#include "common/cpu/buffer.h"
#include "common/cpu/class_counts.h"
#include "common/region_grid.h"

namespace ralx::RALX_ISA {

// The sums and class counts that units of work find. A unit covers some pixel rows of one row of regions
// [cols]. The numbers of the units are added up in the units' order, so that no result depends on the number
// of threads.
class RegionTotals {
 public:
  // `kinds` is how many sums a region has.
  RegionTotals(const RegionGrid& grid, int64_t classes, int64_t units, int64_t kinds)
      : grid_(grid), classes_(classes), kinds_(kinds), sums_(units * kinds * grid.cols),
        counts_(units * grid.cols * classes) {}

  // The sums of a unit [kinds, cols], not initialised.
  double* sums(int64_t unit) { return sums_.data() + unit * kinds_ * grid_.cols; }

  void set_counts(int64_t unit, const ClassCounts& counts) {
    int32_t* out = counts_.data() + unit * grid_.cols * classes_;
    for (int64_t i = 0; i < grid_.cols * classes_; ++i) out[i] = counts.count(i);
  }

  // Writes sum `kind` of the row of regions that units begin .. end - 1 cover, to out [cols].
  void add_up(int64_t kind, int64_t begin, int64_t end, float* out) const {
    for (int64_t col = 0; col < grid_.cols; ++col) {
      double total = 0;
      for (int64_t unit = begin; unit < end; ++unit)
        total += sums_[(unit * kinds_ + kind) * grid_.cols + col];
      out[col] = static_cast<float>(total);
    }
  }

  // Writes the class histograms [cols, C] of row `row` of the regions, which units begin .. end - 1 cover.
  void add_up_classes(int64_t row, int64_t begin, int64_t end, float* class_hist) const {
    for (int64_t i = 0; i < grid_.cols * classes_; ++i) {
      int64_t count = 0;
      for (int64_t unit = begin; unit < end; ++unit) count += counts_[unit * grid_.cols * classes_ + i];
      class_hist[i] =
          static_cast<float>(static_cast<double>(count) / static_cast<double>(grid_.area(row, i / classes_)));
    }
  }

 private:
  const RegionGrid& grid_;
  const int64_t classes_, kinds_;
  Buffer<double> sums_;     // [units, kinds, cols]
  Buffer<int32_t> counts_;  // [units, cols, C]
};

}  // namespace ralx::RALX_ISA
