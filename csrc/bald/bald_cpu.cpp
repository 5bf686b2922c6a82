#include "bald/bald.h"

#include <omp.h>

#include "common/cpu/dispatch.h"
#include "common/cpu/plain_floats.h"
#include "common/cpu/region_totals.h"
#include "common/region_grid.h"

namespace ralx::RALX_ISA {
namespace {

// A thread's running sums stay below this many bytes, to fit in the second-level cache.
constexpr int64_t kSumBytes = 512 * 1024;
// The rows of a group at most. Larger groups would save little: upsampling stretches a row of the source once
// more for each group of rows.
constexpr int64_t kMostRows = 8;

template <typename Real>
int64_t blocks_in(int64_t width) {
  return (width + kBlock<Real> - 1) / kBlock<Real>;
}

// Adds one pass over a block of pixels to the sums over the passes. `e_` [C, kBlock<Real>] holds 2^t of each
// class, which times 1 / z is p.
template <typename Real>
class BlockPass {
 public:
  BlockPass(int64_t classes, Arena& arena)
      : classes_(classes), e_(arena.take<Real>(classes * kBlock<Real>)) {}

  // Adds p and H of the first `count` pixels of a block of logits to sum_p [C, kBlock<Real>] and sum_entropy
  // [kBlock<Real>].
  inline __attribute__((always_inline)) void add(const LogitBlock<Real>& block, Real* sum_p,
                                                 int64_t class_stride, Real* sum_entropy, int64_t count) {
    BlockSums<Real> sums;
    V entropy[kVectorsPerBlock], one_over_z[kVectorsPerBlock];
    block_softmax(block, classes_, sums,
                  [&](int64_t c, int v, V, V e) { store(e_ + c * kBlock<Real> + v * kLanes<Real>, e); });
    for (int v = 0; v < kVectorsPerBlock; ++v) {
      one_over_z[v] = reciprocal(sums.z[v]);
      entropy[v] = softmax_entropy(sums.z[v], sums.tz[v], one_over_z[v]);
      // Where p of one class is NaN, p of all classes is.
      one_over_z[v] = entropy[v] == entropy[v] ? one_over_z[v] : entropy[v];
    }
    if (count == kBlock<Real>)
      add_whole(sum_p, class_stride, sum_entropy, entropy, one_over_z);
    else
      add_part(sum_p, class_stride, sum_entropy, entropy, one_over_z, count);
  }

 private:
  using V = Vector<Real>;

  void add_whole(Real* sum_p, int64_t class_stride, Real* sum_entropy, const V* entropy,
                 const V* one_over_z) {
    for (int v = 0; v < kVectorsPerBlock; ++v) {
      const int64_t at = v * kLanes<Real>;
      store(sum_entropy + at, load(sum_entropy + at) + entropy[v]);
      for (int64_t c = 0; c < classes_; ++c) {
        Real* sum = sum_p + c * class_stride + at;
        store(sum, load(sum) + load(e_ + c * kBlock<Real> + at) * one_over_z[v]);
      }
    }
  }

  void add_part(Real* sum_p, int64_t class_stride, Real* sum_entropy, const V* entropy, const V* one_over_z,
                int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t v = i / kLanes<Real>, lane = i % kLanes<Real>;
      sum_entropy[i] += entropy[v][lane];
      for (int64_t c = 0; c < classes_; ++c)
        sum_p[c * class_stride + i] += e_[c * kBlock<Real> + i] * one_over_z[v][lane];
    }
  }

  const int64_t classes_;
  Real* const e_;
};

// A sum whose rounding errors are added up beside it (Kahan 1965): the errors of many equal classes are all
// alike and don't cancel.
template <typename V>
struct ExactSum {
  V sum = {}, excess = {};

  void add(V x) {
    const V missing = x - excess, next = sum + missing;
    excess = (next - sum) - missing;
    sum = next;
  }
};

// bald[i] and label[i] of a block of pixels from the sums over T passes. With s = T times the mean p and z =
// Σ s over the classes, H(mean p) = ln 2 · (log2 z - Σ s log2 s / z), in which errors that all s share
// cancel. The function is compiled once, so that stacked and streamed passes are rounded alike.
template <typename Real>
__attribute__((noinline, noclone)) void mutual_information(Block<Real> sum_p, const Real* sum_entropy,
                                                           int64_t classes, int64_t passes, Real* bald,
                                                           int32_t* label) {
  using V = Vector<Real>;
  const Real weight = 1 / static_cast<Real>(passes);
  Real largest[kBlock<Real>];
  block_argmax(sum_p, classes, largest, label);
  for (int v = 0; v < kVectorsPerBlock; ++v) {
    const int64_t at = v * kLanes<Real>;
    ExactSum<V> z, entropy;
    for (int64_t c = 0; c < classes; ++c) {
      const V s = load(sum_p.pixels + c * sum_p.class_stride + at);
      z.add(s);
      entropy.add(s * log2_positive(s));
    }
    const V of_mean = log2_positive(z.sum) - entropy.sum / z.sum;
    store(bald + at, of_mean * static_cast<Real>(kLn2) - load(sum_entropy + at) * weight);
  }
}

template <typename Real>
void carry_all(Real* __restrict sums, Real* __restrict totals, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) carry(sums[i], totals[i]);
}

