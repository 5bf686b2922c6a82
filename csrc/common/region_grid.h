#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/tensor_view.h"

namespace ralx::RALX_ISA {

// The regions of one image, tiled from the top left; what is left over belongs to none.
struct RegionGrid {
  Extent region;
  int64_t rows, cols;

  RegionGrid(Extent image, Extent region)
      : region(region), rows(image.height / region.height), cols(image.width / region.width) {}

  int64_t covered_width() const { return cols * region.width; }
};

}  // namespace ralx::RALX_ISA
