#pragma once

#include <cstdint>

#include "common/bad_label.h"
#include "common/cpu/kernel.h"
#include "common/tensor_view.h"

namespace ralx {

// counts[t, p] = number of pixels with target t and predicted label p.
//   prediction  logits [N, C, h, w], upsampled to the target's H×W, or labels [N, H, W]
//   target      labels [N, H, W]; pixels that equal ignore_index are skipped
//   counts      int64 [C, C], contiguous
// Returns the first label that is out of range where the target isn't ignore_index, if there is one; the
// counts then miss some pixels.
using ConfusionMatrixKernel = BadLabel(const TensorView& prediction, const TensorView& target,
                                       const TensorView& counts, int64_t ignore_index, bool align_corners,
                                       int threads);

// On a GPU a pixel whose labels are out of range is skipped.
namespace cuda {
void confusion_matrix(const TensorView& prediction, const TensorView& target, const TensorView& counts,
                      int64_t ignore_index, bool align_corners, Stream stream);
}

}  // namespace ralx

RALX_DECLARE_KERNEL(confusion_matrix, ConfusionMatrixKernel)
