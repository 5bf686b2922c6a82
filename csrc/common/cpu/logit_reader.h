#pragma once

#include <cstdint>

#include "common/bilinear.h"
#include "common/cpu/buffer.h"
#include "common/cpu/dispatch.h"
#include "common/cpu/vector_math.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {

// Pixels are worked on in blocks [C, kBlock<Real>] of two vectors, so that the processor computes with one
// vector while the other waits for its operands.
constexpr int kVectorsPerBlock = 2;
template <typename Real>
constexpr int64_t kBlock = kVectorsPerBlock * kLanes<Real>;
// How many pixels are converted, transposed or upsampled at once; their logits stay in the first-level cache.
constexpr int64_t kChunk = 64;
// How many pixels ahead logits are prefetched: with so many classes the processor itself sees no pattern in
// the addresses.
constexpr int64_t kAhead = 128;

// Logits [N, C, h, w] of any strides and dtype, seen as images of H×W pixels: at native size, or upsampled as
// they are read. Logits of several passes [T, N, C, h, w] are T · N images: image n of pass t is number t · N
// + n. Real is the type in which all is computed.
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
      close_neighbours &= second[x] - first[x / kLanes<Real> * kLanes<Real>] < kLanes<Real>;
    }
  }

  const int64_t images, classes, height, width, source_height, source_width;
  const bool resized;
  // If resized: for each column of the image, the two columns of the source between which the column lies,
  // and the weight of the second.
  Buffer<int32_t> first, second;
  Buffer<Real> weight;
  // Whether the neighbours of each vector of columns lie within one vector of the source.
  bool close_neighbours = true;

  Neighbours rows_around(int64_t y) const { return bilinear(y, source_height, height, align_corners_); }

  // Whether vectors can be loaded from a row of the source.
  bool has_vectors() const { return !resized && stride_x_ == 1; }
  // Row y of the source where a block can lie in the source itself, else null. Class c lies c ·
  // class_stride() further on.
  const Real* row_in_place(int64_t image, int64_t y) const {
    constexpr DType kDType = sizeof(Real) == 4 ? DType::float32 : DType::float64;
    if (!has_vectors() || dtype_ != kDType) return nullptr;
    return static_cast<const Real*>(data_) + offset(image, y, 0);
  }
  // Calls function(row) with row y in the type in which it is stored. Class c lies c · class_stride() further
  // on.
  template <typename Function>
  void with_row(int64_t image, int64_t y, const Function& function) const {
    dispatch_floating(dtype_, [&](auto stored) {
      function(static_cast<const decltype(stored)*>(data_) + offset(image, y, 0));
    });
  }
  int64_t class_stride() const { return stride_c_; }

  // Loads pixels x .. x + count - 1 of row y of the source, all classes: class c to out + c · out_stride.
  void load(int64_t image, int64_t y, int64_t x, int64_t count, Real* out, int64_t out_stride) const {
    dispatch_floating(dtype_, [&](auto stored) {
      const auto* in = static_cast<const decltype(stored)*>(data_) + offset(image, y, x);
      if (stride_c_ == 1 && stride_x_ == classes) {  // channels_last
        transpose(in, count, classes, out, out_stride);
        return;
      }
      for (int64_t c = 0; c < classes; ++c) copy(in + c * stride_c_, stride_x_, count, out + c * out_stride);
    });
  }

 private:
  int64_t offset(int64_t image, int64_t y, int64_t x) const {
    return image / images * stride_t_ + image % images * stride_n_ + y * stride_y_ + x * stride_x_;
  }

  template <typename Stored>
  static void copy(const Stored* __restrict in, int64_t stride, int64_t count, Real* __restrict out) {
    if (stride != 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = to_real(in[i * stride]);
      return;
    }
    for (; count >= kLanes<Real>; count -= kLanes<Real>, in += kLanes<Real>, out += kLanes<Real>) {
      __builtin_prefetch(in + kAhead);
      store(out, widen(in, Vector<Real>{}));
    }
    for (int64_t i = 0; i < count; ++i) out[i] = to_real(in[i]);
  }

  typedef Real Four __attribute__((vector_size(4 * sizeof(Real))));

  template <typename Stored>
  static void load_four(const Stored* in, Four& four) {
    for (int i = 0; i < 4; ++i) four[i] = static_cast<Real>(to_real(in[i]));
  }

  // in [count, C] → out [C, count], in squares of 4×4 where there are at least 4 classes; the square of the
  // last four classes may overlap the one before.
  template <typename Stored>
  static void transpose(const Stored* __restrict in, int64_t count, int64_t classes, Real* __restrict out,
                        int64_t out_stride) {
    const int64_t whole = classes < 4 ? 0 : count / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4) {
      for (int64_t c = 0; c + 4 < classes; c += 4)
        transpose_square(in + i * classes + c, classes, out + c * out_stride + i, out_stride);
      const int64_t c = classes - 4;
      transpose_square(in + i * classes + c, classes, out + c * out_stride + i, out_stride);
    }
    for (int64_t c = 0; c < classes; ++c)
      for (int64_t i = whole; i < count; ++i) out[c * out_stride + i] = to_real(in[i * classes + c]);
  }

  template <typename Stored>
  static void transpose_square(const Stored* in, int64_t in_stride, Real* out, int64_t out_stride) {
    Four a, b, c, d;
    load_four(in, a);
    load_four(in + in_stride, b);
    load_four(in + 2 * in_stride, c);
    load_four(in + 3 * in_stride, d);
    const Four ab = {a[0], b[0], a[1], b[1]}, cd = {c[0], d[0], c[1], d[1]};
    const Four ab2 = {a[2], b[2], a[3], b[3]}, cd2 = {c[2], d[2], c[3], d[3]};
    const Four column[4] = {{ab[0], ab[1], cd[0], cd[1]},
                            {ab[2], ab[3], cd[2], cd[3]},
                            {ab2[0], ab2[1], cd2[0], cd2[1]},
                            {ab2[2], ab2[3], cd2[2], cd2[3]}};
    for (int i = 0; i < 4; ++i) __builtin_memcpy(out + i * out_stride, &column[i], sizeof(Four));
  }

  const bool align_corners_;
  const void* const data_;
  const DType dtype_;
  const int64_t stride_t_, stride_n_, stride_c_, stride_y_, stride_x_;
};

