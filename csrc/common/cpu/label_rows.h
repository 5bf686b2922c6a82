#pragma once

#include <cstdint>

#include "common/bad_label.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {

// The rows of an integer map [N, H, W] of any strides, widened to int64.
struct LabelRows {
  const TensorView& view;

  void read(int64_t n, int64_t y, int64_t* out) const {
    dispatch_integral(view.dtype, [&](auto scalar) {
      const auto* row =
          static_cast<const decltype(scalar)*>(view.data) + n * view.strides[0] + y * view.strides[1];
      for (int64_t x = 0; x < view.sizes[2]; ++x) out[x] = row[x * view.strides[2]];
    });
  }
};

// The one of two bad labels, found by different threads, that comes first in reading order.
inline BadLabel earlier(BadLabel a, BadLabel b) {
  if (a.kind == BadLabel::none) return b;
  if (b.kind == BadLabel::none) return a;
  return b.position < a.position ? b : a;
}

}  // namespace ralx::RALX_ISA
