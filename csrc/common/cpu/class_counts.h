#pragma once

#include <cstdint>

#include "common/cpu/block_math.h"
#include "common/cpu/buffer.h"
#include "common/region_grid.h"

namespace ralx::RALX_ISA {

// Label counts of one row of regions [cols, C].
class ClassCounts {
 public:
  ClassCounts(const RegionGrid& grid, int64_t classes, Arena& arena)
      : grid_(grid), classes_(classes), counts_(arena.take<int32_t>(grid.cols * classes * kCounters)) {}

  void clear() {
    for (int64_t i = 0; i < grid_.cols * classes_ * kCounters; ++i) counts_[i] = 0;
  }

  // Counts the labels of the whole row, or of pixels begin .. end - 1, where labels[0] is the label of pixel
  // `begin`.
  void add_row(const int32_t* labels) { add(labels, 0, grid_.covered_width()); }

  void add(const int32_t* labels, int64_t begin, int64_t end) {
    for (int64_t x = begin; x < end;) {
      const int64_t col = x / grid_.region.width;
      const int64_t stop = min_of(end, col * grid_.region.width + grid_.width(col));
      int32_t* counts = counts_ + col * classes_ * kCounters;
      for (; x < stop; ++x) ++counts[*labels++ * kCounters + x % kCounters];
    }
  }

  // Counts pixels begin .. end - 1, at most kBlock: bit i of masks.of(c) tells whether class c has the
  // largest logit of pixel begin + i. Of several such classes the lowest is counted.
  template <typename Real>
  void add(const BlockMasks<Real>& masks, int64_t begin, int64_t end) {
    for (int64_t x = begin; x < end;) {
      const int64_t col = x / grid_.region.width;
      const int64_t stop = min_of(end, col * grid_.region.width + grid_.width(col));
      // Pixels x .. stop - 1 that no class has claimed yet.
      uint32_t open = (~uint32_t{0} >> (32 - (stop - x))) << (x - begin);
      int32_t* counts = counts_ + col * classes_ * kCounters;
      for (int64_t c = 0; c < classes_; ++c) {
        const uint32_t claimed = masks.of(c) & open;
        open ^= claimed;
        counts[c * kCounters] += __builtin_popcount(claimed);
      }
      x = stop;
    }
  }

  // Entry i of [cols, C].
  int32_t count(int64_t i) const {
    int32_t sum = 0;
    for (int counter = 0; counter < kCounters; ++counter) sum += counts_[i * kCounters + counter];
    return sum;
  }

 private:
  // Neighbouring pixels mostly have the same class, and an addition to a counter waits for the last addition
  // to that counter. So each class has a few counters, which take turns.
  static constexpr int kCounters = 4;

  const RegionGrid& grid_;
  const int64_t classes_;
  int32_t* const counts_;
};

}  // namespace ralx::RALX_ISA
