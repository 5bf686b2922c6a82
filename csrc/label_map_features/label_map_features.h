#pragma once

#include <cstdint>

#include "common/bad_label.h"
#include "common/cpu/kernel.h"
#include "common/region_outputs.h"
#include "common/tensor_view.h"

namespace ralx {

// The features of regions of any shape: region r of image n is the pixels where regions[n, y, x] == r. A
// region has one cell, of all its pixels; a region without pixels has zeros.
//   logits   [N, C, h, w] of any strides, upsampled to the H×W of `regions`
//   regions  [N, H, W] integers of any strides; a negative number is no region
//   out      float32, pixel_count int64
// Returns the first number in `regions` that is not below R, if there is one; `out` then holds nothing of
// use.
using LabelMapFeaturesKernel = BadLabel(const TensorView& logits, const TensorView& regions,
                                        bool align_corners, const Scores& scores, const RegionOutputs& out,
                                        int threads);

// On a GPU a number that is not below R is no region. scratch: uint8 [label_map_features_scratch(...)],
// 16-byte aligned.
namespace cuda {
int64_t label_map_features_scratch(const TensorView& logits, const TensorView& regions, int64_t num_regions,
                                   const Scores& scores);
void label_map_features(const TensorView& logits, const TensorView& regions, bool align_corners,
                        const Scores& scores, const RegionOutputs& out, const TensorView& scratch,
                        Stream stream);
}  // namespace cuda

}  // namespace ralx

RALX_DECLARE_KERNEL(label_map_features, LabelMapFeaturesKernel)
