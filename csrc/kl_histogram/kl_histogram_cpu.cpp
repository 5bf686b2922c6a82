// KL(p ‖ q) = Σ p ln p - Σ p ln q: the second sum, over all pairs, is a matrix product. The product is made
// in tiles of a few rows of p by a few vectors of q; a tile stays in registers, where it is binned.
//
// The counts are those of float64 divergences: the two sums cancel where p is near q, and under own_range the
// bins shrink with the spread of the row, so that bins of float32 divergences would count rounding errors.
// But float32 is twice as fast, and its error has a bound. So a tile is made in float32 first; a tile that
// has a divergence within the bound of an edge between two bins is made again in float64.
//
// Every pair runs through the same multiplications and additions in the same order, wherever in a tile the
// pair lies: q is padded up to whole tiles, so that there is no code for a remainder.
//
// Memory does not grow with p and q: rows of p come in chunks, and each chunk meets q window by window.
#include "kl_histogram/kl_histogram.h"

#include <omp.h>

#include <cmath>

#include "common/cpu/buffer.h"
#include "common/cpu/dispatch.h"
#include "common/cpu/plain_floats.h"
#include "common/cpu/vector_math.h"
#include "common/scalar.h"
#include "kl_histogram/bins.h"

namespace ralx::RALX_ISA {
namespace {

using Word = Vector<uint32_t>;

#if defined(__AVX512F__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr int kRows = 6;                         // rows of p that share each load of ln q
constexpr int kTile = kVectors * kLanes<float>;  // columns whose float32 sums are in registers
constexpr int64_t kPanel = 64 * kLanes<float>;   // columns whose bins are kept until they are counted
// From one row of bins to the next: rows kPanel apart would meet in the same cache sets.
constexpr int64_t kStride = kPanel + kTile;
constexpr int64_t kWordBins = 32;  // most bins for which each bin has a bit of a word
// A window: rows of q that all rows of p meet before the next window. The ln q of a window, 608 KiB at 19
// classes, stays in the second-level cache, and so do the divergences of kRows rows of p to a window, 192
// KiB. Under own_range these divergences are kept where q is one window; where q is longer, the product is
// made twice.
constexpr int64_t kWindow = 4096;
constexpr int64_t kSpanBytes = 16 << 20;  // bytes of ln q in memory
constexpr int64_t kChunkBytes = 8 << 20;  // bytes of rows of p and of their counts in memory
constexpr double kLeastNormal = 0x1p-1022;

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Contracted exactly as the compiler contracts the vectors' `sum += p * ln_q`, so that KL(p ‖ p) is 0.
inline double multiply_add(double a, double b, double sum) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fma(a, b, sum);
#else
  return a * b + sum;
#endif
}

// Whether log2_positive(x) is right.
inline bool is_plain(double x) { return x >= kLeastNormal && x < __builtin_inf(); }

// Reads rows first .. first + kCount - 1 of a view, and the view's last row again where it has no more: x[c,
// i], smoothed and normalised, and ln x.
template <int kCount>
void read_rows(const TensorView& view, int64_t first, double eps, double* __restrict x,
               double* __restrict ln) {
  const int64_t classes = view.sizes[1], stride = view.strides[1];
  double scale[kCount], sum[kCount];
  const auto read = [&] {
    dispatch_floating(view.dtype, [&](auto scalar) {
      for (int i = 0; i < kCount; ++i) {
        const int64_t row = min_of(first + i, view.sizes[0] - 1);
        const auto* in = static_cast<const decltype(scalar)*>(view.data) + row * view.strides[0];
        const double scaled_eps = eps * scale[i];
        for (int64_t c = 0; c < classes; ++c)
          x[c * kCount + i] = to_real(in[c * stride]) * scale[i] + scaled_eps;
      }
    });
    for (double& of_row : sum) of_row = 0;
    for (int64_t c = 0; c < classes; ++c)
      for (int i = 0; i < kCount; ++i) sum[i] += x[c * kCount + i];
  };
  for (double& of_row : scale) of_row = 1;
  read();
  bool huge = false;
  for (int i = 0; i < kCount; ++i)
    if (!__builtin_isfinite(sum[i])) {
      huge = true;
      scale[i] = kOfHugeRow;
    }
  if (huge) read();
  bool plain = true;
  for (int64_t c = 0; c < classes; ++c)
    for (int i = 0; i < kCount; ++i) {
      const double share = x[c * kCount + i] / sum[i];
      x[c * kCount + i] = share;
      ln[c * kCount + i] = log2_positive(share) * 0x1.62e42fefa39efp-1;
      plain &= is_plain(share);
    }
  if (plain) return;
  for (int64_t i = 0; i < classes * kCount; ++i)
    if (!is_plain(x[i])) ln[i] = std::log(x[i]);
}

// ln q in tiles [C, kTile] of columns. A span of the tiles is in memory, and show() chooses a window of the
// span.
class Reference {
 public:
  Reference(const TensorView& q, double eps, int threads)
      : length(q.sizes[0]), classes(q.sizes[1]), span(min_of(round_up(length, kTile), longest(classes))),
        window(min_of(kWindow, span)), q_(q), eps_(eps), threads_(threads), exact_(span * classes),
        quick_(span * classes), rows_(threads * classes * kTile) {}

