// KL(p ‖ q) = Σ p ln p - Σ p ln q: the second sum, over all pairs, is a matrix product that is binned where
// it is made, and the counts are those of float64 divergences, as on the CPU. A cheaper product with a bound
// on its error tells most bins. The pairs within that bound of an edge between two bins, one in a thousand in
// usual cases, are computed again in float64.
//
// count_quick() has the product from the tensor cores. p and ln q are each the sum of two fp16 numbers, 22
// bits. Three of the four products of these numbers, side by side, make one product of 3 C elements: 4 steps
// of mma.m16n8k16 at 19 classes. A warp has 32 rows of p in registers and meets the columns in stages in
// shared memory. Each thread counts its own pairs in its own counters, two rows in the halves of a word, so
// that no operation is atomic and no two lanes meet in a bank. Adding 2^23 turns the position of a pair into
// a fixed-point number, whose upper bits, the bin, are bits of the counter's address. An edge is near a pair
// only if these bits change when the bound is subtracted from the position. Such pairs wait in a queue until
// there is one for each lane, and are then computed in float64.
//
// count_exact() counts the rows that count_quick() can't, in float64 alone: rows with more bins or classes
// than count_quick() has room for, with ln q = -inf or NaN, or with ranges too narrow for fp16's products.
// measure() finds each row's own range, in float64 too. docs/gpu.md tells where the time goes, and on which
// cards float64 is slow.
//
// Scratch is proportional to (M + L) C; nothing has the size M × L, and the counts are made in `out`. The
// sums of a pair run through the same operations in the same order everywhere, so that equal rows share a
// bin, and a row's divergence from itself is 0.
#include <cmath>

#include "common/gpu/cuda.h"
#include "common/pixel_math.h"
#include "common/scalar.h"
#include "kl_histogram/bins.h"
#include "kl_histogram/kl_histogram.h"

namespace ralx::RALX_ISA {
namespace {

using Bits = unsigned long long;  // what CUDA's 64-bit atomics take

constexpr int kRowThreads = 128;  // of a block that has a thread for each row
constexpr int kGroup = 32;        // rows of p that one warp of count_quick(), or block of count_exact(), bins

constexpr int kQuickThreads = 256;
constexpr int kStep = 16;       // columns that a warp multiplies at a time
constexpr int kStage = 32;      // columns whose ln q is in shared memory, twice
constexpr int kQueue = 5 * 32;  // pairs in doubt of a warp: fewer than 32 that wait, and 4 new ones a lane
constexpr int kMostPairs = 4;   // of k16 steps: 3 C <= 128
constexpr int kUlps = 11;       // 2^kUlps ulps of a position make a bin
constexpr int kBinBytes = 1 << kUlps;  // bytes of a bin's counters: 2 tiles of 16 rows × kQuickThreads × 4
constexpr int kTileBytes = 4 * kQuickThreads;  // from a thread's counter of one tile to that of the other
constexpr uint32_t kFraction = kBinBytes - 1;
constexpr int64_t kQuickBins = 64;
constexpr int64_t kMostColumns = 1 << 17;  // of a block: a thread counts a quarter of them, in 16 bits
constexpr uint32_t kNever = 0xffffffffu;   // the doubt about a group that is left to count_exact()
constexpr double kMostError = 1.0 / 32;    // of a bin; with a larger error, float64 alone is as fast
constexpr double kScaleP = 0x1p15, kScaleQ = 0x1p5;  // bring p <= 1, -ln q < 745 into the range of fp16

constexpr int kExactThreads = 128;
constexpr int kExactRows = 8;         // rows of a warp
constexpr int kExactColumns = 64;     // columns of a block, two of each lane
constexpr int kExactClasses = 32;     // classes in shared memory at a time
constexpr int64_t kSharedBins = 128;  // with more, counts are made in global memory

constexpr int64_t kLeastColumns = 512;     // fewer columns are not worth a block
constexpr int64_t kMostParts = 65535 / 2;  // blocks along y, whose columns are rounded up

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// ---- Rows ----

// A matrix [rows, classes] of any floating type.
struct Matrix {
  const void* data;
  DType dtype;
  int64_t rows, row_stride, class_stride;

