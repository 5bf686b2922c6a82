// A thread has a few neighbouring pixels and goes through all passes, so that the logits are read once and
// little else passes through memory: the speed is that of memory, as long as a logit costs few instructions.
// Up to 32 classes both Σp and a pass's logits, later exponentials, stay in registers, and all loads of a
// pass leave together. The 16-bit logits of one pass are too few bytes to keep memory busy while other warps
// compute, so the next pass is loaded before this pass is worked on. With more classes Σp lies in shared
// memory and the logits of a pass are read three times, twice from the caches. docs/gpu.md counts the
// instructions and compares the time with that of a copy.
#include <cmath>
#include <type_traits>

#include "bald/bald.h"
#include "common/gpu/cuda.h"
#include "common/gpu/fast_math.h"
#include "common/gpu/logit_pixels.h"
#include "common/region_grid.h"

namespace ralx::RALX_ISA {
namespace {

// ---- the logits ----

// Logits at native size, two pixels a thread: a warp's load still covers whole cache lines, and more pixels
// would need more registers.
template <typename Stored>
using PairedLogits = PlanarLogits<Stored, 0, 2>;

template <typename Function>
void dispatch_source(const LogitView& view, const Function& function) {
  const auto of_type = [&](auto stored) {
    using Stored = decltype(stored);
    if (PairedLogits<Stored>::serves(view)) return function(PairedLogits<Stored>{view});
    if (StridedLogits<Stored>::serves(view)) return function(StridedLogits<Stored>{view});
    return function(UpsampledLogits<Stored>(view));
  };
  switch (view.dtype) {
    case DType::float16: return of_type(Half{});
    case DType::bfloat16: return of_type(BFloat16{});
    default: return of_type(float{});
  }
}

// ---- one pass ----

// Softmax over the classes of one pixel in one pass: a kernel calls look() with every logit, settle(), then
// add() with every logit less lowered_by. The sums are z = Σ 2^t and tz = Σ t 2^t with t = (x - max) log2 e,
// for which one fused operation is enough: the rounding of `shift` adds one number to every t of a pixel, on
// which neither p nor the entropy depends. Logits so large that this number would be large are first lowered
// by their maximum. All kernels use these operations in this order, so that stacked and streamed passes agree
// to the last bit.
struct PixelSoftmax {
  static constexpr float kLog = static_cast<float>(kLog2E);
  static constexpr float kLarge = 0x1p20f;     // `shift` is rounded by less than a tenth
  static constexpr float kFarDown = -1000.0f;  // t of a class of -inf: 2^t and t 2^t are 0

  float largest, lowered_by, shift, z = 0, tz = 0;

  RALX_HD void look(int c, float x) { largest = c == 0 ? x : larger_or_nan(largest, x); }
  RALX_HD void settle() {
    lowered_by = fabsf(largest) < kLarge ? 0 : largest;
    largest -= lowered_by;
    shift = -largest * kLog;
  }
  RALX_HD float exponent(float x) const { return larger_or_nan(fmaf(x, kLog, shift), kFarDown); }
  RALX_HD float add(float x) { return add_exponent(exponent(x)); }

  // add() for pixels none of whose logits is -inf or far below the others; for other pixels `tz` may become
  // NaN.
  RALX_HD float add_near(float x) { return add_exponent(fmaf(x, kLog, shift)); }

 private:
  RALX_HD float add_exponent(float t) {
    const float e = exp2_to_zero(t);
    z += e;
    tz = fmaf(t, e, tz);
    return e;
  }
};

// ---- from the sums over the passes to a pixel's result ----

struct PixelScore {
  float z = 0, z_excess = 0, entropy = 0, entropy_excess = 0, best = 0;
  int32_t label = 0;

  RALX_HD void add(int c, float sum_p, float one_over_passes) {
    if (c == 0)
      best = sum_p;
    else
      argmax_step(sum_p, c, best, label);
    // The logarithm of the mean p, unlike that of sum_p, is small where p is large.
    const float p = rounded_product(sum_p, one_over_passes);
    add_exactly(p, z, z_excess);
    add_exactly(rounded_product(p, log2_of_share(p)), entropy, entropy_excess);
  }
  RALX_HD float bald(float sum_entropy, float one_over_passes) const {
    const float of_mean = log2_positive(z) - entropy / z;
    return fmaf(of_mean, static_cast<float>(kLn2), -(sum_entropy * one_over_passes));
  }