  // The window that begins with row `first` of q.
  void show(int64_t first) {
    if (first / span != loaded_) load(first / span);
    first_ = first;
  }

  int64_t columns() const { return min_of(window, length - first_); }
  int64_t tiles() const { return round_up(columns(), kTile) / kTile; }
  const double* exact(int64_t tile) const { return exact_.data() + at(tile); }
  const float* quick(int64_t tile) const { return quick_.data() + at(tile); }

  const int64_t length, classes, span, window;  // span and window in columns
  bool special = false;                         // somewhere in the span ln q is -inf or NaN
  double greatest = 0;                          // largest |ln q| in the span

 private:
  // Columns of a span: whole windows or, where not even one window is short enough, whole tiles.
  static int64_t longest(int64_t classes) {
    const int64_t columns = max_of(kSpanBytes / (12 * classes * kTile), 1) * kTile;
    return columns < kWindow ? columns : columns / kWindow * kWindow;
  }

  int64_t at(int64_t tile) const { return (first_ % span + tile * kTile) * classes; }

  void load(int64_t number) {
    loaded_ = number;
    bool special = false;
    double greatest = 0;
    const int64_t first = number * span, tiles = round_up(min_of(span, length - first), kTile) / kTile;
#pragma omp parallel num_threads(threads_) if (threads_ > 1) reduction(|| : special) reduction(max : greatest)
    {
      const PlainFloats plain;
      double* rows = rows_.data() + omp_get_thread_num() * classes * kTile;
#pragma omp for schedule(static)
      for (int64_t t = 0; t < tiles; ++t) {
        double* exact = exact_.data() + t * classes * kTile;
        float* quick = quick_.data() + t * classes * kTile;
        read_rows<kTile>(q_, first + t * kTile, eps_, rows, exact);
        double least = 0;
        int finite = 1;
#pragma omp simd reduction(min : least) reduction(& : finite)
        for (int64_t i = 0; i < classes * kTile; ++i) {
          quick[i] = static_cast<float>(exact[i]);
          least = exact[i] < least ? exact[i] : least;
          finite &= exact[i] > -__builtin_inf();
        }
        special = special || !finite;
        greatest = -least > greatest ? -least : greatest;
      }
    }
    this->special = special;
    this->greatest = greatest;
  }

  const TensorView& q_;
  const double eps_;
  const int threads_;
  int64_t loaded_ = -1, first_ = 0;
  Buffer<double> exact_;
  Buffer<float> quick_;
  Buffer<double> rows_;
};

// sum[r, j] += Σ_c p[c, r] ln_q[c, j], for kVectors vectors of a tile. kZeros: p = 0 adds nothing
// even where ln q is -inf.
template <bool kZeros, typename Real>
inline __attribute__((always_inline)) void product(const Real* p, const Real* ln_q, int64_t classes,
                                                   Vector<Real> (&sum)[kRows][kVectors]) {
  for (int64_t c = 0; c < classes; ++c) {
    Vector<Real> column[kVectors];
    for (int v = 0; v < kVectors; ++v) column[v] = load(ln_q + c * kTile + v * kLanes<Real>);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      if (kZeros && p[c * kRows + r] == 0) continue;
      for (int v = 0; v < kVectors; ++v) sum[r][v] += p[c * kRows + r] * column[v];
    }
  }
}