  RALX_HD double at(int64_t row, int64_t c) const {
    const int64_t place = row * row_stride + c * class_stride;
    switch (dtype) {
      case DType::float64: return static_cast<const double*>(data)[place];
      case DType::float16: return to_real(static_cast<const Half*>(data)[place]);
      case DType::bfloat16: return to_real(static_cast<const BFloat16*>(data)[place]);
      default: return to_real(static_cast<const float*>(data)[place]);
    }
  }
};

Matrix matrix_of(const TensorView& view) {
  return {view.data, view.dtype, view.sizes[0], view.strides[0], view.strides[1]};
}

// Four 32-bit registers of a fragment of mma.
struct alignas(16) Piece {
  uint32_t word[4];
};

struct Totals {
  Bits greatest;  // largest |ln q|, as bits
  int special;    // somewhere ln q is -inf or NaN
};

// A row's bins, and how count_quick() finds them: a sum of the tensor cores, times `factor` plus `start`,
// goes from 0 in the first bin to 1 in the last.
struct RowPlan {
  Bins bins;
  float factor, start;
};

// The arguments of all kernels, and their arrays in scratch. Rows of p are padded to whole groups, rows of q
// to whole stages.
struct Work {
  int64_t rows, length, classes, num_bins;
  uint32_t* out;  // counts [rows, num_bins], until finish() makes shares of them
  double* p;      // [rows, classes], normalised
  double* ln_q;   // [length, classes]
  double* self;   // [rows] Σ p ln p
  Bits* limits;   // [rows, 2] minimum and maximum, as ordered()
  RowPlan* plans;
  uint32_t* doubt;  // [groups] in ulps, or kNever
  int* bad;         // [rows] the histogram is NaN
  Totals* totals;
  Piece* quick_p;  // [rows / 16, steps, lane]
  Piece* quick_q;  // [columns / 8, pairs of steps, lane]
};

// Pairs of k16 steps in which the three fp16 products of all classes fit; 0 where there are too many classes.
constexpr int pairs_of_steps(int64_t classes) {
  return 3 * classes > 32 * kMostPairs ? 0 : static_cast<int>((3 * classes + 31) / 32);
}

constexpr size_t quick_shared(int pairs, int64_t num_bins) {
  return static_cast<size_t>(2 * kStage / 8 * pairs * kWarp * sizeof(Piece) +
                             kQuickThreads / kWarp * kQueue * 4 + (num_bins + 1) * kBinBytes);
}

// Points `work` into scratch, which may be null; returns the bytes of scratch that are needed.
int64_t lay_out(Work& work, unsigned char* scratch) {
  int64_t used = 0;
  const auto take = [&](auto*& pointer, int64_t count) {
    using T = std::remove_reference_t<decltype(*pointer)>;
    pointer = scratch == nullptr ? nullptr : reinterpret_cast<T*>(scratch + used);
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 16);
  };
  const int64_t rows = round_up(work.rows, kGroup), pairs = pairs_of_steps(work.classes);
  take(work.totals, 1);
  take(work.p, work.rows * work.classes);
  take(work.ln_q, work.length * work.classes);
  take(work.self, rows);
  take(work.limits, 2 * rows);
  take(work.plans, rows);
  take(work.doubt, rows / kGroup);
  take(work.bad, rows);
  take(work.quick_p, rows / 16 * 2 * pairs * kWarp);
  take(work.quick_q, round_up(work.length, kStage) / 8 * pairs * kWarp);
  return used;
}

// Bits whose order is that of the numbers x; x is not NaN.
RALX_HD Bits ordered(double x) {
  const auto bits = bit_cast<Bits>(x);
  return bits >> 63 ? ~bits : bits | Bits{1} << 63;
}
RALX_HD double from_ordered(Bits bits) { return bit_cast<double>(bits >> 63 ? bits ^ Bits{1} << 63 : ~bits); }

// Fused wherever a divergence is made, or KL(p ‖ p) would not be 0.
RALX_HD double multiply_add(double a, double b, double sum) { return ::fma(a, b, sum); }

RALX_HD double natural_log(double x) {
  const bool plain = x >= 0x1p-1022 && x < __builtin_inf();
  return plain ? log2_positive(x) * kLn2 : ::log(x);
}

// Smooths and normalises the rows of p and then those of q, one thread a row. One kernel does both, so that
// equal rows get equal numbers.
__global__ void prepare(Work work, Matrix p, Matrix q, double eps) {
  const int64_t padded = round_up(work.rows, kGroup);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool is_p = i < padded;
  const int64_t row = is_p ? i : i - padded;
  double least = 0, self = 0;
  bool finite = true;
  if (row < (is_p ? work.rows : work.length)) {
    const Matrix& in = is_p ? p : q;
    double* out = (is_p ? work.p : work.ln_q) + row * work.classes;
    double scale = 1;
    const auto number = [&](int64_t c) { return in.at(row, c) * scale + eps * scale; };
    const auto add_up = [&] {
      double sum = 0;
      for (int64_t c = 0; c < work.classes; ++c) sum += number(c);
      return sum;
    };
    double sum = add_up();
    if (!(fabs(sum) < __builtin_inf())) {
      scale = kOfHugeRow;
      sum = add_up();
    }
    for (int64_t c = 0; c < work.classes; ++c) {
      const double share = number(c) / sum, ln = natural_log(share);
      out[c] = is_p ? share : ln;
      if (share != 0) self = multiply_add(share, ln, self);
      least = lower(ln, least);
      finite = finite && ln > -__builtin_inf();
    }
  }
  if (is_p) {
    work.self[row] = self;
    work.bad[row] = self != self;
    work.limits[2 * row] = ordered(__builtin_inf());
    work.limits[2 * row + 1] = ordered(-__builtin_inf());
    return;
  }
  for (int step = 16; step > 0; step /= 2) least = lower(least, __shfl_xor_sync(kWholeWarp, least, step));
  if (threadIdx.x % kWarp == 0) atomicMax(&work.totals->greatest, bit_cast<Bits>(fabs(least)));
  if (!finite) atomicOr(&work.totals->special, 1);
}

// ---- Bins in float64 ----

__device__ int find_bin(const Bins& bins, double value) { return static_cast<int>(bins.position(value)); }

__device__ double divergence(const Work& work, int64_t row, int64_t column) {
  const double* p = work.p + row * work.classes;
  const double* ln_q = work.ln_q + column * work.classes;
  double sum = 0;
  for (int64_t c = 0; c < work.classes; ++c)
    if (p[c] != 0) sum = multiply_add(p[c], ln_q[c], sum);
  return work.self[row] - sum;
}

struct alignas(16) Two {
  double x[2];
};

struct ExactTile {
  double p[kExactClasses][kGroup];
  Two ln_q[kExactClasses][kExactColumns / 2];
};

// Adds p ln q of some classes to sum[r][v], of kExactRows rows by two columns a thread.
template <bool kZeros>
__device__ void add_classes(const ExactTile& tile, int classes, double (&sum)[kExactRows][2]) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int c = 0; c < classes; ++c) {
    const Two ln_q = tile.ln_q[c][lane];
    const Two* p = reinterpret_cast<const Two*>(&tile.p[c][warp * kExactRows]);
    for (int r = 0; r < kExactRows; ++r) {
      const double factor = p[r / 2].x[r % 2];
      if (kZeros && factor == 0) continue;
      for (int v = 0; v < 2; ++v) sum[r][v] = multiply_add(factor, ln_q.x[v], sum[r][v]);
    }
  }
}

