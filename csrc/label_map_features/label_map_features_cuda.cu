// The pixels of a region may lie anywhere, so all threads add to one set of totals with atomic operations.
// The totals are integers, so that no result depends on the order of the additions. Three things keep the
// number of atomic operations below one a pixel: a thread first adds up those of its neighbouring pixels that
// are of one region; a warp counts its pixels of one region and class together; and the lowest and highest
// entropies, which seldom change, are read before they are replaced.
#include "common/gpu/cuda.h"
#include "common/gpu/impurity_map.h"
#include "common/gpu/label_pixels.h"
#include "common/gpu/pixel_scores.h"
#include "common/scores.h"
#include "label_map_features/fixed_point.h"
#include "label_map_features/label_map_features.h"

namespace ralx::RALX_ISA {
namespace {

constexpr int kThreads = 128, kBlocksPerMultiprocessor = 3;

// Entropies, which are >= 0 or NaN, as integers > 0: high_key() keeps their order, low_key() reverses it. NaN
// has the highest key of both.
constexpr uint32_t kNaNKey = 0xffffffffu, kZeroKey = 0x80000000u;
RALX_HD uint32_t high_key(float entropy) {
  return entropy == entropy ? kZeroKey + (bit_cast<uint32_t>(entropy) & ~kZeroKey) : kNaNKey;
}
RALX_HD uint32_t low_key(float entropy) {
  return entropy == entropy ? kZeroKey - (bit_cast<uint32_t>(entropy) & ~kZeroKey) : kNaNKey;
}
RALX_HD float from_high(uint32_t key) {
  return key == kNaNKey ? __builtin_nanf("") : bit_cast<float>(key - kZeroKey);
}
RALX_HD float from_low(uint32_t key) {
  return key == kNaNKey ? __builtin_nanf("") : bit_cast<float>(kZeroKey - key);
}

// The pixels of one region that a thread has seen in its current group.
struct Sums {
  uint32_t low = 0, high = 0;
  int64_t of_kind[4] = {};

  template <bool kScored, int kPixels>
  __device__ void add(const Measured<kPixels>& pixels, int i, float impurity) {
    const float entropy = pixels.entropy[i];
    const uint32_t pixel_low = low_key(entropy), pixel_high = high_key(entropy);
    low = pixel_low > low ? pixel_low : low;
    high = pixel_high > high ? pixel_high : high;
    of_kind[0] += to_fixed(entropy);
    if constexpr (!kScored) return;
    of_kind[1] += to_fixed(pixels.margin[i]);
    of_kind[2] += to_fixed(pixels.least_confidence[i]);
    of_kind[3] += to_fixed(impurity * entropy);
  }
};

// The totals of all regions of all images; their memory is zero at first.
struct Totals {
  int64_t images, regions;
  int classes, kinds;
  Scores scores;
  unsigned long long* sums;  // [kinds, N, R]
  uint32_t *low, *high;      // [N, R]
  uint32_t* counts;          // [N, R, C]

  Totals(const LogitView& logits, int64_t regions, const Scores& scores)
      : images(logits.images), regions(regions), classes(logits.classes),
        kinds(static_cast<int>(1 + count(scores))), scores(scores) {}

  RALX_HD int64_t all() const { return images * regions; }
  int64_t used_bytes() const { return all() * (8 * kinds + 4 * (2 + static_cast<int64_t>(classes))); }
  int64_t bytes() const { return (used_bytes() + 7) / 8 * 8; }

  void use(void* memory) {
    sums = static_cast<unsigned long long*>(memory);
    low = reinterpret_cast<uint32_t*>(sums + kinds * all());
    high = low + all();
    counts = high + all();
  }

  // Adds to region r, which is numbered through all images.
  __device__ void add(int64_t r, const Sums& more) const {
    if (more.low > low[r]) atomicMax(&low[r], more.low);
    if (more.high > high[r]) atomicMax(&high[r], more.high);
    unsigned long long* sum = sums + r;
    const auto put = [&](bool wanted, int64_t value) {
      if (!wanted) return;
      atomicAdd(sum, static_cast<unsigned long long>(value));
      sum += all();
    };
    put(true, more.of_kind[0]);
    put(scores.margin, more.of_kind[1]);
    put(scores.least_confidence, more.of_kind[2]);
    put(scores.neighbourhood > 0, more.of_kind[3]);
  }

