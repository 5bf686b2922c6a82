#include "bald/bald.h"

#include <omp.h>

#include "common/pixel_blocks.h"
#include "common/region_grid.h"
#include "common/region_totals.h"

namespace ralx::RALX_ISA {
namespace {

// A thread's running sums stay below this many bytes, to fit in the second-level cache.
constexpr int64_t kSumBytes = 512 * 1024;
// More rows at once save little: upsampling stretches a row of the source again for each group of rows.
constexpr int64_t kMostRows = 8;

int64_t blocks_in(int64_t width) { return (width + kBlock - 1) / kBlock; }

// Σp [C, kBlock] and ΣH [kBlock] += those of a block of logits, which is overwritten.
template <typename Real>
void add_pass(Real* __restrict block, int64_t classes, Real* __restrict sum_p, int64_t class_stride,
              Real* __restrict sum_entropy, int64_t count) {
  Real z[kBlock], entropy[kBlock];
  int32_t label[kBlock];
  block_softmax_entropy(block, classes, z, entropy, label);
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) z[i] = 1 / z[i];
  for (int64_t c = 0; c < classes; ++c) {
    const Real* e = block + c * kBlock;
    Real* sum = sum_p + c * class_stride;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) sum[i] += e[i] * z[i];
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) sum_entropy[i] += entropy[i];
}

// bald[i] and label[i] of a block of pixels from the sums over T passes.
template <typename Real>
void mutual_information(const Real* __restrict sum_p, const Real* __restrict sum_entropy, int64_t classes,
                        int64_t passes, Real* __restrict bald, int32_t* __restrict label) {
  const Real weight = 1 / static_cast<Real>(passes);
  Real largest[kBlock];
  block_argmax(sum_p, classes, largest, label);
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) bald[i] = -sum_entropy[i] * weight;
  for (int64_t c = 0; c < classes; ++c) {
    const Real* sum = sum_p + c * kBlock;
#pragma omp simd
    for (int i = 0; i < kBlock; ++i) {
      const Real p = sum[i] * weight;
      bald[i] -= p * log_positive(p);
    }
  }
}

// Rows of the images, shared out in groups; the rows of one region are those of whole groups.
struct RowGroups {
  struct Rows {
    int64_t begin, end;
  };

  RowGroups(int64_t height, int64_t rows_per_group, const RegionGrid& grid)
      : height(height), rows_per_group(rows_per_group), bands(grid.rows), band_height(grid.region.height),
        per_band(up(band_height)), per_image(bands * per_band + up(height - bands * band_height)) {}

  // In the image, counted from its top.
  Rows rows(int64_t group) const {
    const int64_t band = min_of(group / per_band, bands);  // the last one is no band: rows of no region
    const int64_t begin = band * band_height + (group - band * per_band) * rows_per_group;
    return {begin, min_of(begin + rows_per_group, band < bands ? (band + 1) * band_height : height)};
  }

  int64_t up(int64_t rows) const { return (rows + rows_per_group - 1) / rows_per_group; }

  const int64_t height, rows_per_group, bands, band_height, per_band, per_image;
};

// Turns sums over the passes into pixels of bald_map, and keeps what the regions need.
template <typename Real>
class RowSink {
 public:
  RowSink(const RegionGrid& grid, int64_t width, int64_t classes, Arena& arena)
      : counts(grid, classes, arena), grid_(grid), width_(width), classes_(classes),
        bald_(arena.take<Real>(width + kBlock)), label_(arena.take<int32_t>(width + kBlock)) {}

  void finish_block(int64_t x, const Real* sum_p, const Real* sum_entropy, int64_t passes) {
    mutual_information(sum_p, sum_entropy, classes_, passes, bald_ + x, label_ + x);
  }

  void finish_row(float* bald_map, double* sums) {
    for (int64_t x = 0; x < width_; ++x) bald_map[x] = static_cast<float>(bald_[x]);
    const Real* bald = bald_;
    for (int64_t col = 0; col < grid_.cols; ++col)
      for (int64_t x = 0; x < grid_.region.width; ++x) sums[col] += static_cast<double>(*bald++);
    counts.add_row(label_);
  }

  ClassCounts counts;

