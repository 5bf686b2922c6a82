// How the logits are described to a GPU's kernels.
#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "common/tensor_view.h"

namespace ralx::RALX_ISA {

// N consecutive numbers that one instruction loads.
template <typename Stored, int N>
struct alignas(sizeof(Stored) * N) Pack {
  Stored of[N];
};

// Logits [N, C, h, w] or, of several passes, [T, N, C, h, w], of any strides, seen as images of H×W pixels.
struct LogitView {
  LogitView(const TensorView& view, Extent size, bool align_corners)
      : data(view.data), dtype(view.dtype), passes(view.ndim == 5 ? view.sizes[0] : 1),
        images(view.sizes[view.ndim - 4]), classes(static_cast<int>(view.sizes[view.ndim - 3])), size(size),
        source{view.sizes[view.ndim - 2], view.sizes[view.ndim - 1]}, align_corners(align_corners),
        stride_t(view.ndim == 5 ? view.strides[0] : 0), stride_n(view.strides[view.ndim - 4]),
        stride_c(view.strides[view.ndim - 3]), stride_y(view.strides[view.ndim - 2]),
        stride_x(view.strides[view.ndim - 1]) {}

  RALX_HD int64_t offset(int64_t t, int64_t n, int64_t y, int64_t x) const {
    return t * stride_t + n * stride_n + y * stride_y + x * stride_x;
  }
  bool resized() const { return size.height != source.height || size.width != source.width; }

  // Whether every group of `pixels` neighbours of a row, of `bytes` bytes each, can be loaded at once, and
  // the distance from one class to the next fits in 32 bits.
  bool has_packs(int pixels, size_t bytes) const {
    const auto aligned = [&](int64_t count, int64_t stride) { return count == 1 || stride % pixels == 0; };
    return !resized() && stride_x == 1 && reinterpret_cast<uintptr_t>(data) % (pixels * bytes) == 0 &&
           size.width % pixels == 0 && aligned(passes, stride_t) && aligned(images, stride_n) &&
           aligned(classes, stride_c) && aligned(size.height, stride_y) && stride_c >= 0 &&
           stride_c * static_cast<int64_t>(bytes) >> 32 == 0;
  }

  const void* data;
  DType dtype;
  int64_t passes, images;
  int classes;
  Extent size, source;
  bool align_corners;
  int64_t stride_t, stride_n, stride_c, stride_y, stride_x;
};

}  // namespace ralx::RALX_ISA