 private:
  static RALX_HD void add_exactly(float x, float& sum, float& excess) {
    const float missing = x - excess, next = sum + missing;
    excess = (next - sum) - missing;
    sum = next;
  }
};

struct PixelOutputs {
  float* bald_map;  // [N, H, W]
  int32_t* label;   // [N, H, W], class of the largest mean p
  int64_t rows, columns;
  float one_over_passes;

  template <int kPixels>
  __device__ void write(int64_t n, int64_t y, int64_t x, const PixelScore (&score)[kPixels],
                        const float (&sum_entropy)[kPixels]) const {
    const int64_t place = (n * rows + y) * columns + x;
    Pack<float, kPixels> bald;
    Pack<int32_t, kPixels> labels;
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      bald.of[i] = score[i].bald(sum_entropy[i], one_over_passes);
      labels.of[i] = score[i].label;
    }
    *reinterpret_cast<Pack<float, kPixels>*>(bald_map + place) = bald;
    *reinterpret_cast<Pack<int32_t, kPixels>*>(label + place) = labels;
  }
};

// ---- few classes: everything in registers ----

constexpr int kFewThreads = 128;

// Σp and ΣH of a thread's pixels in registers, for kLeast < C <= kMost. Classes C .. kMost - 1 are worked on
// like the others, with p = 0.
template <int kMost, int kLeast, int kPixels>
struct RegisterSums {
  float sum_p[kMost][kPixels] = {};
  float sum_entropy[kPixels] = {};

  // Adds a pass, whose logits x become exponentials. Without kCareful this takes fewer operations, and the
  // sums may become NaN although every logit is finite or -inf.
  template <bool kCareful>
  __device__ void add_pass(float (&x)[kMost][kPixels], int classes) {
    PixelSoftmax softmax[kPixels];
    bool lowered = false;
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      RALX_UNROLL
      for (int c = 0; c < kMost; ++c)
        if (c <= kLeast || c < classes) softmax[i].look(c, x[c][i]);
      softmax[i].settle();
      lowered |= softmax[i].lowered_by != 0;  // NaN too
    }
    if (lowered) lower(x, softmax);
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      RALX_UNROLL
      for (int c = 0; c < kMost; ++c) {
        if (c > kLeast && c >= classes) x[c][i] = softmax[i].largest - kFarBelow;
        x[c][i] = kCareful ? softmax[i].add(x[c][i]) : softmax[i].add_near(x[c][i]);
      }
    }
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float one_over_z = reciprocal_of_sum(softmax[i].z);
      sum_entropy[i] += softmax_entropy(softmax[i].z, softmax[i].tz, one_over_z);
      RALX_UNROLL
      for (int c = 0; c < kMost; ++c) sum_p[c][i] = fmaf(x[c][i], one_over_z, sum_p[c][i]);
    }
  }

  // `totals` points to this thread's part of the kTotals numbers of its block.
  __device__ void carry_into(float* totals) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      RALX_UNROLL
      for (int c = 0; c < kMost; ++c) carry(sum_p[c][i], totals[(c * kPixels + i) * kFewThreads]);
      carry(sum_entropy[i], totals[(kMost * kPixels + i) * kFewThreads]);
    }
  }
  __device__ void add(const float* totals) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      RALX_UNROLL
      for (int c = 0; c < kMost; ++c) sum_p[c][i] += totals[(c * kPixels + i) * kFewThreads];
      sum_entropy[i] += totals[(kMost * kPixels + i) * kFewThreads];
    }
  }

  __device__ bool is_nan() const {
    bool any = false;
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) any |= sum_entropy[i] != sum_entropy[i];
    return any;
  }

  __device__ void score(int classes, float one_over_passes, PixelScore (&score)[kPixels]) const {
    RALX_UNROLL
    for (int c = 0; c < kMost; ++c) {
      if (c > kLeast && c >= classes) break;
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) score[i].add(c, sum_p[c][i], one_over_passes);
    }
  }

 private:
  static constexpr float kFarBelow = 200;  // 2^-288 is 0

  static __device__ void lower(float (&x)[kMost][kPixels], const PixelSoftmax (&softmax)[kPixels]) {
    RALX_UNROLL
    for (int c = 0; c < kMost; ++c) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) x[c][i] -= softmax[i].lowered_by;
    }
  }
};

