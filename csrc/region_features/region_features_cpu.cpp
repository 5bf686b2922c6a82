#include "region_features/region_features.h"

#include <omp.h>

#include "common/cpu/dispatch.h"
#include "common/cpu/pixel_rows.h"
#include "common/cpu/plain_floats.h"
#include "common/cpu/region_totals.h"
#include "common/region_grid.h"
#include "common/scores.h"

namespace ralx::RALX_ISA {
namespace {

// Where there are fewer rows of regions than this, several threads share a row of regions.
constexpr int64_t kManyBands = 64;

// Part of a region along one axis, in pixels from the region's edge.
struct Span {
  int64_t begin, count;
};

struct CellGrid {
  int64_t rows, cols, height, width;  // cells of height × width pixels

  CellGrid(Extent region, Extent cells)
      : rows(cells.height), cols(cells.width), height(region.height / cells.height),
        width(region.width / cells.width) {}

  // The part of pixels begin .. begin + count - 1 that lies in a region of `region` pixels; a region at the
  // image's edge may have fewer pixels than others.
  static Span clip(int64_t begin, int64_t count, int64_t region) {
    begin = min_of(begin, region);
    return {begin, min_of(count, region - begin)};
  }
};

// Minimum, maximum and sum of the entropy down each column of a strip of rows. NaN goes into the sum alone;
// over() finds NaN there.
template <typename Real>
class ColumnStats {
 public:
  struct Stats {
    Real min, max;
    double sum;
  };

  ColumnStats(int64_t width, Arena& arena)
      : width_(width + kBlock<Real>), min_(arena.take<Real>(width_)), max_(arena.take<Real>(width_)),
        some_(arena.take<Real>(width_)), sum_(arena.take<double>(width_)) {}

  void clear() {
    for (int64_t x = 0; x < width_; ++x) {
      min_[x] = static_cast<Real>(__builtin_huge_val());
      max_[x] = -min_[x];
      some_[x] = 0;
      sum_[x] = 0;
    }
    rows_ = 0;
  }

  // Adds a vector of the current row, at column x.
  void add(int64_t x, Vector<Real> entropy) {
    const Vector<Real> min = load(min_ + x), max = load(max_ + x);
    store(min_ + x, lower(entropy, min));
    store(max_ + x, higher(entropy, max));
    store(some_ + x, load(some_ + x) + entropy);
  }

  // A few rows are added up in Real, and then their sum is added in double.
  void end_row() {
    if (++rows_ == kRowsAtOnce) flush();
  }

  void flush() {
    Real* __restrict some = some_;
    double* __restrict sum = sum_;
#pragma omp simd
    for (int64_t x = 0; x < width_; ++x) {
      sum[x] += static_cast<double>(some[x]);
      some[x] = 0;
    }
    rows_ = 0;
  }

  // The columns begin .. begin + count - 1 together. Must be called after flush().
  Stats over(int64_t begin, int64_t count) const {
    if (count == 0) return {0, 0, 0};
    Stats stats{min_[begin], max_[begin], 0};
    for (int64_t x = begin; x < begin + count; ++x) {
      stats.min = lower(min_[x], stats.min);
      stats.max = higher(max_[x], stats.max);
      stats.sum += sum_[x];
    }
    if (stats.sum != stats.sum) stats.min = stats.max = static_cast<Real>(stats.sum);
    return stats;
  }

 private:
  static constexpr int kRowsAtOnce = 8;

  const int64_t width_;
  Real* const min_;
  Real* const max_;
  Real* const some_;
  double* const sum_;
  int rows_ = 0;
};

// Measures rows of pixels for one thread: their entropies go to `columns`, their predicted classes to
// `counts`.
template <typename Real>
class Worker {
 public:
  Worker(const LogitSource<Real>& source, const RegionGrid& grid, Arena& arena)
      : counts(grid, source.classes, arena), columns(grid.covered_width(), arena), classes_(source.classes),
        width_(grid.covered_width()), reader_(source, arena), masks_(source.classes, arena) {}

