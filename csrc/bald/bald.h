#pragma once

#include <cstdint>

#include "common/cpu/kernel.h"
#include "common/tensor_view.h"

namespace ralx {

// Mutual information between prediction and network, in nats; p[t] is pass t's softmax, H Shannon's entropy:
//   bald_map[n, y, x]   = H(mean over t of p[t]) - mean over t of H(p[t])
//   region_sum[n, r]    = sum of bald_map over region r
//   class_hist[n, r, c] = fraction of the region's pixels where class c has the largest mean p
// Regions tile the image as in region_features. Outputs are contiguous float32. T passes of logits, all at
// once:
using BaldKernel = void(const TensorView& logits /* [T, N, C, h, w] */, Extent region_size, bool keep_edge,
                        bool align_corners, const TensorView& bald_map, const TensorView& region_sum,
                        const TensorView& class_hist, int threads);

// Or one by one, adding to sum_p [N, C, H, W] and sum_entropy [N, H, W] (contiguous; double for float64
// logits, else float), with the same result to the bit:
using BaldUpdateKernel = void(const TensorView& logits /* [N, C, h, w] */, bool align_corners,
                              const TensorView& sum_p, const TensorView& sum_entropy, int threads);

// Before every 32nd pass but the first (kPassesAtOnce in common/pixel_math.h) each of both sums is carried into
// a total of its shape, which is 0 at first; bald_compute then wants what sum and total make together.
using BaldCarryKernel = void(const TensorView& sums, const TensorView& totals, int threads);

using BaldComputeKernel = void(const TensorView& sum_p, const TensorView& sum_entropy, int64_t passes,
                               Extent region_size, bool keep_edge, const TensorView& bald_map,
                               const TensorView& region_sum, const TensorView& class_hist, int threads);

// On a GPU sums and logits are float or less, and streamed results too are those of the stacked passes to the
// bit. scratch: uint8 [bald_scratch(...)], 8-byte aligned, of any content; it must be left alone until the
// stream has come past.
namespace cuda {
int64_t bald_scratch(int64_t passes, int64_t images, int64_t classes, Extent size, Extent region_size,
                     bool keep_edge);

void bald(const TensorView& logits, Extent region_size, bool keep_edge, bool align_corners,
          const TensorView& bald_map, const TensorView& region_sum, const TensorView& class_hist,
          const TensorView& scratch, Stream stream);

void bald_update(const TensorView& logits, bool align_corners, const TensorView& sum_p,
                 const TensorView& sum_entropy, Stream stream);

void bald_carry(const TensorView& sums, const TensorView& totals, Stream stream);

void bald_compute(const TensorView& sum_p, const TensorView& sum_entropy, int64_t passes, Extent region_size,
                  bool keep_edge, const TensorView& bald_map, const TensorView& region_sum,
                  const TensorView& class_hist, const TensorView& scratch, Stream stream);
}  // namespace cuda

}  // namespace ralx

RALX_DECLARE_KERNEL(bald, BaldKernel)
RALX_DECLARE_KERNEL(bald_update, BaldUpdateKernel)
RALX_DECLARE_KERNEL(bald_carry, BaldCarryKernel)
RALX_DECLARE_KERNEL(bald_compute, BaldComputeKernel)