__device__ void make_sums(const Work& work, ExactTile& tile, int64_t first_row, int64_t first_column,
                          int64_t last_column, bool zeros, double (&sum)[kExactRows][2]) {
  for (auto& of_row : sum) of_row[0] = of_row[1] = 0;
  for (int64_t first = 0; first < work.classes; first += kExactClasses) {
    const int classes = static_cast<int>(min_of(kExactClasses, work.classes - first));
    __syncthreads();
    for (int i = threadIdx.x; i < classes * kGroup; i += kExactThreads) {
      const int64_t row = first_row + i % kGroup;
      tile.p[i / kGroup][i % kGroup] =
          row < work.rows ? work.p[row * work.classes + first + i / kGroup] : 0.0;
    }
    for (int i = threadIdx.x; i < classes * kExactColumns; i += kExactThreads) {
      const int j = i % kExactColumns;
      const int64_t column = first_column + j;
      tile.ln_q[i / kExactColumns][j / 2].x[j % 2] =
          column < last_column ? work.ln_q[column * work.classes + first + i / kExactColumns] : 0.0;
    }
    __syncthreads();
    if (zeros)
      add_classes<true>(tile, classes, sum);
    else
      add_classes<false>(tile, classes, sum);
  }
}

// Calls take(r, value) for the pairs of this thread, column by column: rows first_row + r of its warp.
template <typename Take>
__device__ void each_divergence(const Work& work, int64_t first_row, int64_t chunk, const Take& take) {
  __shared__ ExactTile tile;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const bool zeros = work.totals->special != 0;
  const int64_t first = blockIdx.y * chunk, last = min_of(first + chunk, work.length);
  double self[kExactRows], sum[kExactRows][2];
  for (int r = 0; r < kExactRows; ++r) self[r] = work.self[first_row + warp * kExactRows + r];
  for (int64_t j = first; j < last; j += kExactColumns) {
    make_sums(work, tile, first_row, j, last, zeros, sum);
    for (int v = 0; v < 2; ++v)
      if (j + 2 * lane + v < last)
        for (int r = 0; r < kExactRows; ++r) take(r, self[r] - sum[r][v]);
  }
}

// Each row's minimum and maximum.
__global__ void __launch_bounds__(kExactThreads, 3) measure(Work work, int64_t chunk) {
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kGroup;
  double low[kExactRows], high[kExactRows];
  for (int r = 0; r < kExactRows; ++r) {
    low[r] = __builtin_inf();
    high[r] = -__builtin_inf();
  }
  each_divergence(work, first_row, chunk, [&](int r, double value) {
    low[r] = lower(value, low[r]);
    high[r] = higher(value, high[r]);
  });
  Bits* limits = work.limits + 2 * (first_row + threadIdx.x / kWarp * kExactRows);
  for (int r = 0; r < kExactRows; ++r) {
    for (int step = 16; step > 0; step /= 2) {
      low[r] = lower(low[r], __shfl_xor_sync(kWholeWarp, low[r], step));
      high[r] = higher(high[r], __shfl_xor_sync(kWholeWarp, high[r], step));
    }
    if (threadIdx.x % kWarp != 0) continue;
    atomicMin(limits + 2 * r, ordered(low[r]));
    atomicMax(limits + 2 * r + 1, ordered(high[r]));
  }
}