  void prepare() {}

  void add_row(int64_t image, int64_t y, double*) {
    reader_.seek(image, y);
    for (int64_t x = 0; x < width_; x += kBlock<Real>)
      add_block(reader_.read(x), x, min_of(x + kBlock<Real>, width_));
    columns.end_row();
  }

  ClassCounts counts;
  ColumnStats<Real> columns;

 private:
  using V = Vector<Real>;

  void add_block(const LogitBlock<Real>& block, int64_t x, int64_t end) {
    BlockSums<Real> sums;
    block_softmax(block, classes_, sums, [&](int64_t c, int v, V logit, V) {
      masks_.set(c, v, equal_lanes(logit, sums.largest[v]));
    });
    for (int v = 0; v < kVectorsPerBlock; ++v)
      columns.add(x + v * kLanes<Real>, softmax_entropy(sums.z[v], sums.tz[v], reciprocal(sums.z[v])));
    if (sums.all_simple())
      counts.add(masks_, x, end);
    else
      count_any(block, x, end);
  }

  // Counts a block in which some logit may be NaN, which no mask shows.
  void count_any(Block<Real> block, int64_t x, int64_t end) {
    Real largest[kBlock<Real>];
    int32_t label[kBlock<Real>];
    block_argmax(block, classes_, largest, label);
    counts.add(label, x, end);
  }

  const int64_t classes_, width_;
  LogitReader<Real> reader_;
  BlockMasks<Real> masks_;
};

// A Worker that measures scores too, and adds them to sums [1 + S, cols] from the second row on.
template <typename Real>
class ScoringWorker {
 public:
  ScoringWorker(const LogitSource<Real>& source, const RegionGrid& grid, const Scores& scores, Arena& arena)
      : counts(grid, source.classes, arena), columns(grid.covered_width(), arena), grid_(grid),
        scores_(scores), rows_(source, scores, arena) {}

  void prepare() { rows_.prepare(); }

  void add_row(int64_t image, int64_t y, double* sums) {
    rows_.seek(image, y);
    for (int64_t x = 0; x < grid_.covered_width(); x += kLanes<Real>)
      columns.add(x, load(rows_.entropy() + x));
    columns.end_row();
    counts.add_row(rows_.label());
    for (int64_t s = 0; s < count(scores_); ++s) {
      const Real* score = rows_.score(s);
      double* sum = sums + (s + 1) * grid_.cols;
      for (int64_t col = 0; col < grid_.cols; ++col)
        for (int64_t x = 0; x < grid_.width(col); ++x) sum[col] += static_cast<double>(*score++);
    }
  }

  ClassCounts counts;
  ColumnStats<Real> columns;

 private:
  const RegionGrid& grid_;
  const Scores scores_;
  PixelRows<Real> rows_;
};

// A row of regions (a band) consists of strips of pixel rows: one strip for each row of cells, and one for
// the pixel rows below the last cell. Threads share the parts of the bands; the sums of the parts are added
// in the order of the parts, whichever thread made them.
class Pass {
 public:
  Pass(int64_t images, int64_t classes, const RegionGrid& grid, const CellGrid& cells, int64_t scores,
       const RegionOutputs& out)
      : classes_(classes), grid_(grid), cells_(cells), out_(out), bands_(images * grid.rows),
        kinds_(1 + scores), strips_(cells.rows + (cells.rows * cells.height < grid.region.height ? 1 : 0)),
        parts_(bands_ < kManyBands ? strips_ : 1), totals_(grid, classes, bands_ * parts_, kinds_) {}