// Blocks of a multiprocessor: so many that Σp, a pass's logits and the other variables of a thread just find
// room in registers. Addresses in a layout other than the planar one take more registers.
template <int kMost, int kPixels>
constexpr int kFewBlocks = 65536 / kFewThreads /
                           (2 * kMost * kPixels + (kPixels > 1  ? 52
                                                   : kMost > 12 ? 124
                                                                : 104));

// Numbers that a block keeps in shared memory where there are more than kPassesAtOnce passes: the totals
// [kMost + 1, kPixels, kFewThreads], of p in each class, then of the entropy.
template <int kMost, int kPixels>
constexpr int kTotals = (kMost + 1) * kPixels * kFewThreads;

// Whether the next pass is loaded while one is worked on: where that takes only one register a class, there
// are registers for it.
template <int kMost, int kLeast, typename Source>
constexpr bool kAhead = kMost == kLeast + 1 && Source::kPixels > 1 && sizeof(typename Source::At::Raw) == 4;

template <int kMost, int kLeast, typename Source>
__global__ void __launch_bounds__(kFewThreads, kFewBlocks<kMost, Source::kPixels>)
    score_few_classes(Source source, PixelGroups<Source::kPixels> groups, PixelOutputs out) {
  constexpr int kPixels = Source::kPixels;
  const bool many_passes = source.view.passes > kPassesAtOnce;
  constexpr int kOfBlock = kTotals<kMost, kPixels>;
  float* const totals = dynamic_shared<float>() + threadIdx.x;
  float* const warp = warp_memory(source, many_passes ? sizeof(float) * kOfBlock : 0);
  const int classes = source.view.classes;
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    RegisterSums<kMost, kLeast, kPixels> sums;
    using At = typename Source::At;
    typename At::Raw raw[kMost];
    const auto read = [&](int32_t t) {
      const At at = source.at(t, n, y, x, wanted, warp);
      RALX_UNROLL
      for (int c = 0; c < kMost; ++c) {
        raw[c] = {};
        if (c <= kLeast || c < classes) raw[c] = at.read(c);
      }
    };
    const auto add_passes = [&](auto careful, bool mine) {
      constexpr bool kReadAhead = kAhead<kMost, kLeast, Source>;
      const auto passes = static_cast<int32_t>(source.view.passes);
      for (int i = 0; many_passes && i < kOfBlock; i += kFewThreads) totals[i] = 0;
      if (kReadAhead) read(0);
      for (int32_t t = 0; t < passes; ++t) {
        if (t > 0 && t % kPassesAtOnce == 0) sums.carry_into(totals);
        if (!kReadAhead) read(t);
        float logits[kMost][kPixels];
        RALX_UNROLL
        for (int c = 0; c < kMost; ++c) At::convert(raw[c], logits[c]);
        if (kReadAhead && t + 1 < passes) read(t + 1);
        if (mine) sums.template add_pass<careful>(logits, classes);
      }
      if (many_passes) sums.add(totals);
    };
    add_passes(std::false_type{}, wanted);
    const bool again = wanted && sums.is_nan();
    if (__any_sync(kWholeWarp, again)) {
      if (again) sums = {};
      add_passes(std::true_type{}, again);
    }
    if (!wanted) return;
    PixelScore score[kPixels];
    sums.score(classes, out.one_over_passes, score);
    out.write(n, y, x, score, sums.sum_entropy);
  });
}

// ---- any number of classes: Σp in memory, shared or other ----