// Counts the groups of rows that count_quick() leaves, because float32 isn't exact enough for them.
__global__ void __launch_bounds__(kExactThreads, 4) count_exact(Work work, int64_t chunk, bool quick) {
  if (quick && work.doubt[blockIdx.x] != kNever) return;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kGroup;
  const int64_t warp_row = first_row + threadIdx.x / kWarp * kExactRows;
  const int64_t num_bins = work.num_bins;
  const bool shared = num_bins <= kSharedBins;
  uint32_t* const counts = dynamic_shared<uint32_t>();  // [kGroup, num_bins] if there is room
  if (shared) {
    for (int i = threadIdx.x; i < kGroup * num_bins; i += kExactThreads) counts[i] = 0;
    __syncthreads();
  }
  uint32_t* const mine = shared ? counts + (warp_row - first_row) * num_bins : work.out + warp_row * num_bins;
  each_divergence(work, first_row, chunk, [&](int r, double value) {
    if (warp_row + r >= work.rows) return;
    if (value != value) atomicOr(work.bad + warp_row + r, 1);
    atomicAdd(mine + r * num_bins + find_bin(work.plans[warp_row + r].bins, value), 1u);
  });
  if (!shared) return;
  __syncthreads();
  const int64_t cells = min_of(kGroup, work.rows - first_row) * num_bins;
  for (int64_t i = threadIdx.x; i < cells; i += kExactThreads)
    if (counts[i] != 0) atomicAdd(work.out + first_row * num_bins + i, counts[i]);
}

// ---- Bins from the tensor cores ----

// A bound, in bins, on the difference between the positions that count_quick() and float64 find.
__device__ double quick_error(const Work& work, const Bins& bins, double self) {
  const double greatest = bit_cast<double>(work.totals->greatest), steps = 2 * pairs_of_steps(work.classes);
  // In nats. Two fp16 numbers are off by 2^-22 of p or of ln q, and the product of the two smaller numbers is
  // left out; parts below fp16's normal numbers make 2^-19 of a nat at most. Tensor cores add 16 products to
  // a sum, or twice 8; they may cut each product at 2^-24 of the largest product, and the new sum at 2^-23.
  // The factor of 24 is more than 2 (8 + 1 + 2).
  const double nats = greatest * (24 * steps + 16) * 0x1p-24 + 0x1p-18;
  // The other errors are float32's roundings of the numbers that make a position.
  const double scale = bins.scale * bins.unit;
  return scale * nats + 0x1p-22 * (fabs((self - bins.low) * scale) + scale * greatest + bins.last + 1);
}

// Makes the bins of each row, one thread a row, and decides whether count_quick() is to find them.
__global__ void plan(Work work, bool own_range, double low, double high) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  RowPlan result = {Bins(low, high, work.num_bins), 0, 0};
  uint32_t doubt = 0;
  bool bad = row >= work.rows || work.bad[row];
  if (own_range && !bad) {
    low = from_ordered(work.limits[2 * row]);
    high = from_ordered(work.limits[2 * row + 1]);
    bad = !(low <= high && high < __builtin_inf());
    if (!bad) result.bins = Bins::of_own_range(low, high, work.num_bins);
  }
  if (!bad) {
    const Bins& bins = result.bins;
    const double self = work.self[row], error = quick_error(work, bins, self);
    if (work.totals->special != 0 || !(error < kMostError)) {
      doubt = kNever;
    } else {
      // `start` makes all positions `error` too high, so that the positions in doubt are the lowest of a bin.
      const double scale = bins.scale * bins.unit, first_to_last = bins.last + 0.5;
      doubt = static_cast<uint32_t>(2 * error * kBinBytes) + 1;
      result.factor = static_cast<float>(scale / (kScaleP * kScaleQ * first_to_last));
      result.start = static_cast<float>(((self - bins.low) * scale + error - 0.25) / first_to_last);
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    const uint32_t other = __shfl_xor_sync(kWholeWarp, doubt, step);
    doubt = other > doubt ? other : doubt;
  }
  if (row >= round_up(work.rows, kGroup)) return;
  if (row < work.rows && bad) work.bad[row] = 1;
  work.plans[row] = result;
  if (row % kGroup == 0) work.doubt[row / kGroup] = doubt;
}

// The nearest fp16 number; 0 for a number too small to be a normal fp16, which tensor cores may take for 0.
RALX_HD uint32_t half_bits(float x) {
  const auto bits = bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude < 0x38800000) return 0;
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return (bits >> 16 & 0x8000) | (rounded - 0x38000000) >> 13;
}