 private:
  const RegionGrid& grid_;
  const int64_t width_, classes_;
  Real* const bald_;
  int32_t* const label_;
};

// All passes at once: a group of rows keeps its sums while the passes go by.
template <typename Real>
class StackedRows {
 public:
  StackedRows(const LogitSource<Real>& source, int64_t passes, int64_t most_rows, Arena& arena)
      : source_(source), passes_(passes), blocks_(blocks_in(source.width)), reader_(source, arena),
        sum_p_(arena.take<Real>(most_rows * blocks_ * source.classes * kBlock)),
        sum_entropy_(arena.take<Real>(most_rows * blocks_ * kBlock)) {}

  void gather(int64_t image, RowGroups::Rows rows) {
    const int64_t count = (rows.end - rows.begin) * blocks_;
    for (int64_t i = 0; i < count * source_.classes * kBlock; ++i) sum_p_[i] = 0;
    for (int64_t i = 0; i < count * kBlock; ++i) sum_entropy_[i] = 0;
    for (int64_t t = 0; t < passes_; ++t) {
      int64_t block = 0;
      for (int64_t y = rows.begin; y < rows.end; ++y) {
        reader_.seek(t * source_.images + image, y);
        for (int64_t x = 0; x < source_.width; x += kBlock, ++block)
          add_pass(reader_.read(x), source_.classes, sum_p(block), kBlock, sum_entropy(block), kBlock);
      }
    }
  }

  // Row y of the rows gathered, counted from the first.
  void finish(int64_t y, RowSink<Real>& sink) {
    for (int64_t i = 0; i < blocks_; ++i)
      sink.finish_block(i * kBlock, sum_p(y * blocks_ + i), sum_entropy(y * blocks_ + i), passes_);
  }

 private:
  Real* sum_p(int64_t block) { return sum_p_ + block * source_.classes * kBlock; }
  Real* sum_entropy(int64_t block) { return sum_entropy_ + block * kBlock; }

  const LogitSource<Real>& source_;
  const int64_t passes_, blocks_;
  LogitReader<Real> reader_;
  Real* const sum_p_;        // [rows, blocks, C, kBlock]
  Real* const sum_entropy_;  // [rows, blocks, kBlock]
};

// The passes have gone by: their sums lie in memory.
template <typename Real>
class StreamedRows {
 public:
  StreamedRows(const LogitSource<Real>& sum_p, const Real* sum_entropy, int64_t passes, Arena& arena)
      : source_(sum_p), sum_entropy_(sum_entropy), passes_(passes), reader_(sum_p, arena) {}

  void gather(int64_t image, RowGroups::Rows rows) {
    image_ = image;
    begin_ = rows.begin;
  }

  void finish(int64_t y, RowSink<Real>& sink) {
    Real block_entropy[kBlock] = {};
    const Real* entropy = sum_entropy_ + (image_ * source_.height + begin_ + y) * source_.width;
    reader_.seek(image_, begin_ + y);
    for (int64_t x = 0; x < source_.width; x += kBlock) {
      const int64_t count = min_of(kBlock, source_.width - x);
      for (int64_t i = 0; i < count; ++i) block_entropy[i] = entropy[x + i];
      sink.finish_block(x, reader_.read(x), block_entropy, passes_);
    }
  }

 private:
  const LogitSource<Real>& source_;
  const Real* const sum_entropy_;
  const int64_t passes_;
  LogitReader<Real> reader_;
  int64_t image_ = 0, begin_ = 0;
};

struct Outputs {
  float *bald_map, *region_sum, *class_hist;
};