// Σp of a thread's pixels in memory: class c lies at first[c * stride]. The loads of kAhead classes leave at
// once.
template <int kAhead, int kPixels>
struct MemorySums {
  using Numbers = Pack<float, kPixels>;

  __device__ Numbers& of(int c) const { return first[c * stride]; }

  // Adds p of one pass to Σp, and its H to sum_entropy.
  template <typename Source>
  __device__ void add_pass(const Source& source, const typename Source::At& at,
                           float (&sum_entropy)[kPixels]) const {
    PixelSoftmax softmax[kPixels];
    each_class<kAhead>(source, at, [&](int c, const float (&x)[kPixels]) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) softmax[i].look(c, x[i]);
    });
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) softmax[i].settle();
    float total_z[kPixels] = {}, total_tz[kPixels] = {};
    const bool many = source.view.classes > kFewClasses;
    each_class<kAhead>(source, at, [&](int c, const float (&x)[kPixels]) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        softmax[i].add(x[i] - softmax[i].lowered_by);
        if (!many || (c + 1) % kClassesAtOnce != 0) continue;
        carry(softmax[i].z, total_z[i]);
        carry(softmax[i].tz, total_tz[i]);
      }
    });
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      softmax[i].z += total_z[i];
      softmax[i].tz += total_tz[i];
    }
    float one_over_z[kPixels];
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      one_over_z[i] = reciprocal_of_sum(softmax[i].z);
      sum_entropy[i] += softmax_entropy(softmax[i].z, softmax[i].tz, one_over_z[i]);
    }
    for (int begin = 0; begin < source.view.classes; begin += kAhead)
      add_classes(at, begin, source.view.classes, softmax, one_over_z);
  }

  // Carries the sums into totals [C + 1] that lie behind Σp: of p in each class, then of the entropy.
  __device__ void carry_all(int classes, float (&sum_entropy)[kPixels]) const {
    for (int c = 0; c < classes; ++c) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) carry(of(c).of[i], of(classes + c).of[i]);
    }
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) carry(sum_entropy[i], of(2 * classes).of[i]);
  }

  template <typename At>
  __device__ void add_classes(const At& at, int begin, int classes, const PixelSoftmax (&softmax)[kPixels],
                              const float (&one_over_z)[kPixels]) const {
    typename At::Raw raw[kAhead];
    Numbers sum[kAhead];
    RALX_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      if (begin + k >= classes) break;
      raw[k] = at.read(begin + k);
      sum[k] = of(begin + k);
    }
    RALX_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      if (begin + k >= classes) break;
      float x[kPixels];
      At::convert(raw[k], x);
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        const float e = exp2_to_zero(softmax[i].exponent(x[i] - softmax[i].lowered_by));
        sum[k].of[i] = fmaf(e, one_over_z[i], sum[k].of[i]);
      }
      of(begin + k) = sum[k];
    }
  }

  Numbers* first;
  int64_t stride;
};

// Classes whose loads leave at once: few pixels find room in a multiprocessor, so each needs many loads in
// flight.
template <typename Source>
constexpr int kManyAhead = Source::kInterpolates ? 12 : 16;

// A block has so few pixels that Σp of some hundred classes fits in any GPU's shared memory, with its totals
// where there are many passes. Σp of more classes lies in scratch.
constexpr int64_t kManyPixels = 64;
constexpr int64_t kMostInShared = (96 << 10) / sizeof(float);
constexpr int64_t kScratchBlocks = 256;

RALX_HD int64_t numbers_of_block(int64_t passes, int64_t classes) {
  return kManyPixels * (passes > kPassesAtOnce ? 2 * classes + 1 : classes);
}