// x as fp16 or, with `rest`, the part of x that the fp16 leaves.
RALX_HD uint32_t half_part(double x, bool rest) {
  const uint32_t bits = half_bits(static_cast<float>(x));
  if (!rest) return bits;
  return half_bits(static_cast<float>(x - to_real(Half{static_cast<uint16_t>(bits)})));
}

// Elements k and k + 1 of a row of the product. In its 3 C elements p in fp16 meets ln q in fp16, then p in
// fp16 meets the rest of ln q, then the rest of p meets ln q in fp16.
template <bool kOfP>
__device__ uint32_t fragment_word(const double* row, int k, int classes) {
  uint32_t word = 0;
  for (int i = 0; i < 2; ++i) {
    int c = k + i, part = 0;
    for (; part < 3 && c >= classes; ++part) c -= classes;
    if (part == 3) break;
    word |= half_part(row[c] * (kOfP ? kScaleP : -kScaleQ), part == (kOfP ? 2 : 1)) << 16 * i;
  }
  return word;
}

// Writes p and ln q in fp16 in the order of mma.m16n8k16's registers, one thread a piece. Lane 4 g + t has
// elements 2t, 2t + 1, 2t + 8 and 2t + 9 of rows g and g + 8 of A and of column g of B.
__global__ void arrange(Work work, int pairs) {
  const int64_t of_p = round_up(work.rows, kGroup) / 16 * 2 * pairs * kWarp;
  const int64_t of_q = round_up(work.length, kStage) / 8 * pairs * kWarp;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4, classes = static_cast<int>(work.classes);
  Piece piece = {};
  if (i < of_p) {
    const int64_t tile = i / kWarp / (2 * pairs);
    const int k = static_cast<int>(i / kWarp % (2 * pairs)) * 16 + 2 * t;
    for (int part = 0; part < 4; ++part) {
      const int64_t row = tile * 16 + g + part % 2 * 8;
      if (row < work.rows && !work.bad[row])
        piece.word[part] = fragment_word<true>(work.p + row * classes, k + part / 2 * 8, classes);
    }
    work.quick_p[i] = piece;
    return;
  }
  i -= of_p;
  if (i >= of_q) return;
  const int64_t column = i / kWarp / pairs * 8 + g;
  const int k = static_cast<int>(i / kWarp % pairs) * 32 + 2 * t;
  if (column < work.length)
    for (int part = 0; part < 4; ++part)
      piece.word[part] = fragment_word<false>(work.ln_q + column * classes, k + part * 8, classes);
  work.quick_q[i] = piece;
}

// sum += A B, m16n8k16.
__device__ __forceinline__ void multiply(const Piece& a, uint32_t b0, uint32_t b1, float (&sum)[4]) {
#if defined(__CUDA_ARCH__)
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b0), "r"(b1));
#elif !defined(__CUDACC__)
  host_grid::mma_m16n8k16(a.word, b0, b1, sum);
#endif
}

// a · b + c, cut to 0..1.
__device__ __forceinline__ float saturated_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __saturatef(__fmaf_rn(a, b, c));
#else
  return lower(higher(__builtin_fmaf(a, b, c), 0.0f), 1.0f);
#endif
}

// a · b + c rounded down, where c and the result are in 2^23..2^24.
__device__ __forceinline__ uint32_t fixed_point(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(__fmaf_rd(a, b, c));
#else
  const double sum = static_cast<double>(a) * b + c;
  return bit_cast<uint32_t>(static_cast<float>(static_cast<int>(sum)));
#endif
}

