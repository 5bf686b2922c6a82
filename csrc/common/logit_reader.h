#pragma once

#include <cstdint>

#include "common/bilinear.h"
#include "common/buffer.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {

// Pixels are worked on in blocks [C, kBlock] that stay in the first-level cache; a multiple of every vector width.
constexpr int kBlock = 64;

RALX_HD int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Logits [N, C, h, w] seen as images of H×W pixels: at native size, or upsampled as they are read. Those of several
// passes [T, N, C, h, w] are images too: number t · N + n.
template <typename Scalar>
class LogitSource {
 public:
  LogitSource(const TensorView& view, Extent size, bool align_corners)
      : images(view.sizes[view.ndim - 4]), classes(view.sizes[view.ndim - 3]), height(size.height), width(size.width),
        source_height(view.sizes[view.ndim - 2]), source_width(view.sizes[view.ndim - 1]),
        resized(height != source_height || width != source_width), align_corners(align_corners),
        stride_c(view.strides[view.ndim - 3]), stride_y(view.strides[view.ndim - 2]),
        stride_x(view.strides[view.ndim - 1]), first(resized ? width : 0), second(resized ? width : 0),
        weight(resized ? width : 0), data_(static_cast<const Scalar*>(view.data)),
        stride_t_(view.ndim == 5 ? view.strides[0] : 0), stride_n_(view.strides[view.ndim - 4]) {
    if (!resized) return;
    for (int64_t x = 0; x < width; ++x) {
      const Neighbours neighbours = bilinear(x, source_width, width, align_corners);
      first[x] = static_cast<int32_t>(neighbours.first);
      second[x] = static_cast<int32_t>(neighbours.second);
      weight[x] = static_cast<Real<Scalar>>(neighbours.weight);
    }
  }

  const int64_t images, classes, height, width, source_height, source_width;
  const bool resized, align_corners;
  const int64_t stride_c, stride_y, stride_x;
  // If resized: the columns of the source between which a column lies, and the second one's weight.
  Buffer<int32_t> first, second;
  Buffer<Real<Scalar>> weight;

  // Row y of class 0.
  const Scalar* row(int64_t image, int64_t y) const {
    return data_ + image / images * stride_t_ + image % images * stride_n_ + y * stride_y;
  }

 private:
  const Scalar* const data_;
  const int64_t stride_t_, stride_n_;
};

// Reads the rows of a source, a block of pixels at a time, as float or double [C, kBlock].
template <typename Scalar>
class LogitReader {
  using R = Real<Scalar>;

 public:
  LogitReader(const LogitSource<Scalar>& source, Arena& arena)
      : source_(source), block_(arena.take<R>(source.classes * kBlock)) {
    if (!source.resized) return;
    row_ = arena.take<R>(source.source_width);
    for (R*& row : expanded_) row = arena.take<R>(source.classes * source.width);
  }

  void seek(int64_t image, int64_t y) {
    if (!source_.resized) {
      line_ = source_.row(image, y);
      return;
    }
    const Neighbours rows = bilinear(y, source_.source_height, source_.height, source_.align_corners);
    weight_ = static_cast<R>(rows.weight);
    above_ = expand(image, rows.first, rows.second);
    below_ = rows.second == rows.first ? above_ : expand(image, rows.second, rows.first);
  }

  // Pixels x .. x + kBlock - 1 of the current row; those beyond it are 0. The block is the reader's own and may be
  // overwritten.
  R* read(int64_t x) {
    const int64_t count = min_of(kBlock, source_.width - x);
    for (int64_t c = 0; c < source_.classes; ++c) {
      R* out = block_ + c * kBlock;
      if (source_.resized)
        blend(c * source_.width + x, count, out);
      else
        copy(line_ + c * source_.stride_c + x * source_.stride_x, count, out);
      for (int64_t i = count; i < kBlock; ++i) out[i] = 0;
    }
    return block_;
  }

 private:
  void copy(const Scalar* in, int64_t count, R* out) const {
    const int64_t stride = source_.stride_x;
    if (stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = to_real(in[i]);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = to_real(in[i * stride]);
    }
  }

  void blend(int64_t offset, int64_t count, R* out) const {
    const R* above = above_ + offset;
    const R* below = below_ + offset;
    const R weight = weight_;
    if (weight > 0) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = interpolate(above[i], below[i], weight);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = above[i];
    }
  }

  // Source row y of the image, stretched to full width [C, W]. The two last rows asked for are kept: going down
  // the image, a source row is stretched once. `keep` is the row that must not be thrown out.
  const R* expand(int64_t image, int64_t y, int64_t keep) {
    for (int slot = 0; slot < 2; ++slot)
      if (image_[slot] == image && y_[slot] == y) return expanded_[slot];
    const int slot = image_[0] == image && y_[0] == keep ? 1 : 0;
    image_[slot] = image;
    y_[slot] = y;
    const Scalar* base = source_.row(image, y);
    const int32_t* first = source_.first.data();
    const int32_t* second = source_.second.data();
    const R* weight = source_.weight.data();
    R* row = row_;
    for (int64_t c = 0; c < source_.classes; ++c) {
      const Scalar* in = base + c * source_.stride_c;
      for (int64_t x = 0; x < source_.source_width; ++x) row[x] = to_real(in[x * source_.stride_x]);
      R* out = expanded_[slot] + c * source_.width;
#pragma omp simd
      for (int64_t x = 0; x < source_.width; ++x) out[x] = interpolate(row[first[x]], row[second[x]], weight[x]);
    }
    return expanded_[slot];
  }

  const LogitSource<Scalar>& source_;
  const Scalar* line_ = nullptr;  // native size: the current row of class 0
  R* const block_;
  // Upsampled: one class of a source row, converted; and two source rows at full width [C, W], top and bottom
  // neighbours of the current row.
  R* row_ = nullptr;
  R* expanded_[2] = {nullptr, nullptr};
  int64_t image_[2] = {-1, -1}, y_[2] = {-1, -1};
  const R* above_ = nullptr;
  const R* below_ = nullptr;
  R weight_ = 0;
};

}  // namespace ralx::RALX_ISA