template <typename Source>
__global__ void __launch_bounds__(kManyPixels / Source::kPixels, 5)
    score_many_classes(Source source, PixelGroups<Source::kPixels> groups, PixelOutputs out, float* scratch) {
  constexpr int kPixels = Source::kPixels;
  using Sums = MemorySums<kManyAhead<Source>, kPixels>;
  const int classes = source.view.classes;
  const bool many_passes = source.view.passes > kPassesAtOnce;
  const int64_t of_block = numbers_of_block(source.view.passes, classes);
  float* const warp = warp_memory(source, scratch == nullptr ? sizeof(float) * of_block : 0);
  float* const first = scratch == nullptr ? dynamic_shared<float>() : scratch + blockIdx.x * of_block;
  const Sums sums{reinterpret_cast<typename Sums::Numbers*>(first) + threadIdx.x, kManyPixels / kPixels};
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    float sum_entropy[kPixels] = {};
    for (int c = 0; c < (many_passes ? 2 * classes + 1 : classes); ++c) sums.of(c) = {};
    for (int64_t t = 0; t < source.view.passes; ++t) {
      if (t > 0 && t % kPassesAtOnce == 0) sums.carry_all(classes, sum_entropy);
      const auto at = source.at(t, n, y, x, wanted, warp);
      if (wanted) sums.add_pass(source, at, sum_entropy);
    }
    if (!wanted) return;
    PixelScore score[kPixels];
    for (int c = 0; c < classes; ++c) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        const float total = many_passes ? sums.of(classes + c).of[i] : 0;
        score[i].add(c, total + sums.of(c).of[i], out.one_over_passes);
      }
    }
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) sum_entropy[i] += many_passes ? sums.of(2 * classes).of[i] : 0;
    out.write(n, y, x, score, sum_entropy);
  });
}

// ---- streaming: Σp and ΣH in tensors ----

constexpr int kStreamThreads = 128;
constexpr int kStreamAhead = 8;

template <typename Source>
__global__ void __launch_bounds__(kStreamThreads, 2)
    update_sums(Source source, PixelGroups<Source::kPixels> groups, float* sum_p, float* sum_entropy) {
  constexpr int kPixels = Source::kPixels;
  using Sums = MemorySums<kStreamAhead, kPixels>;
  float* const warp = warp_memory(source, 0);
  const int64_t columns = groups.groups * kPixels, pixels = groups.rows * columns;
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    const auto at = source.at(0, n, y, x, wanted, warp);
    if (!wanted) return;
    const int64_t in_image = y * columns + x;
    const Sums sums{
        reinterpret_cast<typename Sums::Numbers*>(sum_p + n * source.view.classes * pixels + in_image),
        pixels / kPixels};
    float* const place = sum_entropy + n * pixels + in_image;
    float entropy[kPixels];
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) entropy[i] = place[i];
    sums.add_pass(source, at, entropy);
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) place[i] = entropy[i];
  });
}

__global__ void __launch_bounds__(kStreamThreads)
    score_sums(StridedLogits<float> sum_p, const float* sum_entropy, PixelGroups<1> groups,
               PixelOutputs out) {
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    if (!wanted) return;
    PixelScore score[1];
    each_class<kStreamAhead>(sum_p, sum_p.at(0, n, y, x, wanted, nullptr), [&](int c, const float (&sum)[1]) {
      score[0].add(c, sum[0], out.one_over_passes);
    });
    const float entropy[1] = {sum_entropy[(n * out.rows + y) * out.columns + x]};
    out.write(n, y, x, score, entropy);
  });
}

__global__ void __launch_bounds__(kStreamThreads) carry_sums(float* sums, float* totals, int64_t count) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kStreamThreads) + threadIdx.x;
  if (i < count) carry(sums[i], totals[i]);
}

// ---- regions ----

constexpr int kRegionThreads = 256, kRegionWarps = kRegionThreads / kWarp;
constexpr int64_t kSlicePixels = 2048;
constexpr int kAtOnce = 4;  // pixels whose loads a thread issues at once

// A region is cut into slices of a few rows, each for one warp. The sums and counts of a region's slices are
// added up in the order of the slices.
struct Slices {
  RegionGrid grid;
  int64_t images, classes, rows, per_region;

  Slices(const RegionGrid& grid, int64_t images, int64_t classes)
      : grid(grid), images(images), classes(classes),
        rows(grid.region.width < kSlicePixels ? kSlicePixels / grid.region.width : 1),
        per_region((grid.region.height + rows - 1) / rows) {}

  RALX_HD int64_t regions() const { return images * grid.rows * grid.cols; }
  RALX_HD int64_t count() const { return regions() * per_region; }
};

