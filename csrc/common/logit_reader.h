#pragma once

#include <cstdint>

#include "common/bilinear.h"
#include "common/buffer.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {

// Pixels are worked on in blocks [C, kBlock] that stay in the first-level cache; a multiple of every vector
// width.
constexpr int kBlock = 64;

RALX_HD int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Logits [N, C, h, w] of any strides and dtype, seen as images of H×W pixels: at native size, or upsampled as
// they are read. Those of several passes [T, N, C, h, w] are images too: number t · N + n. Real is what they
// are computed in.
template <typename Real>
class LogitSource {
 public:
  LogitSource(const TensorView& view, Extent size, bool align_corners)
      : images(view.sizes[view.ndim - 4]), classes(view.sizes[view.ndim - 3]), height(size.height),
        width(size.width), source_height(view.sizes[view.ndim - 2]), source_width(view.sizes[view.ndim - 1]),
        resized(height != source_height || width != source_width), first(resized ? width : 0),
        second(resized ? width : 0), weight(resized ? width : 0), align_corners_(align_corners),
        data_(view.data), dtype_(view.dtype), stride_t_(view.ndim == 5 ? view.strides[0] : 0),
        stride_n_(view.strides[view.ndim - 4]), stride_c_(view.strides[view.ndim - 3]),
        stride_y_(view.strides[view.ndim - 2]), stride_x_(view.strides[view.ndim - 1]) {
    if (!resized) return;
    for (int64_t x = 0; x < width; ++x) {
      const Neighbours neighbours = bilinear(x, source_width, width, align_corners);
      first[x] = static_cast<int32_t>(neighbours.first);
      second[x] = static_cast<int32_t>(neighbours.second);
      weight[x] = static_cast<Real>(neighbours.weight);
    }
  }

  const int64_t images, classes, height, width, source_height, source_width;
  const bool resized;
  // If resized: the columns of the source between which a column lies, and the second one's weight.
  Buffer<int32_t> first, second;
  Buffer<Real> weight;

  Neighbours rows_around(int64_t y) const { return bilinear(y, source_height, height, align_corners_); }

  // Pixels x .. x + count - 1 of row y of the source, all classes; class c goes to out + c · class_stride.
  void load(int64_t image, int64_t y, int64_t x, int64_t count, Real* out, int64_t class_stride) const {
    dispatch_floating(dtype_, [&](auto stored) {
      const auto* in = static_cast<const decltype(stored)*>(data_) + image / images * stride_t_ +
                       image % images * stride_n_ + y * stride_y_ + x * stride_x_;
      for (int64_t c = 0; c < classes; ++c) copy(in + c * stride_c_, count, out + c * class_stride);
    });
  }

 private:
  template <typename Stored>
  void copy(const Stored* __restrict in, int64_t count, Real* __restrict out) const {
    const int64_t stride = stride_x_;
    if (stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = to_real(in[i]);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = to_real(in[i * stride]);
    }
  }

  const bool align_corners_;
  const void* const data_;
  const DType dtype_;
  const int64_t stride_t_, stride_n_, stride_c_, stride_y_, stride_x_;
};

// Reads the rows of a source as blocks [C, kBlock].
template <typename Real>
class LogitReader {
 public:
  LogitReader(const LogitSource<Real>& source, Arena& arena)
      : source_(source), block_(arena.take<Real>(source.classes * kBlock)) {
    if (!source.resized) return;
    narrow_ = arena.take<Real>(source.classes * source.source_width);
    for (Row& row : wide_) row = {arena.take<Real>(source.classes * source.width), -1, -1};
  }

  void seek(int64_t image, int64_t y) {
    image_ = image;
    y_ = y;
    if (!source_.resized) return;
    const Neighbours rows = source_.rows_around(y);
    weight_ = static_cast<Real>(rows.weight);
    above_ = widen(rows.first, rows.second);
    below_ = rows.second == rows.first ? above_ : widen(rows.second, rows.first);
  }

  // Pixels x .. x + kBlock - 1 of the current row; those beyond it are 0. The block is the reader's own and
  // may be overwritten.
  Real* read(int64_t x) {
    const int64_t count = min_of(kBlock, source_.width - x);
    if (source_.resized)
      for (int64_t c = 0; c < source_.classes; ++c) blend(c * source_.width + x, count, block_ + c * kBlock);
    else
      source_.load(image_, y_, x, count, block_, kBlock);
    if (count < kBlock)
      for (int64_t c = 0; c < source_.classes; ++c)
        for (int64_t i = count; i < kBlock; ++i) block_[c * kBlock + i] = 0;
    return block_;
  }

 private:
  // A row of the source, stretched to the full width.
  struct Row {
    Real* pixels;  // [C, W]
    int64_t image, y;
  };

  void blend(int64_t offset, int64_t count, Real* __restrict out) const {
    const Real* above = above_ + offset;
    const Real* below = below_ + offset;
    const Real weight = weight_;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] = interpolate(above[i], below[i], weight);
  }

  // Row y of the source at full width. The last two are kept: on the way down an image each is made once.
  // `keep` is the one that must stay.
  const Real* widen(int64_t y, int64_t keep) {
    for (const Row& row : wide_)
      if (row.image == image_ && row.y == y) return row.pixels;
    Row& row = wide_[wide_[0].image == image_ && wide_[0].y == keep ? 1 : 0];
    row.image = image_;
    row.y = y;
    source_.load(image_, y, 0, source_.source_width, narrow_, source_.source_width);
    const int32_t* first = source_.first.data();
    const int32_t* second = source_.second.data();
    const Real* weight = source_.weight.data();
    for (int64_t c = 0; c < source_.classes; ++c) {
      const Real* in = narrow_ + c * source_.source_width;
      Real* out = row.pixels + c * source_.width;
#pragma omp simd
      for (int64_t x = 0; x < source_.width; ++x)
        out[x] = interpolate(in[first[x]], in[second[x]], weight[x]);
    }
    return row.pixels;
  }

  const LogitSource<Real>& source_;
  Real* const block_;
  int64_t image_ = 0, y_ = 0;
  // Upsampled: a row of the source [C, w], and two of them at full width, the neighbours of the current row.
  Real* narrow_ = nullptr;
  Row wide_[2] = {};
  const Real* above_ = nullptr;
  const Real* below_ = nullptr;
  Real weight_ = 0;
};

}  // namespace ralx::RALX_ISA
