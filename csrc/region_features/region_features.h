#pragma once

#include <cstdint>

#include "common/bad_label.h"
#include "common/isa.h"
#include "common/tensor_view.h"

namespace ralx {

// Which scores are summed over the regions beside the entropy, in this order; all grow with uncertainty.
struct Scores {
  bool margin;            // 1 - (p of the best class - p of the second best)
  bool least_confidence;  // 1 - p of the best class
  int64_t neighbourhood;  // k: entropy · entropy of the predicted classes in the k×k window; 0: not wanted
};

// For region r = row · cols + column, tiled from the top left of the H×W image:
//   class_hist[n, r, c]    = fraction of the region's pixels whose argmax is c
//   entropy_min[n, r, i, j], entropy_avg, entropy_max = pixel entropy (nats) pooled over cell (i, j), of
//                            (rh / ch) × (rw / cw) pixels; a remainder inside the region is dropped
//   entropy_sum[n, r]      = sum of the entropy of all pixels of the region
//   score_sum[s, n, r]     = the same of the scores
// A remainder at the image's edge is in no region or, with keep_edge, in smaller ones, whose cells are cut;
// the maps of an empty cell are 0. logits [N, C, h, w] of any strides, upsampled to `size` = (H, W); the
// outputs are contiguous float32.
using RegionFeaturesKernel = void(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                                  bool align_corners, const Scores& scores, const TensorView& class_hist,
                                  const TensorView& entropy_min, const TensorView& entropy_avg,
                                  const TensorView& entropy_max, const TensorView& entropy_sum,
                                  const TensorView& score_sum, int threads);

// The same for regions of any shape: region r of image n is the pixels where regions[n, y, x] == r, of
// regions [N, H, W] (integers of any strides; negative: no region); one cell each.
//   class_hist [N, R, C], entropy_min, entropy_avg, entropy_max, entropy_sum [N, R], score_sum [S, N, R]
//   float32, pixel_count [N, R] int64; zeros for a region without pixels
// Returns the first region that is not below R, if there is one.
using LabelMapFeaturesKernel = BadLabel(const TensorView& logits, const TensorView& regions,
                                        bool align_corners, const Scores& scores,
                                        const TensorView& class_hist, const TensorView& entropy_min,
                                        const TensorView& entropy_avg, const TensorView& entropy_max,
                                        const TensorView& entropy_sum, const TensorView& score_sum,
                                        const TensorView& pixel_count, int threads);

// On a GPU. `scratch` is memory for the kernels, 16-byte aligned, of as many bytes as <op>_scratch says for
// the same arguments. A region of a label map that is not below R is no region.
namespace cuda {
int64_t region_features_scratch(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                                Extent cells, const Scores& scores);
void region_features(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                     bool align_corners, const Scores& scores, const TensorView& class_hist,
                     const TensorView& entropy_min, const TensorView& entropy_avg,
                     const TensorView& entropy_max, const TensorView& entropy_sum,
                     const TensorView& score_sum, const TensorView& scratch, Stream stream);
int64_t label_map_features_scratch(const TensorView& logits, const TensorView& regions, int64_t num_regions,
                                   const Scores& scores);
void label_map_features(const TensorView& logits, const TensorView& regions, bool align_corners,
                        const Scores& scores, const TensorView& class_hist, const TensorView& entropy_min,
                        const TensorView& entropy_avg, const TensorView& entropy_max,
                        const TensorView& entropy_sum, const TensorView& score_sum,
                        const TensorView& pixel_count, const TensorView& scratch, Stream stream);
}  // namespace cuda

}  // namespace ralx

RALX_DECLARE_KERNEL(region_features, RegionFeaturesKernel)
RALX_DECLARE_KERNEL(label_map_features, LabelMapFeaturesKernel)