struct SliceTotals {
  double* sums;      // [slices], of bald
  uint32_t* counts;  // [slices, C]
};

__global__ void __launch_bounds__(kRegionThreads)
    add_up_slices(Slices slices, const float* bald_map, const int32_t* label, SliceTotals out,
                  bool in_shared) {
  const int64_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t slice = blockIdx.x * static_cast<int64_t>(kRegionWarps) + warp;
  if (slice >= slices.count()) return;
  const RegionGrid& grid = slices.grid;
  const int64_t classes = slices.classes, region = slice / slices.per_region, row = region / grid.cols;
  const int64_t col = region - row * grid.cols, n = row / grid.rows, band = row - n * grid.rows;
  const int64_t begin = (slice - region * slices.per_region) * slices.rows;
  const int64_t rows = min_of(slices.rows, grid.height(band) - begin);  // none below an image's edge
  const int width = static_cast<int>(grid.width(col));
  const int pixels = rows > 0 ? static_cast<int>(rows) * width : 0;
  const int64_t first = (n * grid.image.height + band * grid.region.height + begin) * grid.image.width +
                        col * grid.region.width;

  uint32_t* const found = out.counts + slice * classes;
  uint32_t* const counts = in_shared ? dynamic_shared<uint32_t>() + warp * classes : found;
  for (int64_t c = lane; c < classes; c += kWarp) counts[c] = 0;
  __syncwarp();
  double sum = 0;
  for (int i = static_cast<int>(lane); i < pixels; i += kAtOnce * static_cast<int>(kWarp)) {
    float bald[kAtOnce];
    int32_t predicted[kAtOnce];
    RALX_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      const int pixel = i + k * static_cast<int>(kWarp);
      if (pixel >= pixels) break;
      const int64_t place = first + pixel / width * grid.image.width + pixel % width;
      bald[k] = bald_map[place];
      predicted[k] = label[place];
    }
    RALX_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k * static_cast<int>(kWarp) >= pixels) break;
      sum += static_cast<double>(bald[k]);
      atomicAdd(&counts[predicted[k]], 1u);
    }
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, lanes);
  if (lane == 0) out.sums[slice] = sum;
  __syncwarp();
  if (!in_shared) return;
  for (int64_t c = lane; c < classes; c += kWarp) found[c] = counts[c];
}

// The sum of number(s) over the slices s, made by `lanes` threads, 1 or a warp, all of which get the sum.
template <typename Number, typename Get>
__device__ Number add_up(int64_t slices, int lanes, const Get& number) {
  Number total = 0;
  for (int64_t s = static_cast<int>(threadIdx.x) % lanes; s < slices; s += lanes) total += number(s);
  for (int step = lanes / 2; step > 0; step /= 2) total += __shfl_xor_sync(kWholeWarp, total, step);
  return total;
}

__global__ void __launch_bounds__(kRegionThreads)
    add_up_regions(Slices slices, SliceTotals found, int lanes, float* region_sum, float* class_hist) {
  const int64_t classes = slices.classes, numbers = classes + 1;  // a region's counts, and its sum
  const int64_t item = (blockIdx.x * static_cast<int64_t>(kRegionThreads) + threadIdx.x) / lanes;
  const int64_t region = item / numbers, c = item - region * numbers;
  if (region >= slices.regions()) return;
  const int64_t first = region * slices.per_region;
  if (c == classes) {
    const double total =
        add_up<double>(slices.per_region, lanes, [&](int64_t s) { return found.sums[first + s]; });
    region_sum[region] = static_cast<float>(total);
  } else {
    const RegionGrid& grid = slices.grid;
    const int64_t area = grid.area(region / grid.cols % grid.rows, region % grid.cols);
    const uint32_t count = add_up<uint32_t>(
        slices.per_region, lanes, [&](int64_t s) { return found.counts[(first + s) * classes + c]; });
    class_hist[region * classes + c] =
        static_cast<float>(static_cast<double>(count) / static_cast<double>(area));
  }
}

// ---- scratch and launches ----

