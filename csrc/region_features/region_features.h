#pragma once

#include <cstdint>

#include "common/cpu/kernel.h"
#include "common/region_outputs.h"
#include "common/tensor_view.h"

namespace ralx {

// The features of regions of region_size = (rh, rw) pixels, which tile the H×W image from the top left:
// region r = row · cols + column. A cell has (rh / ch) × (rw / cw) pixels; the rows and columns that the
// cells of a region leave over are in class_hist and in the sums alone. A remainder at the image's edge is in
// no region or, with keep_edge, in smaller regions, whose cells are cut.
//   logits  [N, C, h, w] of any strides, upsampled to `size` = (H, W)
//   out     float32
using RegionFeaturesKernel = void(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                                  bool align_corners, const Scores& scores, const RegionOutputs& out,
                                  int threads);

// On a GPU. scratch: uint8 [region_features_scratch(...)], 16-byte aligned.
namespace cuda {
int64_t region_features_scratch(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                                Extent cells, const Scores& scores);
void region_features(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                     bool align_corners, const Scores& scores, const RegionOutputs& out,
                     const TensorView& scratch, Stream stream);
}  // namespace cuda

}  // namespace ralx

RALX_DECLARE_KERNEL(region_features, RegionFeaturesKernel)
