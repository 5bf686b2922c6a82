// Sources (see logit_pixels.h) of logits that are bilinearly upsampled as they are read; the few small-image
// pixels that a warp needs stay in the first-level cache.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "common/bilinear.h"
#include "common/gpu/cuda.h"
#include "common/gpu/logit_view.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {

// bilinear() along one axis of an image, without a division: a multiplication by 2^shift / denominator,
// rounded up, gives the exact quotient of numbers below 2^31.
class UpsampledAxis {
 public:
  struct Place {
    int32_t first, second;
    float weight;  // of `second`; exactly 0, and second == first, where the source's pixel itself is hit
  };

  UpsampledAxis(int64_t source, int64_t size, bool align_corners)
      : source_(source), size_(size), align_corners_(align_corners),
        small_(2 * (size + 1) * (source + 1) >> 31 == 0) {
    if (!small_) return;
    slope_ = static_cast<int32_t>(align_corners ? source - 1 : 2 * source);
    offset_ = static_cast<int32_t>(align_corners ? 0 : source - size);
    denominator_ = static_cast<uint32_t>(align_corners ? (size > 1 ? size - 1 : 1) : 2 * size);
    one_over_ = 1 / static_cast<float>(denominator_);
    while (uint64_t{1} << (shift_ - 31) < denominator_) ++shift_;
    reciprocal_ = static_cast<uint32_t>(((uint64_t{1} << shift_) + denominator_ - 1) / denominator_);
  }

  RALX_HD Place at(int64_t position) const {
    if (!small_) {
      const Neighbours exact = bilinear(position, source_, size_, align_corners_);
      return {static_cast<int32_t>(exact.first), static_cast<int32_t>(exact.second),
              static_cast<float>(exact.weight)};
    }
    const int32_t place = static_cast<int32_t>(position) * slope_ + offset_;
    const uint32_t numerator = place > 0 ? static_cast<uint32_t>(place) : 0;
    const auto first = static_cast<int32_t>(static_cast<uint64_t>(numerator) * reciprocal_ >> shift_);
    const uint32_t rest = numerator - static_cast<uint32_t>(first) * denominator_;
    const auto last = static_cast<int32_t>(source_ - 1);
    if (first >= last) return {last, last, 0.0f};
    const auto whole = static_cast<float>(denominator_), part = static_cast<float>(rest);
    const float weight = part * one_over_;  // right to the last bit but one; fmaf() corrects the last
    return {first, first + (rest > 0 ? 1 : 0), fmaf(fmaf(-weight, whole, part), one_over_, weight)};
  }

 private:
  int64_t source_, size_;
  bool align_corners_, small_;
  int32_t slope_ = 0, offset_ = 0;
  uint32_t denominator_ = 1, reciprocal_ = 0;
  int shift_ = 31;
  float one_over_ = 1;
};

// Interpolates along one axis: (1 - weight) · a + weight · b. Where a pixel of the source itself is hit, a
// and b are both that pixel, and each has weight ½: the result is exact, and no neighbour of weight 0, which
// may be -inf, is looked at.
struct Mix {
  float first, second;

  explicit RALX_HD Mix(float weight) : first(weight > 0 ? 1 - weight : 0.5f), second(1 - first) {
    if (weight > 0) second = weight;
  }
  RALX_HD float operator()(float a, float b) const { return first * a + second * b; }
};

// Upsampled logits of any strides, a pixel a thread.
template <typename Stored>
struct UpsampledLogits {
  static constexpr int kPixels = 1, kClasses = 0;
  static constexpr bool kInterpolates = true;

  struct At {
    using Raw = float;

    RALX_HD At from(int c) const {
      At later = *this;
      later.data += c * stride_c;
      return later;
    }
    RALX_HD float read(int c) const {
      const Stored* plane = data + c * stride_c;
      return vertical(row(plane, above_left, above_right), row(plane, below_left, below_right));
    }
    RALX_HD float exact(int c) const { return read(c); }
    static RALX_HD void convert(float raw, float (&x)[1]) { x[0] = raw; }

    RALX_HD float row(const Stored* plane, int64_t left, int64_t right) const {
      return horizontal(to_real(plane[left]), to_real(plane[right]));
    }

    const Stored* data;
    int64_t stride_c, above_left, above_right, below_left, below_right;
    Mix vertical, horizontal;
  };

  explicit UpsampledLogits(const LogitView& view)
      : view(view), rows(view.source.height, view.size.height, view.align_corners),
        columns(view.source.width, view.size.width, view.align_corners) {}

  RALX_HD size_t warp_bytes() const { return 0; }