// The layout of the scratch memory, the widest numbers first.
struct Scratch {
  Scratch(int64_t passes, const Slices& slices, void* data) : data_(static_cast<unsigned char*>(data)) {
    totals.sums = take<double>(slices.count());
    const int64_t of_block = numbers_of_block(passes, slices.classes);
    if (of_block > kMostInShared) sum_p = take<float>(kScratchBlocks * of_block);
    label = take<int32_t>(slices.images * slices.grid.image.height * slices.grid.image.width);
    totals.counts = take<uint32_t>(slices.count() * slices.classes);
  }

  SliceTotals totals;
  float* sum_p = nullptr;  // [kScratchBlocks, numbers_of_block()], where shared memory is too small
  int32_t* label;          // [N, H, W]
  int64_t bytes = 0;

 private:
  template <typename Number>
  Number* take(int64_t count) {
    const int64_t offset = bytes;
    bytes += static_cast<int64_t>(sizeof(Number)) * count;
    return data_ == nullptr ? nullptr : reinterpret_cast<Number*>(data_ + offset);
  }

  unsigned char* const data_;
};

void score_regions(const Slices& slices, const Scratch& scratch, const TensorView& bald_map,
                   const TensorView& region_sum, const TensorView& class_hist, Stream stream) {
  const size_t shared = sizeof(uint32_t) * kRegionWarps * static_cast<size_t>(slices.classes);
  const bool in_shared = shared <= kUsualShared;
  launch(add_up_slices, blocks_for(slices.count(), kRegionWarps), kRegionThreads, in_shared ? shared : 0,
         as_cuda(stream), slices, static_cast<const float*>(bald_map.data), scratch.label, scratch.totals,
         in_shared);
  const int lanes = slices.per_region < 8 ? 1 : static_cast<int>(kWarp);
  launch(add_up_regions, blocks_for(slices.regions() * (slices.classes + 1) * lanes, kRegionThreads),
         kRegionThreads, 0, as_cuda(stream), slices, scratch.totals, lanes,
         static_cast<float*>(region_sum.data), static_cast<float*>(class_hist.data));
}

template <int kMost, int kLeast, typename Source>
void launch_few(const Source& source, const PixelOutputs& out, Stream stream) {
  const PixelGroups<Source::kPixels> groups{source.view.images, out.rows, out.columns / Source::kPixels};
  launch(score_few_classes<kMost, kLeast, Source>, blocks_for(groups.count(), kFewThreads), kFewThreads,
         (source.view.passes > kPassesAtOnce ? sizeof(float) * kTotals<kMost, Source::kPixels> : 0) +
             kFewThreads / kWarp * source.warp_bytes(),
         as_cuda(stream), source, groups, out);
}

template <typename Source>
void launch_many(const Source& source, const PixelOutputs& out, float* sum_p, Stream stream) {
  constexpr int kThreads = kManyPixels / Source::kPixels;
  const PixelGroups<Source::kPixels> groups{source.view.images, out.rows, out.columns / Source::kPixels};
  const size_t shared = sizeof(float) * numbers_of_block(source.view.passes, source.view.classes);
  const int64_t blocks = blocks_for(groups.count(), kThreads);
  launch(score_many_classes<Source>,
         static_cast<unsigned>(sum_p == nullptr ? blocks : min_of(blocks, kScratchBlocks)), kThreads,
         (sum_p == nullptr ? shared : 0) + kThreads / kWarp * source.warp_bytes(), as_cuda(stream), source,
         groups, out, sum_p);
}

template <typename Source>
void score_passes(const Source& source, const PixelOutputs& out, float* sum_p, Stream stream) {
  const int classes = source.view.classes;
  if (classes == 11) return launch_few<11, 10>(source, out, stream);  // CamVid's
  if (classes == 19) return launch_few<19, 18>(source, out, stream);  // Cityscapes'
  if (classes == 21) return launch_few<21, 20>(source, out, stream);  // Pascal VOC's
  if (classes <= 4) return launch_few<4, 0>(source, out, stream);
  if (classes <= 8) return launch_few<8, 4>(source, out, stream);
  if (classes <= 12) return launch_few<12, 8>(source, out, stream);
  if (classes <= 16) return launch_few<16, 12>(source, out, stream);
  if (classes <= 20) return launch_few<20, 16>(source, out, stream);
  if (classes <= 24) return launch_few<24, 20>(source, out, stream);
  if (classes <= 32) return launch_few<32, 24>(source, out, stream);
  launch_many(source, out, sum_p, stream);
}

}  // namespace