// make_rows(most_rows, arena) makes a StackedRows or StreamedRows; each thread has its own.
template <typename Real, typename MakeRows>
void compute(const LogitSource<Real>& source, Extent region_size, const Outputs& out, int threads,
             const MakeRows& make_rows) {
  const int64_t row_bytes =
      blocks_in(source.width) * kBlock * source.classes * static_cast<int64_t>(sizeof(Real));
  const int64_t most_rows = row_bytes * kMostRows < kSumBytes ? kMostRows : kSumBytes / row_bytes;
  const RegionGrid grid({source.height, source.width}, region_size);
  const RowGroups groups(source.height, most_rows > 0 ? most_rows : 1, grid);
  RegionTotals totals(grid, source.classes, source.images * groups.per_image);
  ThreadScratch scratch(threads, [&](Arena& arena) {
    make_rows(groups.rows_per_group, arena);
    RowSink<Real>(grid, source.width, source.classes, arena);
  });
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Arena arena = scratch.arena(omp_get_thread_num());
    auto rows = make_rows(groups.rows_per_group, arena);
    RowSink<Real> sink(grid, source.width, source.classes, arena);
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < source.images * groups.per_image; ++unit) {
      const int64_t image = unit / groups.per_image;
      const RowGroups::Rows group = groups.rows(unit % groups.per_image);
      double* sums = totals.sums(unit);
      for (int64_t col = 0; col < grid.cols; ++col) sums[col] = 0;
      sink.counts.clear();
      rows.gather(image, group);
      for (int64_t y = group.begin; y < group.end; ++y) {
        rows.finish(y - group.begin, sink);
        sink.finish_row(out.bald_map + (image * source.height + y) * source.width, sums);
      }
      totals.set_counts(unit, sink.counts);
    }
#pragma omp for schedule(static) nowait
    for (int64_t band = 0; band < source.images * grid.rows; ++band) {
      const int64_t first = band / grid.rows * groups.per_image + band % grid.rows * groups.per_band;
      totals.add_up(first, first + groups.per_band, out.region_sum + band * grid.cols,
                    out.class_hist + band * grid.cols * source.classes);
    }
  }
}

Outputs outputs(const TensorView& bald_map, const TensorView& region_sum, const TensorView& class_hist) {
  return {static_cast<float*>(bald_map.data), static_cast<float*>(region_sum.data),
          static_cast<float*>(class_hist.data)};
}

}  // namespace

void bald(const TensorView& logits, Extent region_size, bool align_corners, const TensorView& bald_map,
          const TensorView& region_sum, const TensorView& class_hist, int threads) {
  dispatch_real(logits.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(logits, {bald_map.sizes[1], bald_map.sizes[2]}, align_corners);
    compute(source, region_size, outputs(bald_map, region_sum, class_hist), threads,
            [&](int64_t most_rows, Arena& arena) {
              return StackedRows<Real>(source, logits.sizes[0], most_rows, arena);
            });
  });
}

void bald_update(const TensorView& logits, bool align_corners, const TensorView& sum_p,
                 const TensorView& sum_entropy, int threads) {
  dispatch_real(logits.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(logits, {sum_p.sizes[2], sum_p.sizes[3]}, align_corners);
    const int64_t pixels = source.height * source.width;
    Real* const p = static_cast<Real*>(sum_p.data);
    Real* const entropy = static_cast<Real*>(sum_entropy.data);
    const auto make_reader = [&](Arena& arena) { return LogitReader<Real>(source, arena); };
    ThreadScratch scratch(threads, make_reader);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Arena arena = scratch.arena(omp_get_thread_num());
      LogitReader<Real> reader = make_reader(arena);
#pragma omp for schedule(static)
      for (int64_t row = 0; row < source.images * source.height; ++row) {
        const int64_t image = row / source.height, y = row % source.height;
        reader.seek(image, y);
        for (int64_t x = 0; x < source.width; x += kBlock)
          add_pass(reader.read(x), source.classes, p + image * source.classes * pixels + y * source.width + x,
                   pixels, entropy + row * source.width + x, min_of(kBlock, source.width - x));
      }
    }
  });
}

void bald_compute(const TensorView& sum_p, const TensorView& sum_entropy, int64_t passes, Extent region_size,
                  const TensorView& bald_map, const TensorView& region_sum, const TensorView& class_hist,
                  int threads) {
  dispatch_real(sum_p.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(sum_p, {sum_p.sizes[2], sum_p.sizes[3]}, false);
    compute(source, region_size, outputs(bald_map, region_sum, class_hist), threads,
            [&](int64_t, Arena& arena) {
              return StreamedRows<Real>(source, static_cast<const Real*>(sum_entropy.data), passes, arena);
            });
  });
}

}  // namespace ralx::RALX_ISA