  // make_worker(arena) makes a Worker or ScoringWorker; each thread has its own worker.
  template <typename MakeWorker>
  void run(int threads, const MakeWorker& make_worker) {
    ThreadScratch scratch(threads, make_worker);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const PlainFloats plain;
      Arena arena = scratch.arena(omp_get_thread_num());
      auto worker = make_worker(arena);
      worker.prepare();
#pragma omp for schedule(dynamic)
      for (int64_t unit = 0; unit < bands_ * parts_; ++unit) measure(worker, unit);
#pragma omp for schedule(static) nowait
      for (int64_t band = 0; band < bands_; ++band) {
        const int64_t first = band * parts_, last = first + parts_;
        totals_.add_up(0, first, last, out_.entropy_sum + band * grid_.cols);
        for (int64_t kind = 1; kind < kinds_; ++kind)
          totals_.add_up(kind, first, last, out_.score_sum + ((kind - 1) * bands_ + band) * grid_.cols);
        totals_.add_up_classes(band % grid_.rows, first, last,
                               out_.class_hist + band * grid_.cols * classes_);
      }
    }
  }

 private:
  template <typename Worker>
  void measure(Worker& worker, int64_t unit) {
    const int64_t band = unit / parts_, part = unit % parts_, strips = strips_ / parts_;
    const int64_t image = band / grid_.rows, row = band % grid_.rows, top = row * grid_.region.height;
    double* sums = totals_.sums(unit);
    for (int64_t i = 0; i < kinds_ * grid_.cols; ++i) sums[i] = 0;
    worker.counts.clear();
    for (int64_t strip = part * strips; strip < (part + 1) * strips; ++strip) {
      const int64_t begin = strip * cells_.height;
      const int64_t end = strip < cells_.rows ? begin + cells_.height : grid_.region.height;
      const Span span = CellGrid::clip(begin, end - begin, grid_.height(row));
      worker.columns.clear();
      for (int64_t y = 0; y < span.count; ++y) worker.add_row(image, top + span.begin + y, sums);
      worker.columns.flush();
      if (span.count > 0)
        for (int64_t col = 0; col < grid_.cols; ++col)
          sums[col] += worker.columns.over(col * grid_.region.width, grid_.width(col)).sum;
      if (strip < cells_.rows) pool(worker.columns, band, strip, span.count);
    }
    totals_.set_counts(unit, worker.counts);
  }

  template <typename Columns>
  void pool(const Columns& columns, int64_t band, int64_t row, int64_t height) {
    for (int64_t col = 0; col < grid_.cols; ++col) {
      const int64_t first = ((band * grid_.cols + col) * cells_.rows + row) * cells_.cols;
      for (int64_t j = 0; j < cells_.cols; ++j) {
        const Span span = CellGrid::clip(j * cells_.width, height > 0 ? cells_.width : 0, grid_.width(col));
        const auto stats = columns.over(col * grid_.region.width + span.begin, span.count);
        const double area = static_cast<double>(height * span.count);
        out_.entropy_min[first + j] = static_cast<float>(stats.min);
        out_.entropy_avg[first + j] = area > 0 ? static_cast<float>(stats.sum / area) : 0;
        out_.entropy_max[first + j] = static_cast<float>(stats.max);
      }
    }
  }

  const int64_t classes_;
  const RegionGrid& grid_;
  const CellGrid& cells_;
  const RegionOutputs& out_;
  const int64_t bands_, kinds_, strips_, parts_;
  RegionTotals totals_;  // of units [bands, parts]
};

}  // namespace

void region_features(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                     bool align_corners, const Scores& scores, const RegionOutputs& out, int threads) {
  const RegionGrid grid(size, region_size, keep_edge);
  const CellGrid cells(region_size, out.cells);
  dispatch_real(logits.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(logits, size, align_corners);
    Pass pass(source.images, source.classes, grid, cells, count(scores), out);
    if (count(scores) > 0)
      pass.run(threads, [&](Arena& arena) { return ScoringWorker<Real>(source, grid, scores, arena); });
    else
      pass.run(threads, [&](Arena& arena) { return Worker<Real>(source, grid, arena); });
  });
}

}  // namespace ralx::RALX_ISA