int64_t bald_scratch(int64_t passes, int64_t images, int64_t classes, Extent size, Extent region_size,
                     bool keep_edge) {
  const Slices slices(RegionGrid(size, region_size, keep_edge), images, classes);
  return Scratch(passes, slices, nullptr).bytes;
}

void bald(const TensorView& logits, Extent region_size, bool keep_edge, bool align_corners,
          const TensorView& bald_map, const TensorView& region_sum, const TensorView& class_hist,
          const TensorView& scratch, Stream stream) {
  const OnDevice here(bald_map.device);
  const Extent size{bald_map.sizes[1], bald_map.sizes[2]};
  const Slices slices(RegionGrid(size, region_size, keep_edge), logits.sizes[1], logits.sizes[2]);
  const Scratch parts(logits.sizes[0], slices, scratch.data);
  const PixelOutputs out{static_cast<float*>(bald_map.data), parts.label, size.height, size.width,
                         1 / static_cast<float>(logits.sizes[0])};
  dispatch_source(LogitView(logits, size, align_corners),
                  [&](auto source) { score_passes(source, out, parts.sum_p, stream); });
  score_regions(slices, parts, bald_map, region_sum, class_hist, stream);
}

void bald_update(const TensorView& logits, bool align_corners, const TensorView& sum_p,
                 const TensorView& sum_entropy, Stream stream) {
  const OnDevice here(sum_p.device);
  const Extent size{sum_p.sizes[2], sum_p.sizes[3]};
  dispatch_source(LogitView(logits, size, align_corners), [&](auto source) {
    using Source = decltype(source);
    const PixelGroups<Source::kPixels> groups{logits.sizes[0], size.height, size.width / Source::kPixels};
    launch(update_sums<Source>, blocks_for(groups.count(), kStreamThreads), kStreamThreads,
           kStreamThreads / kWarp * source.warp_bytes(), as_cuda(stream), source, groups,
           static_cast<float*>(sum_p.data), static_cast<float*>(sum_entropy.data));
  });
}

void bald_carry(const TensorView& sums, const TensorView& totals, Stream stream) {
  const OnDevice here(sums.device);
  int64_t count = 1;
  for (int i = 0; i < sums.ndim; ++i) count *= sums.sizes[i];
  launch(carry_sums, blocks_for(count, kStreamThreads), kStreamThreads, 0, as_cuda(stream),
         static_cast<float*>(sums.data), static_cast<float*>(totals.data), count);
}

void bald_compute(const TensorView& sum_p, const TensorView& sum_entropy, int64_t passes, Extent region_size,
                  bool keep_edge, const TensorView& bald_map, const TensorView& region_sum,
                  const TensorView& class_hist, const TensorView& scratch, Stream stream) {
  const OnDevice here(bald_map.device);
  const Extent size{sum_p.sizes[2], sum_p.sizes[3]};
  const Slices slices(RegionGrid(size, region_size, keep_edge), sum_p.sizes[0], sum_p.sizes[1]);
  const Scratch parts(1, slices, scratch.data);
  const PixelOutputs out{static_cast<float*>(bald_map.data), parts.label, size.height, size.width,
                         1 / static_cast<float>(passes)};
  const PixelGroups<1> groups{sum_p.sizes[0], size.height, size.width};
  launch(score_sums, blocks_for(groups.count(), kStreamThreads), kStreamThreads, 0, as_cuda(stream),
         StridedLogits<float>{LogitView(sum_p, size, false)}, static_cast<const float*>(sum_entropy.data),
         groups, out);
  score_regions(slices, parts, bald_map, region_sum, class_hist, stream);
}

}  // namespace ralx::RALX_ISA