// Shared memory by its 32-bit address: arithmetic on generic pointers would cost an instruction a pair.
#if defined(__CUDA_ARCH__)
__device__ __forceinline__ uint32_t shared_address(void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
__device__ __forceinline__ uint32_t load_shared(uint32_t address) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address));
  return value;
}
__device__ __forceinline__ void store_shared(uint32_t address, uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value));
}
// Copies 16 bytes, which are there after wait_for_copies().
__device__ __forceinline__ void copy_ahead(Piece* to, const Piece* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else
__device__ unsigned char* shared_byte(uint32_t address) { return dynamic_shared<unsigned char>() + address; }
__device__ uint32_t shared_address(void* pointer) {
  return static_cast<uint32_t>(static_cast<unsigned char*>(pointer) - shared_byte(0));
}
__device__ uint32_t load_shared(uint32_t address) {
  return *reinterpret_cast<uint32_t*>(shared_byte(address));
}
__device__ void store_shared(uint32_t address, uint32_t value) {
  *reinterpret_cast<uint32_t*>(shared_byte(address)) = value;
}
__device__ void copy_ahead(Piece* to, const Piece* from) { *to = *from; }
__device__ void wait_for_copies() {}
#endif

// A warp's 32 rows of p, as two tiles of 16, of which a thread has rows g and g + 8.
template <int kPairs>
class QuickRows {
 public:
  // `counters` is a multiple of kBinBytes.
  __device__ QuickRows(const Work& work, int64_t first_row, int64_t first_column, uint32_t* queue,
                       uint32_t counters)
      : work_(work), first_row_(first_row), first_column_(first_column), queue_(queue),
        slot_((counters & ~kBinMask) | 4 * threadIdx.x), doubt_(work.doubt[first_row / kGroup]),
        per_unit_((static_cast<float>(work.num_bins) - 0.5f) * kBinBytes),
        from_(0x1p23f + static_cast<float>((counters & kBinMask) + kBinBytes / 4)),
        from_doubt_(from_ - static_cast<float>(doubt_)) {
    const int lane = threadIdx.x % kWarp;
    for (int tile = 0; tile < 2; ++tile) {
      for (int s = 0; s < 2 * kPairs; ++s)
        p_[tile][s] = work.quick_p[((first_row / 16 + tile) * 2 * kPairs + s) * kWarp + lane];
      for (int half = 0; half < 2; ++half) {
        const RowPlan& plan = work.plans[first_row + tile * 16 + half * 8 + lane / 4];
        factor_[tile][half] = plan.factor;
        start_[tile][half] = plan.start;
      }
    }
    for (int b = 0; b < work.num_bins; ++b)
      for (int tile = 0; tile < 2; ++tile) store_shared(place(b, tile), 0);
  }

  // Counts the kStep columns from `column` on, whose ln q is given, as far as they lie before `last`.
  template <bool kWhole>
  __device__ __forceinline__ void count(const Piece* ln_q, int64_t column, int64_t last) {
    float sums[kStep / 8][2][4] = {};
    RALX_UNROLL
    for (int i = 0; i < kStep / 8; ++i) multiply_tiles(ln_q + i * kPairs * kWarp, sums[i]);
    RALX_UNROLL
    for (int i = 0; i < kStep / 8; ++i) tally<kWhole>(sums[i], column + 8 * i, last);
  }

  // Adds the counters of all lanes to work.out.
  __device__ void flush() {
    settle(queued_);
    __syncwarp();
    const int lane = threadIdx.x % kWarp;
    // Each of a row's four lanes takes every fourth bin.
    for (int b = lane % 4; b < work_.num_bins; b += 4)
      for (int tile = 0; tile < 2; ++tile) {
        uint32_t sum[2] = {};
        for (int other = 0; other < 4; ++other) {
          const uint32_t word = load_shared((place(b, tile) & ~15u) + 4 * other);
          sum[0] += word & 0xffff;
          sum[1] += word >> 16;
        }
        for (int half = 0; half < 2; ++half) {
          const int64_t row = first_row_ + tile * 16 + half * 8 + lane / 4;
          if (row < work_.rows && sum[half] != 0) atomicAdd(work_.out + row * work_.num_bins + b, sum[half]);
        }
      }
  }

 private:
  static constexpr uint32_t kBinMask = (0x7fffff >> kUlps) << kUlps;

  // Addresses of this thread's counter, of the first tile or of the given one.
  __device__ uint32_t place(uint32_t position) const { return (position & kBinMask) | slot_; }
  __device__ uint32_t place(int64_t bin, int tile) const {
    const auto position = bit_cast<uint32_t>(from_) + static_cast<uint32_t>(bin) * kBinBytes;
    return place(position) + tile * kTileBytes;
  }

  __device__ __forceinline__ void multiply_tiles(const Piece* ln_q, float (&sum)[2][4]) const {
    RALX_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      const Piece q = ln_q[pair * kWarp + threadIdx.x % kWarp];
      RALX_UNROLL
      for (int step = 0; step < 2; ++step) {
        RALX_UNROLL
        for (int tile = 0; tile < 2; ++tile)
          multiply(p_[tile][2 * pair + step], q.word[2 * step], q.word[2 * step + 1], sum[tile]);
      }
    }
  }

  // Elements 0 and 1 of a tile's sums are row g by columns 2t and 2t + 1; elements 2 and 3 are row g + 8 by
  // these columns.
  template <bool kWhole>
  __device__ __forceinline__ void tally(const float (&sum)[2][4], int64_t column, int64_t last) {
    const int64_t mine = column + threadIdx.x % 4 * 2;
    uint32_t position[2][4], differs = 0;
    RALX_UNROLL
    for (int e = 0; e < 4; ++e) {
      const bool valid = kWhole || mine + e % 2 < last;
      uint32_t before[2], places[2];
      RALX_UNROLL
      for (int tile = 0; tile < 2; ++tile) {
        const float share = saturated_multiply_add(sum[tile][e], factor_[tile][e / 2], start_[tile][e / 2]);
        position[tile][e] = fixed_point(share, per_unit_, from_);
        const uint32_t difference = position[tile][e] ^ fixed_point(share, per_unit_, from_doubt_);
        if (valid) differs |= difference;
        places[tile] = place(position[tile][e]) + tile * kTileBytes;
        before[tile] = load_shared(places[tile]);
      }
      RALX_UNROLL
      for (int tile = 0; tile < 2; ++tile)
        store_shared(places[tile], before[tile] + (!valid ? 0 : e < 2 ? 1 : 0x10000));
    }
    if (__any_sync(kWholeWarp, (differs & kBinMask) != 0)) queue<kWhole>(position, mine, last);
  }

  // Notes the pairs whose bin float32 leaves in doubt.
  template <bool kWhole>
  __device__ void queue(const uint32_t (&position)[2][4], int64_t column, int64_t last) {
    const unsigned lane = threadIdx.x % kWarp;
    RALX_UNROLL
    for (int tile = 0; tile < 2; ++tile) {
      RALX_UNROLL
      for (int e = 0; e < 4; ++e) {
        const bool valid = kWhole || column + e % 2 < last;
        const bool in_doubt = valid && (position[tile][e] & kFraction) < doubt_;
        const unsigned lanes = __ballot_sync(kWholeWarp, in_doubt);
        if (lanes == 0) continue;
        const auto offset = static_cast<uint32_t>(column + e % 2 - first_column_);
        const uint32_t bin = (place(position[tile][e]) - place(0, 0)) >> kUlps;
        if (in_doubt)
          queue_[queued_ + __popc(lanes & ((1u << lane) - 1))] =
              bin << 22 | static_cast<uint32_t>(tile * 16 + e / 2 * 8 + lane / 4) << 17 | offset;
        queued_ += __popc(lanes);
      }
      while (queued_ >= static_cast<int>(kWarp)) settle(kWarp);
    }
  }

  // Takes the last `pairs` pairs from the queue, one a lane, and moves each to the bin that float64 finds.
  __device__ void settle(int pairs) {
    __syncwarp();
    queued_ -= pairs;
    const int lane = threadIdx.x % kWarp;
    if (lane < pairs) {
      const uint32_t entry = queue_[queued_ + lane];
      const int64_t row = first_row_ + (entry >> 17 & 31), column = first_column_ + (entry & 0x1ffff);
      const int bin = find_bin(work_.plans[row].bins, divergence(work_, row, column));
      const int counted = static_cast<int>(entry >> 22);
      if (bin != counted) {
        atomicAdd(work_.out + row * work_.num_bins + bin, 1u);
        atomicAdd(work_.out + row * work_.num_bins + counted, 0xffffffffu);
      }
    }
    __syncwarp();
  }

  const Work& work_;
  const int64_t first_row_, first_column_;
  uint32_t* const queue_;  // [kQueue] of this warp: bin, 5 bits of row, 17 bits of column
  int queued_ = 0;
  const uint32_t slot_;  // the bits of an address in counters [bin][tile][thread] other than those of the bin
  const uint32_t doubt_;
  const float per_unit_;           // ulps, from the first bin's 0.25 to the last one's 0.75
  const float from_, from_doubt_;  // of position 0.25; `doubt_` ulps before it
  Piece p_[2][2 * kPairs];
  float factor_[2][2], start_[2][2];
};

