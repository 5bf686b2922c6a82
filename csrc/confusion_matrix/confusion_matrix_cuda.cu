// The class of a pixel takes C loads and comparisons and one addition to a table, so this is a question of
// memory: 16-byte loads, eight classes ahead, keep about 100 KB a multiprocessor in flight. The table lies in
// shared memory, one for each warp where they fit, or else in `counts` itself; neighbours are of one class as
// a rule, and equal addresses of one warp are added up by the hardware before they are written.
#include "common/cuda.h"
#include "common/label_pixels.h"
#include "common/logit_pixels.h"
#include "confusion_matrix/confusion_matrix.h"

namespace ralx::RALX_ISA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kBlocksPerMultiprocessor = 4;

// Where a block counts.
struct Table {
  int classes;
  int copies;                  // in shared memory; 0: it counts in the sum
  unsigned long long* counts;  // [C, C], the sum of all blocks

  RALX_HD size_t bytes() const { return sizeof(uint32_t) * static_cast<size_t>(copies) * cells(); }
  RALX_HD int64_t cells() const { return classes * classes; }

  __device__ void clear() const {
    uint32_t* own = dynamic_shared<uint32_t>();
    for (int64_t i = threadIdx.x; i < copies * cells(); i += kThreads) own[i] = 0;
    __syncthreads();
  }

  __device__ void add(int64_t target, int64_t predicted) const {
    const int64_t cell = target * classes + predicted;
    if (copies == 0) {
      atomicAdd(&counts[cell], 1ull);
      return;
    }
    const int copy = static_cast<int>(threadIdx.x) / static_cast<int>(kWarp) % copies;
    atomicAdd(&dynamic_shared<uint32_t>()[copy * cells() + cell], 1u);
  }

  __device__ void flush() const {
    if (copies == 0) return;
    __syncthreads();
    const uint32_t* own = dynamic_shared<uint32_t>();
    for (int64_t i = threadIdx.x; i < cells(); i += kThreads) {
      uint32_t sum = 0;
      for (int copy = 0; copy < copies; ++copy) sum += own[copy * cells() + i];
      if (sum > 0) atomicAdd(&counts[i], static_cast<unsigned long long>(sum));
    }
  }
};

template <typename Source>
__global__ void __launch_bounds__(kThreads, 2)
    count_logits(Source source, LabelPixels target, PixelGroups<Source::kPixels> groups, Table table,
                 int64_t ignore_index) {
  constexpr int kPixels = Source::kPixels;
  float* const warp = warp_memory(source, table.bytes());
  table.clear();
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    const auto at = source.at(0, n, y, x, wanted, warp);
    if (!wanted) return;
    int32_t label[kPixels];
    predict(source, at, label);
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const int64_t wanted_class = target.read(n, y, x + i);
      if (wanted_class != ignore_index && wanted_class >= 0 && wanted_class < table.classes)
        table.add(wanted_class, label[i]);
    }
  });
  table.flush();
}

__global__ void __launch_bounds__(kThreads)
    count_labels(LabelPixels prediction, LabelPixels target, PixelGroups<1> groups, Table table,
                 int64_t ignore_index) {
  table.clear();
  groups.each([&](int64_t n, int64_t y, int64_t x, bool wanted) {
    if (!wanted) return;
    const int64_t wanted_class = target.read(n, y, x), predicted = prediction.read(n, y, x);
    const auto inside = [&](int64_t c) { return c >= 0 && c < table.classes; };
    if (wanted_class != ignore_index && inside(wanted_class) && inside(predicted))
      table.add(wanted_class, predicted);
  });
  table.flush();
}

// One table a warp where they take no more than a block has without asking, else one a block, else none.
Table make_table(int classes, const TensorView& counts) {
  Table table{classes, 1, static_cast<unsigned long long*>(counts.data)};
  if (table.bytes() * kWarps <= kUsualShared / 2)
    table.copies = kWarps;
  else if (table.bytes() > most_shared() / 2)
    table.copies = 0;
  return table;
}

unsigned grid_for(int64_t groups) {
  const int64_t most = static_cast<int64_t>(multiprocessors()) * kBlocksPerMultiprocessor;
  return static_cast<unsigned>(min_of(blocks_for(groups, kThreads), most));
}

}  // namespace

void confusion_matrix(const TensorView& prediction, const TensorView& target, const TensorView& counts,
                      int64_t ignore_index, bool align_corners, Stream stream) {
  const OnDevice here(counts.device);
  const int64_t images = target.sizes[0];
  const Extent size{target.sizes[1], target.sizes[2]};
  const Table table = make_table(static_cast<int>(counts.sizes[0]), counts);
  set_zero(counts.data, sizeof(int64_t) * static_cast<size_t>(table.cells()), as_cuda(stream));
  if (prediction.ndim == 3) {
    const PixelGroups<1> groups{images, size.height, size.width};
    launch(count_labels, grid_for(groups.count()), kThreads, table.bytes(), as_cuda(stream),
           LabelPixels(prediction), LabelPixels(target), groups, table, ignore_index);
    return;
  }
  dispatch_logits(LogitView(prediction, size, align_corners), [&](auto source) {
    using Source = decltype(source);
    const PixelGroups<Source::kPixels> groups{images, size.height, size.width / Source::kPixels};
    launch(count_logits<Source>, grid_for(groups.count()), kThreads,
           table.bytes() + kWarps * source.warp_bytes(), as_cuda(stream), source, LabelPixels(target), groups,
           table, ignore_index);
  });
}

}  // namespace ralx::RALX_ISA
