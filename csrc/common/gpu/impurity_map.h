// The impurity of every pixel on a GPU, made before the pass that sums up impurities: a window reaches beyond
// its region, so the classes of all pixels have to be predicted first, at the price of a second read of the
// logits.
#pragma once

#include <cstdint>

#include "common/gpu/cuda.h"
#include "common/gpu/largest_logit.h"
#include "common/gpu/logit_pixels.h"
#include "common/scores.h"

namespace ralx::RALX_ISA {

constexpr int kPredictThreads = 256;

// Memory and sizes of the maps; `images` is 0 where no impurity is wanted.
struct ImpurityMap {
  int64_t images;
  int32_t height, width, classes, reach;  // `reach`: pixels from a window's centre to its edge
  bool in_shared;                         // whether the counts of the windows lie in shared memory
  int64_t* log_table;                     // [(2 reach + 1)² + 1]: c_log_c(c)
  int32_t* labels;                        // [N, H, W]
  float* impurity;                        // [N, H, W]
  uint16_t* counts;                       // [blocks, C, kWarp], unless in_shared

  ImpurityMap(const LogitView& logits, const Scores& scores)
      : images(scores.neighbourhood > 0 ? logits.images : 0),
        height(static_cast<int32_t>(logits.size.height)), width(static_cast<int32_t>(logits.size.width)),
        classes(logits.classes), reach(static_cast<int32_t>(scores.neighbourhood / 2)),
        in_shared(count_bytes() <= most_shared()) {}

  RALX_HD int64_t pixels() const { return images * height * width; }
  RALX_HD int64_t largest_window() const { return (2 * reach + 1) * (2 * reach + 1); }
  size_t count_bytes() const { return sizeof(uint16_t) * kWarp * static_cast<size_t>(classes); }

  // How many rows a lane goes down: so many that counting its first window is no great part of the work.
  RALX_HD int32_t run() const { return reach > 16 ? 2 * reach : 32; }
  RALX_HD int64_t strips() const { return (width + 31) / 32; }
  RALX_HD int64_t runs() const { return images * strips() * ((height + run() - 1) / run()); }
  unsigned blocks() const {
    return static_cast<unsigned>(min_of(runs(), multiprocessors() * (in_shared ? 64 : 1)));
  }

  // Bytes of scratch memory, a multiple of 8.
  int64_t bytes() const {
    if (images == 0) return 0;
    const auto counted = in_shared ? 0 : static_cast<int64_t>(count_bytes()) * blocks();
    return 8 * (largest_window() + 1) + 8 * pixels() + counted;
  }

  void use(void* memory) {
    log_table = static_cast<int64_t*>(memory);
    labels = reinterpret_cast<int32_t*>(log_table + largest_window() + 1);
    impurity = reinterpret_cast<float*>(labels + pixels());
    counts = reinterpret_cast<uint16_t*>(impurity + pixels());
  }

  // The impurity of a pixel; 0 where no impurity is wanted.
  __device__ float at(int64_t n, int64_t y, int64_t x) const {
    return images == 0 ? 0 : impurity[(n * height + y) * width + x];
  }
};

template <typename Source>
__global__ void __launch_bounds__(kPredictThreads, 2)
    predict_classes(Source source, PixelGroups<Source::kPixels> groups, ImpurityMap map) {
  constexpr int kPixels = Source::kPixels;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPredictThreads + threadIdx.x;
       i <= map.largest_window(); i += static_cast<int64_t>(gridDim.x) * kPredictThreads)
    map.log_table[i] = c_log_c(i);
  float* const warp = warp_memory(source, 0);
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    const auto at = source.at(0, n, y, x, wanted, warp);
    if (!wanted) return;
    int32_t label[kPixels];
    predict(source, at, label);
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) map.labels[(n * map.height + y) * map.width + x + i] = label[i];
  });
}

// The counts of the classes in one lane's window, and Σ c ln c over these counts.
class Window {
 public:
  __device__ Window(const ImpurityMap& map, uint16_t* counts) : map_(map), counts_(counts) {}

  // Adds (step = 1) or removes (step = -1) pixels begin .. end - 1 of a row.
  __device__ void add(const int32_t* labels, int32_t begin, int32_t end, int step) {
    for (int32_t x = begin; x < end; ++x) {
      uint16_t& place = counts_[labels[x] * static_cast<int64_t>(kWarp)];
      const int count = place, now = count + step;
      sum_ += map_.log_table[now] - map_.log_table[count];
      place = static_cast<uint16_t>(now);
    }
    pixels_ += step * (end - begin);
  }

  __device__ float impurity() const {
    return static_cast<float>(impurity_of(pixels_, map_.log_table[pixels_], sum_));
  }

 private:
  const ImpurityMap& map_;
  uint16_t* const counts_;
  int64_t sum_ = 0;
  int32_t pixels_ = 0;
};

// Each lane goes down a column of the image: with each pixel, its window gains a row below and loses a row
// above.
template <int kLanes>
__global__ void __launch_bounds__(kLanes) measure_windows(ImpurityMap map) {
  const int lane = static_cast<int>(threadIdx.x);
  uint16_t* const counts = map.in_shared
                               ? dynamic_shared<uint16_t>()
                               : map.counts + static_cast<int64_t>(blockIdx.x) * map.classes * kLanes;
  for (int64_t c = 0; c < map.classes; ++c) counts[c * kLanes + lane] = 0;
  for (int64_t i = blockIdx.x; i < map.runs(); i += gridDim.x) {
    const int64_t n = i / map.strips() % map.images;
    const auto x = static_cast<int32_t>(i % map.strips()) * kLanes + lane;
    const auto top = static_cast<int32_t>(i / map.strips() / map.images) * map.run();
    if (x >= map.width) continue;
    const auto first = [&](int32_t place) { return place > map.reach ? place - map.reach : 0; };
    const auto last = [&](int32_t place, int32_t size) {
      return place + map.reach < size ? place + map.reach + 1 : size;
    };
    const int32_t left = first(x), right = last(x, map.width);
    const int32_t bottom = top + map.run() < map.height ? top + map.run() : map.height;
    const auto row = [&](int32_t y) { return map.labels + (n * map.height + y) * map.width; };
    Window window(map, counts + lane);
    int32_t begin = first(top), end = begin;  // the window has rows begin .. end - 1
    for (int32_t y = top; y < bottom; ++y) {
      // The rows above go first, or a count could be too large for the table.
      for (; begin < first(y); ++begin) window.add(row(begin), left, right, -1);
      for (; end < last(y, map.height); ++end) window.add(row(end), left, right, 1);
      map.impurity[(n * map.height + y) * map.width + x] = window.impurity();
    }
    for (; begin < end; ++begin) window.add(row(begin), left, right, -1);
  }
}

// Computes the impurity of all pixels.
inline void make_impurity(const LogitView& logits, const ImpurityMap& map, cudaStream_t stream) {
  if (map.pixels() == 0) return;
  dispatch_logits(logits, [&](auto source) {
    using Source = decltype(source);
    const PixelGroups<Source::kPixels> groups{map.images, map.height, map.width / Source::kPixels};
    const int64_t blocks = min_of(blocks_for(groups.count(), kPredictThreads), multiprocessors() * 4);
    launch(predict_classes<Source>, static_cast<unsigned>(blocks), kPredictThreads,
           kPredictThreads / kWarp * source.warp_bytes(), stream, source, groups, map);
  });
  launch(measure_windows<static_cast<int>(kWarp)>, map.blocks(), kWarp, map.in_shared ? map.count_bytes() : 0,
         stream, map);
}

}  // namespace ralx::RALX_ISA
