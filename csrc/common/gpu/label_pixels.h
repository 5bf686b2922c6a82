#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "common/tensor_view.h"

namespace ralx::RALX_ISA {

// An integer map [N, H, W] of any strides, as the threads of a GPU read it.
struct LabelPixels {
  explicit LabelPixels(const TensorView& view)
      : data(view.data), dtype(view.dtype), stride_n(view.strides[0]), stride_y(view.strides[1]),
        stride_x(view.strides[2]) {}

  RALX_HD int64_t read(int64_t n, int64_t y, int64_t x) const {
    int64_t label[1];
    read(n, y, x, label);
    return label[0];
  }

  // The labels of neighbouring pixels, from x on; -1 where Label can't hold a label.
  template <typename Label, int kPixels>
  RALX_HD void read(int64_t n, int64_t y, int64_t x, Label (&label)[kPixels]) const {
    const int64_t first = n * stride_n + y * stride_y + x * stride_x;
    dispatch_integral(dtype, [&](auto stored) {
      const auto* place = static_cast<const decltype(stored)*>(data) + first;
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        const auto number = place[i * stride_x];
        label[i] = static_cast<Label>(number);
        if (label[i] != number) label[i] = -1;
      }
    });
  }

  const void* data;
  DType dtype;
  int64_t stride_n, stride_y, stride_x;
};

}  // namespace ralx::RALX_ISA