// The rows of an image in groups, which threads share. No group has rows of two rows of regions.
struct RowGroups {
  struct Rows {
    int64_t begin, end;
  };

  RowGroups(int64_t height, int64_t rows_per_group, const RegionGrid& grid)
      : height(height), rows_per_group(rows_per_group), bands(grid.rows), band_height(grid.region.height),
        per_band(groups_of(band_height)),
        per_image(bands * per_band +
                  (height > bands * band_height ? groups_of(height - bands * band_height) : 0)) {}

  // The rows of a group, counted from the top of the image.
  Rows rows(int64_t group) const {
    const int64_t band = min_of(group / per_band, bands);  // `bands` stands for the rows below all regions
    const int64_t end = band < bands ? min_of((band + 1) * band_height, height) : height;
    const int64_t begin = min_of(band * band_height + (group - band * per_band) * rows_per_group, end);
    return {begin, min_of(begin + rows_per_group, end)};
  }

  int64_t groups_of(int64_t rows) const { return (rows + rows_per_group - 1) / rows_per_group; }

  const int64_t height, rows_per_group, bands, band_height, per_band, per_image;
};

// Turns sums over the passes into pixels of bald_map, and adds these pixels to the sums and class counts of
// their regions.
template <typename Real>
class RowSink {
 public:
  RowSink(const RegionGrid& grid, int64_t width, int64_t classes, Arena& arena)
      : counts(grid, classes, arena), grid_(grid), width_(width), classes_(classes),
        bald_(arena.take<Real>(width + kBlock<Real>)), label_(arena.take<int32_t>(width + kBlock<Real>)) {}

  void finish_block(int64_t x, Block<Real> sum_p, const Real* sum_entropy, int64_t passes) {
    mutual_information(sum_p, sum_entropy, classes_, passes, bald_ + x, label_ + x);
  }

  void finish_row(float* bald_map, double* sums) {
    for (int64_t x = 0; x < width_; ++x) bald_map[x] = static_cast<float>(bald_[x]);
    const Real* bald = bald_;
    for (int64_t col = 0; col < grid_.cols; ++col)
      for (int64_t x = 0; x < grid_.width(col); ++x) sums[col] += static_cast<double>(*bald++);
    counts.add_row(label_);
  }

  ClassCounts counts;

 private:
  const RegionGrid& grid_;
  const int64_t width_, classes_;
  Real* const bald_;
  int32_t* const label_;
};

// Stacked passes: a group of rows goes through all passes and keeps its sums meanwhile.
template <typename Real>
class StackedRows {
 public:
  StackedRows(const LogitSource<Real>& source, int64_t passes, int64_t most_rows, Arena& arena)
      : source_(source), passes_(passes), blocks_(blocks_in<Real>(source.width)),
        of_block_((source.classes + 1) * kBlock<Real>), reader_(source, arena), pass_(source.classes, arena),
        sums_(arena.take<Real>(most_rows * blocks_ * of_block_)),
        totals_(arena.take<Real>(passes > kPassesAtOnce ? most_rows * blocks_ * of_block_ : 0)) {}

  void gather(int64_t image, RowGroups::Rows rows) {
    const int64_t count = (rows.end - rows.begin) * blocks_ * of_block_;
    for (int64_t i = 0; i < count; ++i) sums_[i] = 0;
    if (passes_ > kPassesAtOnce)
      for (int64_t i = 0; i < count; ++i) totals_[i] = 0;
    for (int64_t t = 0; t < passes_; ++t) {
      if (t > 0 && t % kPassesAtOnce == 0) carry_all(sums_, totals_, count);
      int64_t block = 0;
      for (int64_t y = rows.begin; y < rows.end; ++y) {
        reader_.seek(t * source_.images + image, y);
        for (int64_t x = 0; x < source_.width; x += kBlock<Real>, ++block)
          pass_.add(reader_.read(x), sum_p(block), kBlock<Real>, sum_entropy(block), kBlock<Real>);
      }
    }
    if (passes_ > kPassesAtOnce)
      for (int64_t i = 0; i < count; ++i) sums_[i] += totals_[i];
  }

  // Finishes row y of the group, counted from the group's first row.
  void finish(int64_t y, RowSink<Real>& sink) {
    for (int64_t i = 0; i < blocks_; ++i)
      sink.finish_block(i * kBlock<Real>, {sum_p(y * blocks_ + i), kBlock<Real>},
                        sum_entropy(y * blocks_ + i), passes_);
  }

 private:
  Real* sum_p(int64_t block) { return sums_ + block * of_block_; }
  Real* sum_entropy(int64_t block) { return sum_p(block) + source_.classes * kBlock<Real>; }