// A block of pixels: the numbers of class c lie at pixels + c · class_stride.
template <typename Real>
struct Block {
  const Real* pixels;
  int64_t class_stride;
};

// A block of logits and the largest logit of each of its pixels, NaN left out: -inf where all logits of a
// pixel are NaN.
template <typename Real>
struct LogitBlock : Block<Real> {
  Vector<Real> largest[kVectorsPerBlock];
};

// Reads the rows of a source block by block.
template <typename Real>
class LogitReader {
 public:
  LogitReader(const LogitSource<Real>& source, Arena& arena)
      : source_(source), chunk_(arena.take<Real>(source.classes * kChunk)),
        largest_(arena.take<Real>(kChunk)) {
    if (!source.resized) return;
    // look_up() reads beyond the last class.
    narrow_ = arena.take<Real>(source.classes * source.source_width + kLanes<Real>);
    for (Row& row : wide_) row = {arena.take<Real>(source.classes * source.width), -1, -1};
  }

  void seek(int64_t image, int64_t y) {
    image_ = image;
    y_ = y;
    chunk_end_ = 0;
    row_ = source_.row_in_place(image, y);
    if (!source_.resized) return;
    const Neighbours rows = source_.rows_around(y);
    weight_ = static_cast<Real>(rows.weight);
    above_ = stretch(rows.first, rows.second);
    below_ = rows.second == rows.first ? nullptr : stretch(rows.second, rows.first);
  }

  // Pixels x .. x + kBlock - 1 of the current row, where x is a multiple of kBlock; pixels beyond the row are
  // 0. The block is valid until the next call. Inline, so that the largest logits stay in registers.
  inline __attribute__((always_inline)) LogitBlock<Real> read(int64_t x) {
    LogitBlock<Real> block;
    if (row_ != nullptr && x + kBlock<Real> <= source_.width) {
      block.pixels = row_ + x;
      block.class_stride = source_.class_stride();
      scan<kVectorsPerBlock>(block.pixels, block.class_stride, block.largest,
                             [](int64_t, int, Vector<Real>) {});
      return block;
    }
    if (x < chunk_x_ || x >= chunk_end_) fill(x);
    block.pixels = chunk_ + x - chunk_x_;
    block.class_stride = kChunk;
    for (int v = 0; v < kVectorsPerBlock; ++v)
      block.largest[v] = load(largest_ + x - chunk_x_ + v * kLanes<Real>);
    return block;
  }

 private:
  // A row of the source, stretched to the full width.
  struct Row {
    Real* pixels;  // [C, W]
    int64_t image, y;
  };

