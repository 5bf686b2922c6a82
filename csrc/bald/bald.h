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

// Or pass by pass: bald_update adds a pass to sum_p [N, C, H, W] and sum_entropy [N, H, W] (contiguous;
// double for float64 logits, else float), and bald_compute makes the outputs of these sums. Its outputs equal
// the outputs of bald to the last bit.
using BaldUpdateKernel = void(const TensorView& logits /* [N, C, h, w] */, bool align_corners,
                              const TensorView& sum_p, const TensorView& sum_entropy, int threads);

// sum_p and sum_entropy each have a total of their shape, which is 0 at first. Before passes 33, 65, … (after
// every kPassesAtOnce passes, see common/pixel_math.h) bald_carry moves each sum into its total, and
// bald_compute gets sum + total.
using BaldCarryKernel = void(const TensorView& sums, const TensorView& totals, int threads);

using BaldComputeKernel = void(const TensorView& sum_p, const TensorView& sum_entropy, int64_t passes,
                               Extent region_size, bool keep_edge, const TensorView& bald_map,
                               const TensorView& region_sum, const TensorView& class_hist, int threads);

// On a GPU logits are float32, float16 or bfloat16 and sums are float32. There too the outputs of
// bald_compute equal the outputs of bald to the last bit. scratch: uint8 [bald_scratch(...)], 8-byte aligned,
// of any content; nothing else may use the scratch until the stream has passed the op.
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
