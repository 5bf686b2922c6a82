// The part of the contract that the ops which measure regions share: which scores are asked for, and where
// the features go.
#pragma once

#include <cstdint>

#include "common/tensor_view.h"

namespace ralx {

// Which scores are summed over the regions beside the entropy, in this order. Every score grows with
// uncertainty.
struct Scores {
  bool margin;            // 1 - (p of the best class - p of the second best)
  bool least_confidence;  // 1 - p of the best class
  int64_t neighbourhood;  // k: entropy · entropy of the predicted classes in the k×k window; 0: not wanted
};

// Memory for the features of N images of R regions, contiguous:
//   class_hist[n, r, c] = fraction of the region's pixels whose argmax is c
//   entropy_min[n, r, i, j], entropy_avg, entropy_max = pixel entropy (nats) pooled over cell (i, j); 0 in a
//   cell
//                         without pixels
//   entropy_sum[n, r]   = sum of the entropy of all pixels of the region
//   score_sum[s, n, r]  = sum of score s of all pixels of the region
//   pixel_count[n, r]   = pixels of the region, for label_map_features; null for region_features
struct RegionOutputs {
  int64_t regions;  // R
  Extent cells;     // of a region
  float *class_hist, *entropy_min, *entropy_avg, *entropy_max, *entropy_sum, *score_sum;
  int64_t* pixel_count;
};

}  // namespace ralx
