// KL(p ‖ q) = Σ p ln p - Σ p ln q: the second sum, over all pairs, is a matrix product. It is made in tiles
// of a few rows of p by a few vectors of q that stay in registers, and is binned while it is in the cache.
//
// Everything is float64. The two sums cancel where p is near q, and under own_range the bins shrink with the
// spread of the row: in float32 they would count rounding errors there. It costs half the speed of the
// product, which is about half of the time.
//
// Every pair runs through the same multiplications and additions in the same order, wherever in a tile it
// lies: q is padded up to whole tiles, so there is no code for a remainder.
#include "kl_histogram/kl_histogram.h"

#include <omp.h>

#include <cmath>

#include "common/buffer.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectors = 4;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kVectors = 2;
#else
constexpr int kVectorBytes = 16;
constexpr int kVectors = 2;
#endif
using Vector = double __attribute__((vector_size(kVectorBytes), may_alias));
constexpr int kLanes = kVectorBytes / sizeof(double);
constexpr int kTile = kVectors * kLanes;  // columns whose sums are in registers
constexpr int kRows = 4;                  // rows of p that share each load of ln q
// Columns whose values are kept at once: kRows · kPanel float64 (128 KiB) stay in the second-level cache. Up
// to this many rows of q the product is made once under own_range, beyond it twice.
constexpr int64_t kPanel = 4096;

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Contracted exactly as the compiler contracts the vectors' `sum += p * ln_q`, so that KL(p ‖ p) is 0.
inline double multiply_add(double a, double b, double sum) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fma(a, b, sum);
#else
  return a * b + sum;
#endif
}

// Row i of a view, smoothed and normalised.
void read_row(const TensorView& view, int64_t i, double eps, double* row) {
  const int64_t classes = view.sizes[1], stride = view.strides[1];
  dispatch_floating(view.dtype, [&](auto scalar) {
    const auto* in = static_cast<const decltype(scalar)*>(view.data) + i * view.strides[0];
    for (int64_t c = 0; c < classes; ++c) row[c] = to_real(in[c * stride]) + eps;
  });
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += row[c];
  for (int64_t c = 0; c < classes; ++c) row[c] /= sum;
}

// ln q as panels [C, width] of `width` columns each.
class Reference {
 public:
  Reference(const TensorView& q, double eps, int threads)
      : columns(q.sizes[0]), classes(q.sizes[1]), width(min_of(kPanel, round_up(columns, kTile))),
        panels((columns + width - 1) / width), ln_q_(panels * width * classes) {
    Buffer<double> rows(threads * classes);
    bool zeros = false;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(|| : zeros)
    {
      double* row = rows.data() + omp_get_thread_num() * classes;
#pragma omp for schedule(static)
      for (int64_t j = 0; j < panels * width; ++j) {
        read_row(q, min_of(j, columns - 1), eps, row);  // the last row again pads the last panel
        double* out = ln_q_.data() + (j / width) * width * classes + j % width;
        for (int64_t c = 0; c < classes; ++c) {
          out[c * width] = std::log(row[c]);
          zeros = zeros || row[c] == 0;
        }
      }
    }
    has_zeros = zeros;
  }

  const double* panel(int64_t k) const { return ln_q_.data() + k * width * classes; }
  int64_t columns_of(int64_t k) const { return min_of(width, columns - k * width); }

  const int64_t columns, classes, width, panels;
  bool has_zeros;  // somewhere ln q is -inf

 private:
  Buffer<double> ln_q_;
};

// kRows rows of p, transposed: p[c, r]; self[r] = Σ_c p ln p.
struct RowBlock {
  double* p;
  double self[kRows];
};