  // Finds the largest logits of kVectors vectors of pixels; visit(c, v, logit) sees each vector of logits on
  // the way.
  template <int kVectors, typename Stored, typename Visit>
  void scan(const Stored* in, int64_t class_stride, Vector<Real>* largest, const Visit& visit) const {
    Vector<Real> best[kVectors];
    for (auto& each : best) each = Vector<Real>{} - static_cast<Real>(__builtin_huge_val());
    const int64_t classes = source_.classes;
    for (int64_t c = 0; c < classes; ++c, in += class_stride) {
      for (int64_t i = 0; i < kVectors * kLanes<Real>; i += kCacheLine / static_cast<int64_t>(sizeof(Stored)))
        __builtin_prefetch(in + i + kAhead);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vector<Real> logit = widen(in + v * kLanes<Real>, Vector<Real>{});
        visit(c, v, logit);
        best[v] = higher(logit, best[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) largest[v] = best[v];
  }

  // Makes the chunk that begins at pixel x. With many classes the cache doesn't keep prefetched logits until
  // their block comes; so a chunk takes a piece of each class that is longer than a block.
  void fill(int64_t x) {
    const int64_t count = min_of(kChunk, source_.width - x);
    chunk_x_ = x;
    if (source_.has_vectors() && count == kChunk)
      convert<kChunk / kLanes<Real>>();
    else if (source_.has_vectors() && count >= kBlock<Real>)
      convert<kVectorsPerBlock>();
    else
      gather(count);
  }

  // Makes the chunk from vectors of the source, whose logits are widened and compared in one go.
  template <int kVectors>
  void convert() {
    Vector<Real> largest[kVectors];
    const auto keep = [chunk = chunk_](int64_t c, int v, Vector<Real> logit) {
      store(chunk + c * kChunk + v * kLanes<Real>, logit);
    };
    source_.with_row(image_, y_, [&](const auto* row) {
      scan<kVectors>(row + chunk_x_, source_.class_stride(), largest, keep);
    });
    finish_chunk(largest);
  }

  void gather(int64_t count) {
    if (source_.resized)
      for (int64_t c = 0; c < source_.classes; ++c)
        blend(c * source_.width + chunk_x_, count, chunk_ + c * kChunk);
    else
      source_.load(image_, y_, chunk_x_, count, chunk_, kChunk);
    for (int64_t c = 0; c < source_.classes; ++c)
      for (int64_t i = count; i < kChunk; ++i) chunk_[c * kChunk + i] = 0;
    Vector<Real> largest[kChunk / kLanes<Real>];
    scan<kChunk / kLanes<Real>>(chunk_, kChunk, largest, [](int64_t, int, Vector<Real>) {});
    finish_chunk(largest);
  }

  template <int kVectors>
  void finish_chunk(const Vector<Real> (&largest)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) store(largest_ + v * kLanes<Real>, largest[v]);
    chunk_end_ = chunk_x_ + kVectors * kLanes<Real>;
  }

  void blend(int64_t offset, int64_t count, Real* out) const {
    const Real* above = above_ + offset;
    if (below_ == nullptr) {
      for (int64_t i = 0; i < count; ++i) out[i] = above[i];
    } else if (count == kChunk) {
      blend_rows(above, below_ + offset, kChunk, out);  // the constant length leaves no remainder
    } else {
      blend_rows(above, below_ + offset, count, out);
    }
  }

  inline __attribute__((always_inline)) void blend_rows(const Real* __restrict above,
                                                        const Real* __restrict below, int64_t count,
                                                        Real* __restrict out) const {
    const Real weight = weight_, rest = 1 - weight;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] = rest * above[i] + weight * below[i];
  }

  // Row y of the source at full width. The last two rows are kept, so that each row is made once on the way
  // down an image. `keep` is the row that must not be replaced.
  const Real* stretch(int64_t y, int64_t keep) {
    for (const Row& row : wide_)
      if (row.image == image_ && row.y == y) return row.pixels;
    Row& row = wide_[wide_[0].image == image_ && wide_[0].y == keep ? 1 : 0];
    row.image = image_;
    row.y = y;
    source_.load(image_, y, 0, source_.source_width, narrow_, source_.source_width);
    for (int64_t c = 0; c < source_.classes; ++c)
      stretch_class(narrow_ + c * source_.source_width, row.pixels + c * source_.width);
    return row.pixels;
  }

  void stretch_class(const Real* __restrict in, Real* __restrict out) {
    const int32_t* first = source_.first.data();
    const int32_t* second = source_.second.data();
    const Real* weight = source_.weight.data();
    int64_t x = 0;
    if (sizeof(Real) == sizeof(int32_t) && source_.close_neighbours)
      for (; x + kLanes<Real> <= source_.width; x += kLanes<Real>) {
        const auto a = look_up(in + first[x], load(first + x) - first[x]);
        const auto b = look_up(in + first[x], load(second + x) - first[x]), w = load(weight + x);
        store(out + x, (1 - w) * a + (w > 0 ? w * b : Vector<Real>{}));
      }
#pragma omp simd
    for (int64_t i = x; i < source_.width; ++i) out[i] = interpolate(in[first[i]], in[second[i]], weight[i]);
  }

  const LogitSource<Real>& source_;
  Real* const chunk_;    // [C, kChunk]
  Real* const largest_;  // [kChunk]: largest logits of the chunk's pixels
  int64_t image_ = 0, y_ = 0, chunk_x_ = 0, chunk_end_ = 0;
  const Real* row_ = nullptr;
  // If resized: a row of the source [C, w], and at full width the two rows of the source between which the
  // current row lies.
  Real* narrow_ = nullptr;
  Row wide_[2] = {};
  const Real* above_ = nullptr;
  const Real* below_ = nullptr;  // null where its weight is 0
  Real weight_ = 0;
};

}  // namespace ralx::RALX_ISA
