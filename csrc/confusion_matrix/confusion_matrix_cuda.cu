// The class of a pixel takes C loads and comparisons and one addition to a table, so the speed is that of
// memory: 16-byte loads, of all classes at once where their number is a usual one, keep many bytes in flight.
// A block counts in tables in shared memory, one for each warp where they fit, or else in `counts` itself.
// Neighbouring pixels are of one class as a rule, and the hardware adds up equal addresses of one warp before
// it writes them. The kernel that clears the sum lets the counting kernel start at once. docs/gpu.md tells
// where the time goes.
#include "common/gpu/cuda.h"
#include "common/gpu/label_pixels.h"
#include "common/gpu/largest_logit.h"
#include "common/gpu/logit_pixels.h"
#include "confusion_matrix/confusion_matrix.h"

namespace ralx::RALX_ISA {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// Blocks of a multiprocessor at once; with more there would be too few registers for the logits that are
// loaded ahead.
constexpr int kLabelBlocks = 8;
template <typename Source>
constexpr int kBlocks = Source::kClasses > 0    ? 3
                        : Source::kInterpolates ? 4
                                                : 5;

// The tables in which a block counts.
struct Table {
  int classes;
  int32_t ignored;             // the class that is ignored; -1: none
  int copies;                  // tables in shared memory; 0: the block counts in the sum
  unsigned long long* counts;  // [C, C], the sum of all blocks

  RALX_HD size_t bytes() const { return sizeof(uint32_t) * static_cast<size_t>(copies) * cells(); }
  RALX_HD int32_t cells() const { return classes * classes; }

  __device__ void clear() const {
    if (copies == 0) wait_for_kernel_before();
    uint32_t* own = dynamic_shared<uint32_t>();
    for (int64_t i = threadIdx.x; i < copies * cells(); i += kThreads) own[i] = 0;
    __syncthreads();
  }

  template <int kPixels>
  __device__ void add(const int32_t (&target)[kPixels], const int32_t (&predicted)[kPixels]) const {
    if (copies > 0) {
      const uint32_t copy = copies > 1 ? threadIdx.x / kWarp : 0;
      uint32_t* const own = dynamic_shared<uint32_t>() + copy * cells();
      each_cell(target, predicted, [&](int32_t cell) { atomicAdd(&own[cell], 1u); });
    } else {
      each_cell(target, predicted, [&](int32_t cell) { atomicAdd(&counts[cell], 1ull); });
    }
  }

  // Adds the block's counts to the sum, which is zero once clear_sum() has ended.
  __device__ void flush() const {
    if (copies == 0) return;
    __syncthreads();
    wait_for_kernel_before();
    const uint32_t* own = dynamic_shared<uint32_t>();
    for (int64_t i = threadIdx.x; i < cells(); i += kThreads) {
      uint32_t sum = 0;
      for (int copy = 0; copy < copies; ++copy) sum += own[copy * cells() + i];
      if (sum > 0) atomicAdd(&counts[i], static_cast<unsigned long long>(sum));
    }
  }

 private:
  template <int kPixels, typename Count>
  __device__ void each_cell(const int32_t (&target)[kPixels], const int32_t (&predicted)[kPixels],
                            const Count& count) const {
    const auto inside = [&](int32_t label) {
      return static_cast<uint32_t>(label) < static_cast<uint32_t>(classes);
    };
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i)
      if (inside(target[i]) && inside(predicted[i]) && target[i] != ignored)
        count(target[i] * classes + predicted[i]);
  }
};

// Lets the counting kernel start at once; that kernel waits before it adds to the sum.
__global__ void clear_sum(unsigned long long* counts, int64_t cells) {
  let_next_kernel_start();
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < cells; i += step)
    counts[i] = 0;
}

template <typename Source>
__global__ void __launch_bounds__(kThreads, kBlocks<Source>)
    count_logits(Source source, LabelPixels target, PixelGroups<Source::kPixels> groups, Table table) {
  constexpr int kPixels = Source::kPixels;
  float* const warp = warp_memory(source, table.bytes());
  table.clear();
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    const auto at = source.at(0, n, y, x, wanted, warp);
    if (!wanted) return;
    int32_t targets[kPixels];
    target.read(n, y, x, targets);  // before the logits are waited for, so that all arrive together
    int32_t label[kPixels];
    predict(source, at, label);
    table.add(targets, label);
  });
  table.flush();
}

__global__ void __launch_bounds__(kThreads)
    count_labels(LabelPixels prediction, LabelPixels target, PixelGroups<1> groups, Table table) {
  table.clear();
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    if (!wanted) return;
    int32_t predicted[1], targets[1];
    prediction.read(n, y, x, predicted);
    target.read(n, y, x, targets);
    table.add(targets, predicted);
  });
  table.flush();
}

// A table for each warp where all of them are small, else one for the block, or none where even one is too
// large.
Table make_table(int classes, int64_t ignore_index, const TensorView& counts) {
  const int32_t ignored =
      ignore_index >= 0 && ignore_index < classes ? static_cast<int32_t>(ignore_index) : -1;
  Table table{classes, ignored, 1, static_cast<unsigned long long*>(counts.data)};
  if (table.bytes() * kWarps <= kUsualShared / 2)
    table.copies = kWarps;
  else if (table.bytes() > most_shared() / 2)
    table.copies = 0;
  return table;
}

unsigned grid_for(int64_t groups, int blocks) {
  const int64_t most = static_cast<int64_t>(multiprocessors()) * blocks;
  return static_cast<unsigned>(min_of(blocks_for(groups, kThreads), most));
}

}  // namespace

void confusion_matrix(const TensorView& prediction, const TensorView& target, const TensorView& counts,
                      int64_t ignore_index, bool align_corners, Stream stream) {
  const OnDevice here(counts.device);
  const int64_t images = target.sizes[0];
  const Extent size{target.sizes[1], target.sizes[2]};
  const Table table = make_table(static_cast<int>(counts.sizes[0]), ignore_index, counts);
  launch(clear_sum, grid_for(table.cells(), 1), kThreads, 0, as_cuda(stream), table.counts, table.cells());
  if (prediction.ndim == 3) {
    const PixelGroups<1> groups{images, size.height, size.width};
    launch_overlapping(count_labels, grid_for(groups.count(), kLabelBlocks), kThreads, table.bytes(),
                       as_cuda(stream), LabelPixels(prediction), LabelPixels(target), groups, table);
    return;
  }
  const auto count = [&](auto source) {
    using Source = decltype(source);
    const PixelGroups<Source::kPixels> groups{images, size.height, size.width / Source::kPixels};
    launch_overlapping(count_logits<Source>, grid_for(groups.count(), kBlocks<Source>), kThreads,
                       table.bytes() + kWarps * source.warp_bytes(), as_cuda(stream), source,
                       LabelPixels(target), groups, table);
  };
  dispatch_logits(LogitView(prediction, size, align_corners),
                  [&](auto source) { with_classes<8>(source, count); });
}

}  // namespace ralx::RALX_ISA