inline uint32_t sum_lanes(Word x) {
  // The compiler would take a vector apart lane by lane; an array it sums with vector instructions.
  alignas(kVectorBytes) uint32_t lanes[kLanes<uint32_t>];
  store(lanes, x);
  uint32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < kLanes<uint32_t>; ++i) sum += lanes[i];
  return sum;
}

// Minimum and maximum of the divergences so far, NaN left out.
struct Limits {
  double low = __builtin_inf(), high = -__builtin_inf();
};

// found[j] = bin of values[j], for a tile of kTile columns.
void find_bins(const Bins& bins, const double* values, int32_t* found) {
  typedef int32_t Half __attribute__((vector_size(kVectorBytes / 2)));
  for (int64_t j = 0; j < kTile; j += kLanes<double>) {
    const Half bin = convert<Half>(bins.position(load(values + j)));
    __builtin_memcpy(found + j, &bin, sizeof bin);
  }
}

// kRows rows of p, transposed.
struct RowBlock {
  const double* p;     // [C, kRows]
  double self[kRows];  // Σ p ln p
};

// Calls take(r, j, values) with KL(p_r ‖ q_j) for one tile, a vector of columns from j on at a time.
template <bool kZeros, typename Take>
inline void divergences(const RowBlock& block, const double* ln_q, int64_t classes, const Take& take) {
  constexpr int kWidth = kLanes<double>;
  for (int first = 0; first < kTile; first += kVectors * kWidth) {
    Vector<double> sum[kRows][kVectors] = {};
    product<kZeros>(block.p, ln_q + first, classes, sum);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) take(r, first + v * kWidth, block.self[r] - sum[r][v]);
  }
}

// Finds bins by float32 sums. A sum is a position, of which 2^26 make a bin, so that in an int32 the bin's
// number stands above a fraction.
class QuickBins {
 public:
  static constexpr int kShift = 26;

  explicit QuickBins(float* p) : p_(p) {}

  // Takes a block of rows; returns whether float32 is exact enough for their bins.
  bool prepare(const RowBlock& block, const Bins* bins, int64_t classes, double greatest) {
    constexpr double kOne = 1 << kShift;
    double doubt = 0;
    for (int r = 0; r < kRows; ++r) {
      const double scale = bins[r].scale * bins[r].unit, self = (block.self[r] - bins[r].low) * scale;
      // Rounded to float32, each by 2^-24 at most, are p, ln q, the first summand (twice, since doubt is
      // added to it) and the C partial sums; no partial sum is larger than `largest`. The 1 is for the
      // rounding to int32.
      const double largest = std::fabs(self) + scale * greatest + 1;
      const double error = static_cast<double>(classes + 4) * 0x1p-24 * largest;
      doubt = error > doubt || error != error ? error : doubt;
      start_[r] = static_cast<float>(self * kOne);
      for (int64_t c = 0; c < classes; ++c)
        p_[c * kRows + r] = static_cast<float>(block.p[c * kRows + r] * -scale * kOne);
    }
    if (!(doubt < 0x1p-6)) return false;
    for (float& start : start_) start += static_cast<float>(doubt * kOne);
    doubt_ = static_cast<uint32_t>(2 * doubt * 0x1p32);
    top_ = static_cast<float>((bins[0].last + 0.5) * kOne);
    return true;
  }

  // Finds the bins of one tile; returns whether all of them are certain.
  __attribute__((noinline)) bool find(const float* ln_q, int64_t classes, int32_t* bins) const {
    Vector<float> sum[kRows][kVectors];
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) sum[r][v] = start_[r] - Vector<float>{};
    product<false>(p_, ln_q, classes, sum);
    // Positions end half a bin inside low..high: a divergence beyond low or high belongs to an end bin, so
    // that low and high are no edges between bins.
    const Vector<float> bottom = bottom_ - Vector<float>{}, top = top_ - Vector<float>{};
    Word least = ~Word{};
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        const auto position = convert<Vector<int32_t>>(lower(higher(sum[r][v], bottom), top));
        least = lower(bit_cast<Word>(position) << (32 - kShift), least);
        store(bins + r * kStride + v * kLanes<float>, position >> kShift);
      }
    // A lane in doubt has all bits set.
    return sum_lanes(bit_cast<Word>(least < doubt_)) == 0;
  }

 private:
  float* p_;  // [C, kRows]
  float start_[kRows], top_ = 0;
  float bottom_ = 1 << (kShift - 1);  // a variable, because GCC makes no vmaxps with a constant
  uint32_t doubt_ = 0;
};

