#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/tensor_view.h"

namespace ralx {

// For region r = row · (W / rw) + column, tiled from the top left of the H×W image:
//   class_hist[n, r, c]    = fraction of the region's pixels whose argmax is c
//   entropy_min[n, r, i, j], entropy_avg, entropy_max = pixel entropy (nats) pooled over cell (i, j), of
//                            (rh / ch) × (rw / cw) pixels; a remainder inside the region is dropped
//   entropy_sum[n, r]      = sum of the entropy of all pixels of the region
// logits [N, C, h, w] of any strides, upsampled to `size` = (H, W); the outputs are contiguous float32.
using RegionFeaturesKernel = void(const TensorView& logits, Extent region_size, Extent size,
                                  bool align_corners, const TensorView& class_hist,
                                  const TensorView& entropy_min, const TensorView& entropy_avg,
                                  const TensorView& entropy_max, const TensorView& entropy_sum, int threads);

}  // namespace ralx

RALX_DECLARE_KERNEL(region_features, RegionFeaturesKernel)