  const LogitSource<Real>& source_;
  const int64_t passes_, blocks_, of_block_;
  LogitReader<Real> reader_;
  BlockPass<Real> pass_;
  Real* const sums_;    // [rows, blocks, C + 1, kBlock<Real>]: of p in each class, then of the entropy
  Real* const totals_;  // the totals of sums_, where there are more than kPassesAtOnce passes
};

// Streamed passes, whose sums lie in memory.
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
    Real block_entropy[kBlock<Real>] = {};
    const Real* entropy = sum_entropy_ + (image_ * source_.height + begin_ + y) * source_.width;
    reader_.seek(image_, begin_ + y);
    for (int64_t x = 0; x < source_.width; x += kBlock<Real>) {
      const int64_t count = min_of(kBlock<Real>, source_.width - x);
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

// make_rows(most_rows, arena) makes a StackedRows or StreamedRows; each thread has its own rows.
template <typename Real, typename MakeRows>
void compute(const LogitSource<Real>& source, Extent region_size, bool keep_edge, const Outputs& out,
             int threads, const MakeRows& make_rows) {
  const int64_t row_bytes =
      blocks_in<Real>(source.width) * kBlock<Real> * source.classes * static_cast<int64_t>(sizeof(Real));
  const int64_t most_rows = row_bytes * kMostRows < kSumBytes ? kMostRows : kSumBytes / row_bytes;
  const RegionGrid grid({source.height, source.width}, region_size, keep_edge);
  const RowGroups groups(source.height, most_rows > 0 ? most_rows : 1, grid);
  RegionTotals totals(grid, source.classes, source.images * groups.per_image, 1);
  ThreadScratch scratch(threads, [&](Arena& arena) {
    make_rows(groups.rows_per_group, arena);
    RowSink<Real>(grid, source.width, source.classes, arena);
  });
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const PlainFloats plain;
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
      const int64_t last = first + groups.per_band;
      totals.add_up(0, first, last, out.region_sum + band * grid.cols);
      totals.add_up_classes(band % grid.rows, first, last,
                            out.class_hist + band * grid.cols * source.classes);
    }
  }
}

Outputs outputs(const TensorView& bald_map, const TensorView& region_sum, const TensorView& class_hist) {
  return {static_cast<float*>(bald_map.data), static_cast<float*>(region_sum.data),
          static_cast<float*>(class_hist.data)};
}

}  // namespace

void bald(const TensorView& logits, Extent region_size, bool keep_edge, bool align_corners,
          const TensorView& bald_map, const TensorView& region_sum, const TensorView& class_hist,
          int threads) {
  dispatch_real(logits.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(logits, {bald_map.sizes[1], bald_map.sizes[2]}, align_corners);
    compute(source, region_size, keep_edge, outputs(bald_map, region_sum, class_hist), threads,
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
    ThreadScratch scratch(threads, [&](Arena& arena) {
      LogitReader<Real>(source, arena);
      BlockPass<Real>(source.classes, arena);
    });
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const PlainFloats plain;
      Arena arena = scratch.arena(omp_get_thread_num());
      LogitReader<Real> reader(source, arena);
      BlockPass<Real> pass(source.classes, arena);
#pragma omp for schedule(static)
      for (int64_t row = 0; row < source.images * source.height; ++row) {
        const int64_t image = row / source.height, y = row % source.height;
        reader.seek(image, y);
        for (int64_t x = 0; x < source.width; x += kBlock<Real>)
          pass.add(reader.read(x), p + image * source.classes * pixels + y * source.width + x, pixels,
                   entropy + row * source.width + x, min_of(kBlock<Real>, source.width - x));
      }
    }
  });
}

void bald_carry(const TensorView& sums, const TensorView& totals, int threads) {
  constexpr int64_t kPiece = 1 << 14;
  int64_t count = 1;
  for (int i = 0; i < sums.ndim; ++i) count *= sums.sizes[i];
  dispatch_real(sums.dtype, [&](auto real) {
    using Real = decltype(real);
    Real *const from = static_cast<Real*>(sums.data), *const to = static_cast<Real*>(totals.data);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const PlainFloats plain;
#pragma omp for schedule(static)
      for (int64_t first = 0; first < count; first += kPiece)
        carry_all(from + first, to + first, min_of(kPiece, count - first));
    }
  });
}

void bald_compute(const TensorView& sum_p, const TensorView& sum_entropy, int64_t passes, Extent region_size,
                  bool keep_edge, const TensorView& bald_map, const TensorView& region_sum,
                  const TensorView& class_hist, int threads) {
  dispatch_real(sum_p.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(sum_p, {sum_p.sizes[2], sum_p.sizes[3]}, false);
    compute(source, region_size, keep_edge, outputs(bald_map, region_sum, class_hist), threads,
            [&](int64_t, Arena& arena) {
              return StreamedRows<Real>(source, static_cast<const Real*>(sum_entropy.data), passes, arena);
            });
  });
}

}  // namespace ralx::RALX_ISA