// values[r, j] = KL(p_r ‖ q_j) for one panel, kZeros: with p = 0 adding nothing even where ln q is -inf.
template <bool kZeros>
void divergences(const RowBlock& block, const double* ln_q, int64_t classes, int64_t width, int64_t columns,
                 double* values) {
  for (int64_t j = 0; j < columns; j += kTile) {
    Vector sum[kRows][kVectors] = {};
    for (int64_t c = 0; c < classes; ++c) {
      const double* p = block.p + c * kRows;
      const Vector* column = reinterpret_cast<const Vector*>(ln_q + c * width + j);
      for (int r = 0; r < kRows; ++r) {
        if (kZeros && p[r] == 0) continue;
        for (int v = 0; v < kVectors; ++v) sum[r][v] += p[r] * column[v];
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        reinterpret_cast<Vector*>(values + r * width + j)[v] = block.self[r] - sum[r][v];
  }
}

// Minimum and maximum of what was met, NaN left out.
struct Limits {
  double low = __builtin_inf(), high = -__builtin_inf();

  void add(const double* values, int64_t count) {
    double least = low, greatest = high;
#pragma omp simd reduction(min : least) reduction(max : greatest)
    for (int64_t j = 0; j < count; ++j) {
      least = values[j] < least ? values[j] : least;
      greatest = values[j] > greatest ? values[j] : greatest;
    }
    low = least;
    high = greatest;
  }
};

// Equal bins over low..high.
struct Bins {
  double low = 0, high = 1, unit = 1, scale = 1;
  int32_t last = 0;

  Bins() = default;
  Bins(double low, double high, int64_t count) : low(low), high(high), last(static_cast<int32_t>(count - 1)) {
    unit = high - low < 1 ? 0x1p128 : 1;  // or the quotient of a subnormal range would overflow
    scale = static_cast<double>(count) / ((high - low) * unit);
  }

  // NaN gets some bin. Returns whether there was one.
  bool find(const double* values, int64_t count, int32_t* bins) const {
    const double low = this->low, high = this->high, unit = this->unit, scale = this->scale;
    const int32_t last = this->last;
    int nan = 0;
#pragma omp simd reduction(| : nan)
    for (int64_t j = 0; j < count; ++j) {
      const double x = values[j];
      nan |= x != x;
      const double above = x > low ? x : low;
      const double inside = above < high ? above : high;
      const int32_t bin = static_cast<int32_t>((inside - low) * unit * scale);
      bins[j] = bin < last ? bin : last;
    }
    return nan;
  }
};

// What one thread works with: blocks of kRows rows of p go through here.
class Worker {
 public:
  Worker(const Reference& reference, int64_t num_bins, Arena& arena)
      : reference_(reference), num_bins_(num_bins), width_(reference.width),
        row_(arena.take<double>(reference.classes)),
        block_{arena.take<double>(reference.classes * kRows), {}},
        values_(arena.take<double>(kRows * width_)), bins_(arena.take<int32_t>(kRows * width_)),
        counts_(arena.take<int64_t>(kRows * num_bins)) {}

  // Rows first .. first + kRows - 1 of p, as far as there are any.
  void run(const TensorView& p, int64_t first, bool own_range, double low, double high, double eps,
           float* out) {
    read_block(p, first, eps);
    bool bad[kRows] = {};
    Bins spans[kRows];
    for (Bins& span : spans) span = Bins(low, high, num_bins_);
    if (own_range) measure(spans, bad);
    count(own_range && reference_.panels == 1, spans, bad);
    const int64_t rows = min_of(kRows, p.sizes[0] - first);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t b = 0; b < num_bins_; ++b) {
        const double share =
            static_cast<double>(counts_[r * num_bins_ + b]) / static_cast<double>(reference_.columns);
        out[(first + r) * num_bins_ + b] = bad[r] ? __builtin_nanf("") : static_cast<float>(share);
      }
  }

 private:
  void read_block(const TensorView& p, int64_t first, double eps) {
    for (int r = 0; r < kRows; ++r) {
      read_row(p, min_of(first + r, p.sizes[0] - 1), eps, row_);  // the last row again fills the last block
      double self = 0;
      for (int64_t c = 0; c < reference_.classes; ++c) {
        block_.p[c * kRows + r] = row_[c];
        if (row_[c] != 0) self = multiply_add(row_[c], std::log(row_[c]), self);
      }
      block_.self[r] = self;
    }
  }

  void make_values(int64_t panel) {
    const auto make = reference_.has_zeros ? &divergences<true> : &divergences<false>;
    make(block_, reference_.panel(panel), reference_.classes, width_, reference_.columns_of(panel), values_);
  }

  // The bins of each row's own range; rows that have none are bad.
  void measure(Bins* spans, bool* bad) {
    Limits limits[kRows];
    for (int64_t k = 0; k < reference_.panels; ++k) {
      make_values(k);
      for (int r = 0; r < kRows; ++r) limits[r].add(values_ + r * width_, reference_.columns_of(k));
    }
    for (int r = 0; r < kRows; ++r) {
      const double low = limits[r].low, high = limits[r].high;
      bad[r] = !(low <= high && high < __builtin_inf());
      if (bad[r]) continue;
      spans[r] = low < high ? Bins(low, high, num_bins_) : Bins(low - 0.5, high + 0.5, num_bins_);
    }
  }

  void count(bool values_are_made, const Bins* spans, bool* bad) {
    for (int64_t i = 0; i < kRows * num_bins_; ++i) counts_[i] = 0;
    for (int64_t k = 0; k < reference_.panels; ++k) {
      if (!values_are_made) make_values(k);
      const int64_t columns = reference_.columns_of(k);
      for (int r = 0; r < kRows; ++r)
        bad[r] |= spans[r].find(values_ + r * width_, columns, bins_ + r * width_);
      // Row by row, a run of equal bins would wait for its own additions; in turn, the rows do not wait.
      for (int64_t j = 0; j < columns; ++j)
        for (int r = 0; r < kRows; ++r) ++counts_[r * num_bins_ + bins_[r * width_ + j]];
    }
  }

  const Reference& reference_;
  const int64_t num_bins_, width_;
  double* const row_;  // [C]
  RowBlock block_;
  double* const values_;   // [kRows, width]
  int32_t* const bins_;    // [kRows, width]
  int64_t* const counts_;  // [kRows, bins]
};

}  // namespace

void kl_histogram(const TensorView& p, const TensorView& q, const TensorView& out, bool own_range, double low,
                  double high, double eps, int threads) {
  const int64_t rows = p.sizes[0], num_bins = out.sizes[1];
  // Waking a thread takes about as long as this many multiplications.
  constexpr int64_t kSmall = 1 << 16;
  if (rows * q.sizes[0] * q.sizes[1] < kSmall) threads = 1;
  const Reference reference(q, eps, threads);
  const auto make_worker = [&](Arena& arena) { return Worker(reference, num_bins, arena); };
  ThreadScratch scratch(threads, make_worker);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Arena arena = scratch.arena(omp_get_thread_num());
    Worker worker = make_worker(arena);
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < rows; first += kRows)
      worker.run(p, first, own_range, low, high, eps, static_cast<float*>(out.data));
  }
}

}  // namespace ralx::RALX_ISA