  __device__ At at(int64_t t, int64_t n, int64_t y, int64_t x, bool, float*) const {
    const UpsampledAxis::Place row = rows.at(y), column = columns.at(x);
    return {static_cast<const Stored*>(view.data),
            view.stride_c,
            view.offset(t, n, row.first, column.first),
            view.offset(t, n, row.first, column.second),
            view.offset(t, n, row.second, column.first),
            view.offset(t, n, row.second, column.second),
            Mix(row.weight),
            Mix(column.weight)};
  }

  LogitView view;
  UpsampledAxis rows, columns;
};

// Logits upsampled more than three times: four neighbouring pixels lie between three columns of the source.
// Each column is interpolated between its two rows first, which takes six loads; then each of the four logits
// takes three multiply-adds, one of them with weight 0. In memory the columns lie side by side or, with
// kLast, the classes do.
template <typename Stored, bool kLast>
struct WidelyUpsampledLogits {
  static constexpr int kPixels = 4, kClasses = 0, kColumns = 3;
  static constexpr bool kInterpolates = true;

  struct At {
    using Raw = Pack<float, kPixels>;

    RALX_HD At from(int c) const {
      At later = *this;
      RALX_UNROLL
      for (int row = 0; row < 2; ++row) {
        RALX_UNROLL
        for (int k = 0; k < (kLast ? kColumns : 1); ++k) later.place[row][k] += offset(c);
      }
      return later;
    }
    RALX_HD Raw read(int c) const {
      const float a = column(c, 0), b = column(c, 1), d = column(c, 2);
      Raw raw;
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) raw.of[i] = weight[i][0] * a + weight[i][1] * b + weight[i][2] * d;
      return raw;
    }
    RALX_HD Raw exact(int c) const {
      Raw raw;
      for (int i = 0; i < kPixels; ++i) {
        raw.of[i] = 0;
        for (int k = 0; k < kColumns; ++k)
          if (weight[i][k] != 0) raw.of[i] += weight[i][k] * column(c, k);
      }
      return raw;
    }
    static RALX_HD void convert(const Raw& raw, float (&x)[kPixels]) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) x[i] = raw.of[i];
    }

    RALX_HD float column(int c, int k) const { return vertical(number(0, c, k), number(1, c, k)); }
    RALX_HD float number(int row, int c, int k) const {
      const char* first = place[row][kLast ? k : 0] + offset(c);
      return to_real(*(reinterpret_cast<const Stored*>(first) + (kLast ? 0 : k)));
    }
    RALX_HD uint64_t offset(int c) const {
      return static_cast<uint64_t>(c) * (kLast ? static_cast<uint32_t>(sizeof(Stored)) : stride_c);
    }

    const char* place[2][kLast ? kColumns : 1];  // in the row above and in the one below
    uint32_t stride_c;                           // bytes
    Mix vertical;
    float weight[kPixels][kColumns];
  };

  explicit WidelyUpsampledLogits(const LogitView& view)
      : view(view), rows(view.source.height, view.size.height, view.align_corners),
        columns(view.source.width, view.size.width, view.align_corners) {}

  static bool serves(const LogitView& view) {
    const bool wide = view.align_corners ? view.size.width - 1 > 3 * (view.source.width - 1)
                                         : view.size.width > 3 * view.source.width;
    const bool near = view.stride_c >= 0 && view.stride_c * static_cast<int64_t>(sizeof(Stored)) >> 32 == 0;
    return wide && view.source.width >= kColumns && view.size.width % kPixels == 0 &&
           (kLast ? view.stride_c == 1 : view.stride_x == 1 && near);
  }
  RALX_HD size_t warp_bytes() const { return 0; }

  __device__ At at(int64_t t, int64_t n, int64_t y, int64_t x, bool, float*) const {
    At at = {{}, static_cast<uint32_t>(view.stride_c * sizeof(Stored)), Mix(0), {}};
    const UpsampledAxis::Place row = rows.at(y);
    int32_t first = 0;  // the first of the three columns
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const UpsampledAxis::Place column = columns.at(x + i);
      if (i == 0) first = static_cast<int32_t>(min_of(column.first, view.source.width - kColumns));
      const int32_t left = column.first - first;
      RALX_UNROLL
      for (int k = 0; k < kColumns; ++k)
        at.weight[i][k] = k == left ? 1 - column.weight : k == left + 1 ? column.weight : 0;
    }
    at.vertical = Mix(row.weight);
    RALX_UNROLL
    for (int k = 0; k < (kLast ? kColumns : 1); ++k) {
      const auto* data = static_cast<const Stored*>(view.data);
      at.place[0][k] = reinterpret_cast<const char*>(data + view.offset(t, n, row.first, first + k));
      at.place[1][k] = reinterpret_cast<const char*>(data + view.offset(t, n, row.second, first + k));
    }
    return at;
  }

  LogitView view;
  UpsampledAxis rows, columns;
};

}  // namespace ralx::RALX_ISA