// Counts bins as bits of words: each lane of plane k holds bit k of 32 counts, one a bin. A carry-save adder
// takes a vector of bins in about four instructions (Muła, Kurz and Lemire, "Faster population counts using
// AVX2 instructions", 2016).
class BitCounter {
 public:
  static constexpr int kStep = 16 * kLanes<float>;

  bool has_room(int64_t count) const { return added_ + count / kLanes<float> <= kMost; }

  // count is a multiple of kStep, bins < 32.
  void add(const int32_t* bins, int64_t count) {
    added_ += count / kLanes<float>;
    Word plane[kPlanes];
    for (int k = 0; k < kPlanes; ++k) plane[k] = planes_[k];
    const Word one = Word{} + 1;
    for (int64_t j = 0; j < count; j += kStep) {
      const auto bit = [&](int i) { return one << bit_cast<Word>(load(bins + j + i * kLanes<int32_t>)); };
      const auto twos = [&](int i) { return carry(plane[0], bit(i), bit(i + 1)); };
      const auto fours = [&](int i) {
        const Word a = twos(i), b = twos(i + 2);
        return carry(plane[1], a, b);
      };
      const auto eights = [&](int i) {
        const Word a = fours(i), b = fours(i + 4);
        return carry(plane[2], a, b);
      };
      const Word a = eights(0), b = eights(8);
      Word rest = carry(plane[3], a, b);
      for (int k = 4; k < kPlanes; ++k) {
        const Word both = plane[k] & rest;
        plane[k] ^= rest;
        rest = both;
      }
    }
    for (int k = 0; k < kPlanes; ++k) planes_[k] = plane[k];
  }

  // counts[b] += how many of the bins were b.
  void flush(int64_t* counts, int64_t num_bins) {
    int64_t all[kWordBins];
    // Bits j, j + 8, j + 16 and j + 24 of the planes make the four bytes of a lane's count.
    for (int j = 0; j < 8; ++j) {
      Word bytes = {};
      for (int k = 0; k < kPlanes; ++k) bytes |= (planes_[k] >> j & 0x01010101u) << k;
      const uint32_t even = sum_lanes(bytes & 0x00ff00ffu), odd = sum_lanes(bytes >> 8 & 0x00ff00ffu);
      all[j] = even & 0xffff;
      all[j + 8] = odd & 0xffff;
      all[j + 16] = even >> 16;
      all[j + 24] = odd >> 16;
    }
    for (int64_t b = 0; b < num_bins; ++b) counts[b] += all[b];
    *this = {};
  }

 private:
  static constexpr int kPlanes = 8;
  static constexpr int kMost = 255;  // vectors; with more, a count could outgrow its planes

  // Returns the high bit of a + b + sum, and leaves the low bit in `sum`, for each bit of the words.
  static Word carry(Word& sum, Word a, Word b) {
#if defined(__AVX512F__)
    const auto x = (__m512i)sum, y = (__m512i)a, z = (__m512i)b;
    sum = (Word)_mm512_ternarylogic_epi32(x, y, z, 0x96);   // x ^ y ^ z
    return (Word)_mm512_ternarylogic_epi32(x, y, z, 0xe8);  // where two or three are set
#else
    const Word either = a ^ b, result = (a & b) | (either & sum);
    sum ^= either;
    return result;
#endif
  }

  Word planes_[kPlanes] = {};
  int added_ = 0;
};

// The state of kRows rows of p from one window of q to the next.
struct BlockState {
  RowBlock block;
  Limits limits[kRows];
  Bins bins[kRows];
  bool bad[kRows];  // their histograms are NaN

  // Makes bins of each row's own range; a row whose range isn't finite is bad.
  void use_limits(int64_t num_bins) {
    for (int r = 0; r < kRows; ++r) {
      const auto [low, high] = limits[r];
      bad[r] = bad[r] || !(low <= high && high < __builtin_inf());
      if (bad[r]) continue;
      bins[r] = Bins::of_own_range(low, high, num_bins);
    }
  }
};

