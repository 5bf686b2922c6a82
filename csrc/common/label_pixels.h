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
    const int64_t place = n * stride_n + y * stride_y + x * stride_x;
    switch (dtype) {
      case DType::uint8: return static_cast<const uint8_t*>(data)[place];
      case DType::int8: return static_cast<const int8_t*>(data)[place];
      case DType::int16: return static_cast<const int16_t*>(data)[place];
      case DType::int32: return static_cast<const int32_t*>(data)[place];
      default: return static_cast<const int64_t*>(data)[place];
    }
  }

  const void* data;
  DType dtype;
  int64_t stride_n, stride_y, stride_x;
};

}  // namespace ralx::RALX_ISA