template <int kPairs>
__global__ void __launch_bounds__(kQuickThreads, kPairs <= 3 ? 2 : 1) count_quick(Work work, int64_t chunk) {
  constexpr int kPieces = kStage / 8 * kPairs * static_cast<int>(kWarp);  // pieces of a stage
  const int64_t rows = round_up(work.rows, kGroup);
  const int64_t first_row =
      (static_cast<int64_t>(blockIdx.x) * kQuickThreads / kWarp + threadIdx.x / kWarp) * kGroup;
  const int64_t first = blockIdx.y * chunk, last = min_of(first + chunk, work.length);
  const bool counts = first_row < rows && work.doubt[first_row / kGroup] != kNever;
  if (!__syncthreads_or(counts) || first >= last) return;

  auto* const shared = dynamic_shared<unsigned char>();
  auto* const stages = reinterpret_cast<Piece*>(shared);
  auto* const queues = reinterpret_cast<uint32_t*>(stages + 2 * kPieces);
  const auto counters =
      static_cast<uint32_t>(round_up(shared_address(queues + kQuickThreads / kWarp * kQueue), kBinBytes));
  const auto fetch = [&](int64_t column) {
    Piece* to = stages + (column - first) / kStage % 2 * kPieces;
    const Piece* from = work.quick_q + column / 8 * kPairs * kWarp;
    for (int i = threadIdx.x; i < kPieces; i += kQuickThreads) copy_ahead(to + i, from + i);
  };
  fetch(first);
  QuickRows<kPairs> mine(work, counts ? first_row : 0, first, queues + threadIdx.x / kWarp * kQueue,
                         counters);
  for (int64_t j = first; j < last; j += kStage) {
    wait_for_copies();
    __syncthreads();
    if (j + kStage < last) fetch(j + kStage);
    if (!counts) continue;
    const Piece* ln_q = stages + (j - first) / kStage % 2 * kPieces;
    if (j + kStage <= last)
      for (int i = 0; i < kStage; i += kStep)
        mine.template count<true>(ln_q + i / 8 * kPairs * kWarp, j + i, last);
    else
      for (int i = 0; i < last - j; i += kStep)
        mine.template count<false>(ln_q + i / 8 * kPairs * kWarp, j + i, last);
  }
  if (counts) mine.flush();
}

