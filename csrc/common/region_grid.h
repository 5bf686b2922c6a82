#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/scalar.h"
#include "common/tensor_view.h"

namespace ralx::RALX_ISA {

// The regions of one image, which they tile from the top left. A remainder at the right or at the bottom
// belongs to no region or, with keep_edge, to smaller regions.
struct RegionGrid {
  Extent image, region;
  int64_t rows, cols;

  RegionGrid(Extent image, Extent region, bool keep_edge)
      : image(image), region(region),
        rows((image.height + (keep_edge ? region.height - 1 : 0)) / region.height),
        cols((image.width + (keep_edge ? region.width - 1 : 0)) / region.width) {}

  RALX_HD int64_t covered_width() const { return min_of(cols * region.width, image.width); }
  RALX_HD int64_t height(int64_t row) const {
    return min_of(region.height, image.height - row * region.height);
  }
  RALX_HD int64_t width(int64_t col) const { return min_of(region.width, image.width - col * region.width); }
  RALX_HD int64_t area(int64_t row, int64_t col) const { return height(row) * width(col); }
};

}  // namespace ralx::RALX_ISA