  // Counts a pixel of region r, or of no region where r < 0. All lanes of a warp call this together.
  __device__ void count_class(int64_t r, int32_t label) const {
    const int64_t place = r < 0 ? -1 : r * classes + label;
    const unsigned equal = __match_any_sync(kWholeWarp, place);
    if (place >= 0 && __ffs(static_cast<int>(equal)) - 1 == static_cast<int>(threadIdx.x % kWarp))
      atomicAdd(&counts[place], static_cast<uint32_t>(__popc(equal)));
  }
};

template <typename Source, bool kScored>
__global__ void __launch_bounds__(kThreads, Source::kInterpolates ? 2 : kBlocksPerMultiprocessor)
    measure_pixels(Source source, PixelGroups<Source::kPixels> groups, LabelPixels map, Totals totals,
                   ImpurityMap impurity) {
  constexpr int kPixels = Source::kPixels;
  float* const warp = warp_memory(source, 0);
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    const auto at = source.at(0, n, y, x, wanted, warp);
    Measured<kPixels> pixels;
    measure_all<kScored>(source, at, pixels);
    int64_t region[kPixels];
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const int64_t r = map.read(n, y, x + i);
      region[i] = wanted && r >= 0 && r < totals.regions ? n * totals.regions + r : -1;
      totals.count_class(region[i], pixels.label[i]);
    }
    Sums sums;
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      if (region[i] < 0) continue;
      sums.template add<kScored>(pixels, i, kScored ? impurity.at(n, y, x + i) : 0);
      if (i + 1 < kPixels && region[i + 1] == region[i]) continue;
      totals.add(region[i], sums);
      sums = Sums();
    }
  });
}

// Each warp writes a region.
__global__ void __launch_bounds__(kThreads) write_regions(Totals totals, RegionOutputs out) {
  const int64_t r = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (r >= totals.all()) return;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const uint32_t* counts = totals.counts + r * totals.classes;
  uint32_t pixels = 0;
  for (int c = lane; c < totals.classes; c += static_cast<int>(kWarp)) pixels += counts[c];
  for (int step = 1; step < static_cast<int>(kWarp); step *= 2)
    pixels += __shfl_xor_sync(kWholeWarp, pixels, step);
  const double area = pixels > 0 ? pixels : 1;
  for (int c = lane; c < totals.classes; c += static_cast<int>(kWarp))
    out.class_hist[r * totals.classes + c] = static_cast<float>(counts[c] / area);
  if (lane > 0) return;
  const double bad = totals.low[r] == kNaNKey ? __builtin_nan("") : 0;
  for (int kind = 0; kind < totals.kinds; ++kind) {
    const auto units = static_cast<int64_t>(totals.sums[kind * totals.all() + r]);
    const double sum = static_cast<double>(units) * kFixedUnit + bad;
    if (kind == 0) out.entropy_avg[r] = static_cast<float>(sum / area);
    (kind == 0 ? out.entropy_sum : out.score_sum + (kind - 1) * totals.all())[r] = static_cast<float>(sum);
  }
  out.entropy_min[r] = pixels > 0 ? from_low(totals.low[r]) : 0;
  out.entropy_max[r] = pixels > 0 ? from_high(totals.high[r]) : 0;
  out.pixel_count[r] = pixels;
}

}  // namespace

int64_t label_map_features_scratch(const TensorView& logits, const TensorView& regions, int64_t num_regions,
                                   const Scores& scores) {
  const OnDevice here(logits.device);
  const LogitView view(logits, {regions.sizes[1], regions.sizes[2]}, false);
  return Totals(view, num_regions, scores).bytes() + ImpurityMap(view, scores).bytes();
}

void label_map_features(const TensorView& logits, const TensorView& regions, bool align_corners,
                        const Scores& scores, const RegionOutputs& out, const TensorView& scratch,
                        Stream stream) {
  const OnDevice here(logits.device);
  const LogitView view(logits, {regions.sizes[1], regions.sizes[2]}, align_corners);
  Totals totals(view, out.regions, scores);
  if (totals.all() == 0) return;
  totals.use(scratch.data);
  set_zero(scratch.data, static_cast<size_t>(totals.used_bytes()), as_cuda(stream));
  ImpurityMap impurity(view, scores);
  impurity.use(static_cast<char*>(scratch.data) + totals.bytes());
  make_impurity(view, impurity, as_cuda(stream));
  const auto measure = [&](auto source) {
    using Source = decltype(source);
    const PixelGroups<Source::kPixels> groups{view.images, view.size.height,
                                              view.size.width / Source::kPixels};
    const int64_t most = multiprocessors() * static_cast<int64_t>(kBlocksPerMultiprocessor);
    const auto kernel = totals.kinds > 1 ? measure_pixels<Source, true> : measure_pixels<Source, false>;
    launch(kernel, static_cast<unsigned>(min_of(blocks_for(groups.count(), kThreads), most)), kThreads,
           kThreads / kWarp * source.warp_bytes(), as_cuda(stream), source, groups, LabelPixels(regions),
           totals, impurity);
  };
  // The classes come in the chunks in which region_features takes them, so that both ops have equal entropies
  // to the last bit.
  dispatch_logits(view, [&](auto source) { with_classes<kPixelsOfThread>(source, measure); });
  launch(write_regions, blocks_for(totals.all(), kThreads / kWarp), kThreads, 0, as_cuda(stream), totals,
         out);
}

}  // namespace ralx::RALX_ISA
