#pragma once

#include <cstdint>

#include "common/buffer.h"
#include "common/region_grid.h"

namespace ralx::RALX_ISA {

// Label counts of one row of regions [cols, C]. Neighbouring pixels mostly have the same class, and adding to
// one counter again and again waits for the last addition each time: so there are a few counters for each
// class.
class ClassCounts {
 public:
  ClassCounts(const RegionGrid& grid, int64_t classes, Arena& arena)
      : grid_(grid), classes_(classes), counts_(arena.take<int32_t>(grid.cols * classes * kLanes)) {}

  void clear() {
    for (int64_t i = 0; i < grid_.cols * classes_ * kLanes; ++i) counts_[i] = 0;
  }

  void add_row(const int32_t* labels) {
    for (int64_t col = 0; col < grid_.cols; ++col) {
      int32_t* counts = counts_ + col * classes_ * kLanes;
      for (int64_t x = 0; x < grid_.region.width; ++x) ++counts[*labels++ * kLanes + x % kLanes];
    }
  }

  // Entry i of [cols, C].
  int32_t count(int64_t i) const {
    int32_t sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += counts_[i * kLanes + lane];
    return sum;
  }

 private:
  static constexpr int kLanes = 4;

  const RegionGrid& grid_;
  const int64_t classes_;
  int32_t* const counts_;
};

}  // namespace ralx::RALX_ISA