// Reads kRows rows of p into p and ln [C, kRows], and begins their state.
void read_block(const TensorView& view, int64_t first, double eps, double* p, double* ln, BlockState& state) {
  read_rows<kRows>(view, first, eps, p, ln);
  state.block = {p, {}};
  for (int r = 0; r < kRows; ++r) {
    double self = 0;
    for (int64_t i = r; i < view.sizes[1] * kRows; i += kRows)
      if (p[i] != 0) self = multiply_add(p[i], ln[i], self);
    state.block.self[r] = self;
    state.bad[r] = self != self;
  }
}

// The work of one thread: the divergences of a block of rows of p to the window of q, and their bins.
class Worker {
 public:
  Worker(const Reference& reference, int64_t num_bins, Arena& arena)
      : ln_p(arena.take<double>(reference.classes * kRows)), reference_(reference), num_bins_(num_bins),
        classes_(reference.classes), bins_(arena.take<int32_t>(kRows * kStride)),
        quick_(arena.take<float>(classes_ * kRows)), kept_(arena.take<double>(kRows * reference.window)) {}

  template <bool kKeep>
  __attribute__((noinline)) void measure(BlockState& rows) const {
    double* const kept = kept_;
    Vector<double> low[kRows], high[kRows];
    for (int r = 0; r < kRows; ++r) {
      low[r] = rows.limits[r].low - Vector<double>{};
      high[r] = rows.limits[r].high - Vector<double>{};
    }
    for (int64_t t = 0; t < reference_.tiles(); ++t)
      each_value(rows, t, [&](int r, int64_t j, Vector<double> x) {
        if (kKeep) store(kept + (t * kRows + r) * kTile + j, x);
        low[r] = lower(x, low[r]);
        high[r] = higher(x, high[r]);
      });
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kLanes<double>; ++i) {
        rows.limits[r].low = lower(low[r][i], rows.limits[r].low);
        rows.limits[r].high = higher(high[r][i], rows.limits[r].high);
      }
    }
  }

  // Adds to counts [kRows, bins]. kKeep: the last call of measure<true>() has kept the divergences of these
  // rows.
  template <bool kKeep>
  void count(BlockState& rows, int64_t* counts) {
    BitCounter counters[kRows];
    const bool quick = !kKeep && num_bins_ <= kWordBins && !reference_.special &&
                       quick_.prepare(rows.block, rows.bins, classes_, reference_.greatest);
    for (int64_t first = 0; first < reference_.columns(); first += kPanel) {
      const int64_t columns = min_of(kPanel, reference_.columns() - first);
      for (int64_t j = 0; j < columns; j += kTile) {
        const int64_t tile = (first + j) / kTile;
        if (kKeep)
          find(rows, kept_ + tile * kRows * kTile, bins_ + j);
        else if (!quick || !quick_.find(reference_.quick(tile), classes_, bins_ + j))
          make_and_find(rows, tile, bins_ + j);
      }
      if (num_bins_ <= kWordBins)
        tally_words(columns, counters, counts);
      else
        tally(columns, counts);
    }
    if (num_bins_ <= kWordBins)
      for (int r = 0; r < kRows; ++r) counters[r].flush(counts + r * num_bins_, num_bins_);
  }

  double* const ln_p;  // [C, kRows]

 private:
  template <typename Take>
  void each_value(const BlockState& rows, int64_t tile, const Take& take) const {
    if (reference_.special) return divergences<true>(rows.block, reference_.exact(tile), classes_, take);
    divergences<false>(rows.block, reference_.exact(tile), classes_, take);
  }

  __attribute__((noinline)) void make_and_find(BlockState& rows, int64_t tile, int32_t* bins) const {
    alignas(kVectorBytes) double values[kRows * kTile];
    each_value(rows, tile, [&](int r, int64_t j, Vector<double> x) { store(values + r * kTile + j, x); });
    find(rows, values, bins);
  }

  // values [kRows, kTile]
  void find(BlockState& rows, const double* values, int32_t* bins) const {
    for (int r = 0; r < kRows; ++r) {
      find_bins(rows.bins[r], values + r * kTile, bins + r * kStride);
      if (reference_.special)
        for (int64_t j = 0; j < kTile; ++j) rows.bad[r] |= values[r * kTile + j] != values[r * kTile + j];
    }
  }

  void tally(int64_t columns, int64_t* counts) const {
    // Row by row, each of a run of equal bins would wait for the addition of the one before; with the rows in
    // turn, none waits.
    for (int64_t j = 0; j < columns; ++j)
      for (int r = 0; r < kRows; ++r) ++counts[r * num_bins_ + bins_[r * kStride + j]];
  }

  void tally_words(int64_t columns, BitCounter* counters, int64_t* counts) {
    const int64_t padded = round_up(columns, BitCounter::kStep);
    for (int r = 0; r < kRows; ++r) {
      int32_t* bins = bins_ + r * kStride;
      for (int64_t j = columns; j < padded; ++j) bins[j] = 0;
      counts[r * num_bins_] -= padded - columns;
      if (!counters[r].has_room(padded)) counters[r].flush(counts + r * num_bins_, num_bins_);
      counters[r].add(bins, padded);
    }
  }

  const Reference& reference_;
  const int64_t num_bins_, classes_;
  int32_t* const bins_;  // [kRows, kStride]
  QuickBins quick_;
  double* const kept_;  // [tiles, kRows, kTile]: divergences to the window
};

