#include "region_features/region_features.h"

#include <omp.h>

#include "common/pixel_blocks.h"
#include "common/region_grid.h"
#include "common/region_totals.h"

namespace ralx::RALX_ISA {
namespace {

// With fewer rows of regions than this, each is given to several threads.
constexpr int64_t kManyBands = 64;

struct CellGrid {
  int64_t rows, cols, height, width;  // cells of height × width pixels

  CellGrid(Extent region, Extent cells)
      : rows(cells.height), cols(cells.width), height(region.height / cells.height),
        width(region.width / cells.width) {}
};

// Minimum, maximum and sum of the entropy down each column of a strip of rows; NaN stays NaN.
template <typename Real>
class ColumnStats {
 public:
  struct Stats {
    Real min, max;
    double sum;
  };

  ColumnStats(int64_t width, Arena& arena)
      : width_(width), min_(arena.take<Real>(width)), max_(arena.take<Real>(width)),
        sum_(arena.take<double>(width)) {}

  void clear() {
    for (int64_t x = 0; x < width_; ++x) {
      min_[x] = static_cast<Real>(__builtin_huge_val());
      max_[x] = -min_[x];
      sum_[x] = 0;
    }
  }

  void add_row(const Real* __restrict entropy) {
    Real* __restrict min = min_;
    Real* __restrict max = max_;
    double* __restrict sum = sum_;
#pragma omp simd
    for (int64_t x = 0; x < width_; ++x) {
      min[x] = lower(entropy[x], min[x]);
      max[x] = higher(entropy[x], max[x]);
      sum[x] += static_cast<double>(entropy[x]);
    }
  }

  Stats over(int64_t begin, int64_t count) const {
    Stats stats{min_[begin], max_[begin], 0};
    for (int64_t x = begin; x < begin + count; ++x) {
      stats.min = lower(min_[x], stats.min);
      stats.max = higher(max_[x], stats.max);
      stats.sum += sum_[x];
    }
    return stats;
  }

 private:
  static Real lower(Real x, Real min) { return ((x < min) | (x != x)) ? x : min; }
  static Real higher(Real x, Real max) { return ((x > max) | (x != x)) ? x : max; }

  const int64_t width_;
  Real* const min_;
  Real* const max_;
  double* const sum_;
};

struct Outputs {
  float *class_hist, *entropy_min, *entropy_avg, *entropy_max, *entropy_sum;
};

// What one thread works with: all strips of rows go through here.
template <typename Real>
class Worker {
 public:
  Worker(const LogitSource<Real>& source, const RegionGrid& grid, Arena& arena)
      : counts(grid, source.classes, arena), columns(grid.covered_width(), arena), grid_(grid),
        reader_(source, arena), classes_(source.classes),
        entropy_(arena.take<Real>(grid.covered_width() + kBlock)),
        label_(arena.take<int32_t>(grid.covered_width() + kBlock)) {}

  // Entropy and labels of rows begin .. end - 1 of an image, gathered in `columns` and `counts`.
  void add_rows(int64_t image, int64_t begin, int64_t end) {
    Real z[kBlock];
    columns.clear();
    for (int64_t y = begin; y < end; ++y) {
      reader_.seek(image, y);
      for (int64_t x = 0; x < grid_.covered_width(); x += kBlock)
        block_softmax_entropy(reader_.read(x), classes_, z, entropy_ + x, label_ + x);
      columns.add_row(entropy_);
      counts.add_row(label_);
    }
  }

  ClassCounts counts;
  ColumnStats<Real> columns;

 private:
  const RegionGrid& grid_;
  LogitReader<Real> reader_;
  const int64_t classes_;
  Real* const entropy_;
  int32_t* const label_;
};

// A row of regions (a band) consists of strips: one for each row of cells, and the rows below the last cell.
// Work is shared out in parts of bands; sums of strips are added in their order, whichever thread made them.
template <typename Real>
class Pass {
 public:
  Pass(const LogitSource<Real>& source, const RegionGrid& grid, const CellGrid& cells, const Outputs& out)
      : source_(source), grid_(grid), cells_(cells), out_(out), bands_(source.images * grid.rows),
        strips_(cells.rows + (cells.rows * cells.height < grid.region.height ? 1 : 0)),
        parts_(bands_ < kManyBands ? strips_ : 1), totals_(grid, source.classes, bands_ * parts_) {}