__global__ void finish(Work work) {
  const int64_t cells = work.rows * work.num_bins;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < cells; i += step) {
    const double share = static_cast<double>(work.out[i]) / static_cast<double>(work.length);
    const bool bad = work.bad[i / work.num_bins];
    work.out[i] = bit_cast<uint32_t>(bad ? __builtin_nanf("") : static_cast<float>(share));
  }
}

// ---- Launches ----

// How many columns of q a block takes where there are to be about `blocks` blocks.
int64_t chunk_for(int64_t length, int64_t row_blocks, int64_t blocks) {
  const int64_t parts = min_of(blocks / row_blocks + 1, kMostParts);
  const int64_t chunk = round_up((length + parts - 1) / parts, kStage);
  return chunk < kLeastColumns ? kLeastColumns : chunk;
}

template <int kPairs>
void launch_quick(const Work& work, cudaStream_t stream) {
  const int64_t row_blocks = blocks_for(work.rows, kGroup * kQuickThreads / kWarp);
  const int64_t chunk = min_of(chunk_for(work.length, row_blocks, 12 * multiprocessors()), kMostColumns);
  const dim3 grid(static_cast<unsigned>(row_blocks), blocks_for(work.length, chunk));
  launch(count_quick<kPairs>, grid, kQuickThreads, quick_shared(kPairs, work.num_bins), stream, work, chunk);
}

}  // namespace

int64_t kl_histogram_scratch(int64_t rows, int64_t length, int64_t classes) {
  Work work = {};
  work.rows = rows;
  work.length = length;
  work.classes = classes;
  return lay_out(work, nullptr);
}

void kl_histogram(const TensorView& p, const TensorView& q, const TensorView& out, bool own_range, double low,
                  double high, double eps, const TensorView& scratch, Stream torch_stream) {
  const cudaStream_t stream = as_cuda(torch_stream);
  const OnDevice here(p.device);
  Work work = {};
  work.rows = p.sizes[0];
  work.length = q.sizes[0];
  work.classes = p.sizes[1];
  work.num_bins = out.sizes[1];
  work.out = static_cast<uint32_t*>(out.data);
  lay_out(work, static_cast<unsigned char*>(scratch.data));
  if (work.length >> 32) throw std::runtime_error("kl_histogram: q must have fewer than 2^32 rows");
  if (work.rows == 0) return;
  set_zero(out.data, static_cast<size_t>(work.rows * work.num_bins) * 4, stream);
  if (work.length == 0) return;
  set_zero(work.totals, sizeof(Totals), stream);

  const int64_t padded = round_up(work.rows, kGroup), groups = padded / kGroup;
  const int pairs = pairs_of_steps(work.classes);
  const bool quick =
      pairs > 0 && work.num_bins <= kQuickBins && quick_shared(pairs, work.num_bins) <= most_shared();
  const int64_t chunk = chunk_for(work.length, groups, 32 * multiprocessors());
  const dim3 exact_grid(static_cast<unsigned>(groups), blocks_for(work.length, chunk));
  const size_t exact_shared = work.num_bins <= kSharedBins ? kGroup * work.num_bins * 4 : 0;

  launch(prepare, blocks_for(padded + work.length, kRowThreads), kRowThreads, 0, stream, work, matrix_of(p),
         matrix_of(q), eps);
  if (own_range) launch(measure, exact_grid, kExactThreads, 0, stream, work, chunk);
  launch(plan, blocks_for(padded, kRowThreads), kRowThreads, 0, stream, work, own_range, low, high);
  if (quick) {
    const int64_t pieces = (padded / 8 + round_up(work.length, kStage) / 8) * pairs * kWarp;
    launch(arrange, blocks_for(pieces, kRowThreads), kRowThreads, 0, stream, work, pairs);
    if (pairs == 1) launch_quick<1>(work, stream);
    if (pairs == 2) launch_quick<2>(work, stream);
    if (pairs == 3) launch_quick<3>(work, stream);
    if (pairs == 4) launch_quick<4>(work, stream);
  }
  launch(count_exact, exact_grid, kExactThreads, exact_shared, stream, work, chunk, quick);
  launch(finish, blocks_for(min_of(work.rows * work.num_bins, 1 << 22), kRowThreads), kRowThreads, 0, stream,
         work);
}

}  // namespace ralx::RALX_ISA