// The histogram of one row, out [num_bins], from its counts of all `length` divergences.
void write_shares(const int64_t* counts, int64_t num_bins, int64_t length, bool bad, float* out) {
  for (int64_t b = 0; b < num_bins; ++b) {
    const double share = static_cast<double>(counts[b]) / static_cast<double>(length);
    out[b] = bad ? __builtin_nanf("") : static_cast<float>(share);
  }
}

}  // namespace

void kl_histogram(const TensorView& p, const TensorView& q, const TensorView& out, bool own_range, double low,
                  double high, double eps, int threads) {
  const int64_t rows = p.sizes[0], classes = p.sizes[1], length = q.sizes[0], num_bins = out.sizes[1];
  if (length == 0) {
    for (int64_t i = 0; i < rows * num_bins; ++i) static_cast<float*>(out.data)[i] = 0;
    return;
  }
  const int64_t most = max_of(kChunkBytes / (8 * (num_bins + classes) * kRows), threads);
  const int64_t chunk = min_of(round_up(rows, kRows), most * kRows);  // rows of p that meet all of q
  Reference reference(q, eps, threads);
  Buffer<double> blocks(chunk * classes);
  Buffer<int64_t> counts(chunk * num_bins);
  Buffer<BlockState> states(chunk / kRows);
  const auto make_worker = [&](Arena& arena) { return Worker(reference, num_bins, arena); };
  ThreadScratch scratch(threads, make_worker);

  for (int64_t start = 0; start < rows; start += chunk) {
    const int64_t here = min_of(chunk, round_up(rows - start, kRows));
    const auto each_block = [&](const auto& step) {
#pragma omp parallel num_threads(threads) if (threads > 1)
      {
        const PlainFloats plain;
        Arena arena = scratch.arena(omp_get_thread_num());
        Worker worker = make_worker(arena);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < here; i += kRows) step(worker, i, states[i / kRows]);
      }
    };
    const auto each_pair = [&](const auto& step) {
      for (int64_t first = 0; first < length; first += reference.window) {
        reference.show(first);
        each_block(step);
      }
    };
    each_block([&](Worker& worker, int64_t i, BlockState& state) {
      state = {};
      read_block(p, start + i, eps, blocks.data() + i * classes, worker.ln_p, state);
      for (int r = 0; r < kRows; ++r) state.bins[r] = Bins(low, high, num_bins);
      for (int64_t k = 0; k < kRows * num_bins; ++k) counts[i * num_bins + k] = 0;
    });
    if (own_range && length <= reference.window) {
      each_pair([&](Worker& worker, int64_t i, BlockState& state) {
        worker.measure<true>(state);
        state.use_limits(num_bins);
        worker.count<true>(state, &counts[i * num_bins]);
      });
    } else {
      if (own_range) {
        each_pair([&](Worker& worker, int64_t, BlockState& state) { worker.measure<false>(state); });
        each_block([&](Worker&, int64_t, BlockState& state) { state.use_limits(num_bins); });
      }
      each_pair([&](Worker& worker, int64_t i, BlockState& state) {
        worker.count<false>(state, &counts[i * num_bins]);
      });
    }
    each_block([&](Worker&, int64_t i, BlockState& state) {
      for (int64_t r = 0; r < min_of(kRows, rows - start - i); ++r)
        write_shares(&counts[(i + r) * num_bins], num_bins, length, state.bad[r],
                     static_cast<float*>(out.data) + (start + i + r) * num_bins);
    });
  }
}

}  // namespace ralx::RALX_ISA