  void run(int threads) {
    const auto make_worker = [&](Arena& arena) { return Worker<Real>(source_, grid_, arena); };
    ThreadScratch scratch(threads, make_worker);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Arena arena = scratch.arena(omp_get_thread_num());
      Worker<Real> worker = make_worker(arena);
#pragma omp for schedule(dynamic)
      for (int64_t unit = 0; unit < bands_ * parts_; ++unit) measure(worker, unit);
#pragma omp for schedule(static) nowait
      for (int64_t band = 0; band < bands_; ++band)
        totals_.add_up(band * parts_, (band + 1) * parts_, out_.entropy_sum + band * grid_.cols,
                       out_.class_hist + band * grid_.cols * source_.classes);
    }
  }

 private:
  void measure(Worker<Real>& worker, int64_t unit) {
    const int64_t band = unit / parts_, part = unit % parts_, strips = strips_ / parts_;
    const int64_t image = band / grid_.rows, top = band % grid_.rows * grid_.region.height;
    double* sums = totals_.sums(unit);
    for (int64_t col = 0; col < grid_.cols; ++col) sums[col] = 0;
    worker.counts.clear();
    for (int64_t strip = part * strips; strip < (part + 1) * strips; ++strip) {
      const int64_t begin = strip * cells_.height;
      const int64_t end = strip < cells_.rows ? begin + cells_.height : grid_.region.height;
      worker.add_rows(image, top + begin, top + end);
      for (int64_t col = 0; col < grid_.cols; ++col)
        sums[col] += worker.columns.over(col * grid_.region.width, grid_.region.width).sum;
      if (strip < cells_.rows) pool(worker.columns, band, strip);
    }
    totals_.set_counts(unit, worker.counts);
  }

  void pool(const ColumnStats<Real>& columns, int64_t band, int64_t row) {
    const double area = static_cast<double>(cells_.height * cells_.width);
    for (int64_t col = 0; col < grid_.cols; ++col) {
      const int64_t first = ((band * grid_.cols + col) * cells_.rows + row) * cells_.cols;
      for (int64_t j = 0; j < cells_.cols; ++j) {
        const auto stats = columns.over(col * grid_.region.width + j * cells_.width, cells_.width);
        out_.entropy_min[first + j] = static_cast<float>(stats.min);
        out_.entropy_avg[first + j] = static_cast<float>(stats.sum / area);
        out_.entropy_max[first + j] = static_cast<float>(stats.max);
      }
    }
  }

  const LogitSource<Real>& source_;
  const RegionGrid& grid_;
  const CellGrid& cells_;
  const Outputs& out_;
  const int64_t bands_, strips_, parts_;
  RegionTotals totals_;  // of units [bands, parts]
};

}  // namespace

void region_features(const TensorView& logits, Extent region_size, Extent size, bool align_corners,
                     const TensorView& class_hist, const TensorView& entropy_min,
                     const TensorView& entropy_avg, const TensorView& entropy_max,
                     const TensorView& entropy_sum, int threads) {
  const RegionGrid grid(size, region_size);
  const CellGrid cells(region_size, {entropy_min.sizes[2], entropy_min.sizes[3]});
  const Outputs out{static_cast<float*>(class_hist.data), static_cast<float*>(entropy_min.data),
                    static_cast<float*>(entropy_avg.data), static_cast<float*>(entropy_max.data),
                    static_cast<float*>(entropy_sum.data)};
  dispatch_real(logits.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(logits, size, align_corners);
    Pass<Real>(source, grid, cells, out).run(threads);
  });
}

}  // namespace ralx::RALX_ISA
