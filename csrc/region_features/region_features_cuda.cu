// measure_units(): a block takes a unit, which is some rows of cells of one region, or a piece of a large
// cell. Its threads measure the pixels (common/gpu/pixel_scores.h) and write their entropies to shared
// memory, from where pool() pools the cells, always in one order and without atomic operations. add_up(),
// whose launch overlaps measure_units(), adds up the sums and class counts of each region's units.
// merge_pieces() makes cells of their pieces. docs/gpu.md tells where the time goes.
#include <type_traits>

#include "common/gpu/cuda.h"
#include "common/gpu/fast_math.h"
#include "common/gpu/impurity_map.h"
#include "common/gpu/pixel_scores.h"
#include "common/region_grid.h"
#include "common/scores.h"
#include "region_features/region_features.h"

namespace ralx::RALX_ISA {
namespace {

constexpr int kThreads = 64, kWarps = kThreads / static_cast<int>(kWarp);

// Pixels of a unit: enough to be worth a block, few enough that there are blocks for all multiprocessors.
constexpr int64_t kFewestPixels = 1024, kMostPixels = 4096, kWidest = 2048;
constexpr int64_t kUnitsPerMultiprocessor = 8;
constexpr int kPixelsOfLane = 16;  // pixels of a cell for each lane that pools it

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
RALX_HD int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }
RALX_HD int32_t most(int32_t a, int32_t b) { return a > b ? a : b; }

// A part of one axis of a region: its pixels, counted from the region's edge, and the cells to which they
// belong.
struct Part {
  int32_t begin, count, first_cell, cells;
};

// One axis of a region, its rows or its columns, cut into parts for blocks: a part is some cells, or a piece
// of one cell. The remainder behind the last cell makes more cells, which are in no output.
struct Axis {
  int32_t cell;      // pixels of a cell
  int32_t wanted;    // cells that are asked for
  int32_t all;       // cells, with those of the remainder
  int32_t together;  // cells of a part
  int32_t pieces;    // parts of a cell
  int32_t piece;     // pixels of such a part
  int32_t parts;     // parts of the axis

  Axis(int64_t length, int64_t cells, int64_t part_pixels)
      : cell(static_cast<int32_t>(length / cells)), wanted(static_cast<int32_t>(cells)),
        all(static_cast<int32_t>((length + cell - 1) / cell)) {
    const auto most_pixels = static_cast<int32_t>(min_of(part_pixels, length));
    together = least(most(1, most_pixels / cell), all);
    const int32_t cuts = (cell + most_pixels - 1) / most_pixels;
    piece = (cell + cuts - 1) / cuts;
    pieces = (cell + piece - 1) / piece;
    parts = pieces > 1 ? all * pieces : (all + together - 1) / together;
  }

  int32_t most_pixels() const { return pieces > 1 ? piece : together * cell; }

  // Part i of a region of which `length` pixels lie in the image.
  RALX_HD Part part(int32_t i, int32_t length) const {
    const int32_t first = pieces > 1 ? i / pieces : i * together, cells = least(together, all - first);
    const int32_t begin = least(first * cell + (pieces > 1 ? i % pieces * piece : 0), length);
    const int32_t end = pieces > 1 ? least(begin + piece, (first + 1) * cell) : (first + cells) * cell;
    return {begin, most(0, least(end, length) - begin), first, cells};
  }

  // Pixels of cell i of a region of which `length` pixels lie in the image.
  RALX_HD int32_t size(int32_t i, int32_t length) const {
    return most(0, least((i + 1) * cell, length) - i * cell);
  }
};

struct Stats {
  float min, max;  // NaN stays NaN
  double sum;

  __device__ void add(float entropy) { merge({entropy, entropy, static_cast<double>(entropy)}); }

  // Adds the entropies at first[0], first[step], first[2 · step] and first[3 · step].
  __device__ void add_four(const float* first, int step) {
    const float a = first[0], b = first[step], c = first[2 * step], d = first[3 * step];
    min = smaller_or_nan(smaller_or_nan(min, smaller_or_nan(a, b)), smaller_or_nan(c, d));
    max = larger_or_nan(larger_or_nan(max, larger_or_nan(a, b)), larger_or_nan(c, d));
    sum += static_cast<double>((a + b) + (c + d));
  }

  __device__ void merge(const Stats& other) {
    min = smaller_or_nan(min, other.min);
    max = larger_or_nan(max, other.max);
    sum += other.sum;
  }

  // Merges the stats of each `lanes` neighbouring lanes. All lanes of the warp call this together.
  __device__ void merge_lanes(int lanes) {
    for (int step = 1; step < lanes; step *= 2)
      merge({__shfl_xor_sync(kWholeWarp, min, step), __shfl_xor_sync(kWholeWarp, max, step),
             __shfl_xor_sync(kWholeWarp, sum, step)});
  }
};

RALX_HD Stats no_stats() { return {__builtin_huge_valf(), -__builtin_huge_valf(), 0}; }

// Writes cell number i of all regions.
__device__ inline void set_cell(const RegionOutputs& out, int64_t i, const Stats& stats, int64_t area) {
  out.entropy_min[i] = area > 0 ? stats.min : 0;
  out.entropy_avg[i] = area > 0 ? static_cast<float>(stats.sum) / static_cast<float>(area) : 0;
  out.entropy_max[i] = area > 0 ? stats.max : 0;
}

// How the regions are cut into units [N, R, parts of y, parts of x], and how much memory a unit takes.
struct Plan {
  RegionGrid grid;
  int64_t images;
  int classes, kinds;
  Scores scores;
  Axis y, x;
  int64_t tile_bytes;  // bytes of a unit's entropies in shared memory
  int copies;          // a block's tables of class counts in shared memory; 0: it counts in Scratch::counts
  int lanes, across;   // lanes that pool a cell together, `across` of them in a row; powers of 2

  Plan(const LogitView& logits, Extent region, bool keep_edge, Extent cells, const Scores& scores)
      : grid(logits.size, region, keep_edge), images(logits.images), classes(logits.classes),
        kinds(static_cast<int>(1 + count(scores))), scores(scores),
        y(region.height, cells.height, rows_of_unit(logits, region, region.height / cells.height)),
        x(region.width, cells.width, kWidest),
        tile_bytes(round_up(static_cast<int64_t>(sizeof(float)) * y.most_pixels() * x.most_pixels(), 16)) {
    const size_t table = sizeof(uint32_t) * static_cast<size_t>(classes);
    copies = table * kWarps <= kUsualShared / 8 ? kWarps : table <= kUsualShared / 2 ? 1 : 0;
    const int64_t width = least(x.cell, x.piece), pixels = width * least(y.cell, y.piece);
    lanes = across = 1;
    while (lanes < static_cast<int>(kWarp) && lanes * kPixelsOfLane < pixels) lanes *= 2;
    while (across < lanes && across * 2 <= width) across *= 2;
  }

  static int64_t rows_of_unit(const LogitView& logits, Extent region, int64_t cell) {
    const int64_t all = logits.images * logits.size.height * logits.size.width;
    const int64_t shared_out = all / (kUnitsPerMultiprocessor * multiprocessors());
    const int64_t pixels = shared_out < kFewestPixels ? kFewestPixels : min_of(shared_out, kMostPixels);
    const int64_t width = min_of(region.width, kWidest);
    const int64_t rows = pixels / width > 0 ? pixels / width : 1;
    return rows < cell && cell * width <= kMostPixels ? cell : rows;
  }

  RALX_HD int64_t regions() const { return images * grid.rows * grid.cols; }
  RALX_HD int32_t units_of_region() const { return y.parts * x.parts; }
  RALX_HD int64_t units() const { return regions() * units_of_region(); }
  RALX_HD bool whole_cells() const { return y.pieces == 1 && x.pieces == 1; }
  RALX_HD int32_t cells_of_unit() const { return y.together * x.together; }
  RALX_HD int64_t kept_cells() const { return whole_cells() ? 0 : units() * cells_of_unit(); }

  RALX_HD int64_t table_bytes() const {
    return (static_cast<int64_t>(sizeof(uint32_t)) * copies * classes + 15) / 16 * 16;
  }

  // Bytes of a Scratch, whose pieces are 8-byte aligned.
  int64_t scratch_bytes() const {
    return kept_cells() * static_cast<int64_t>(sizeof(Stats)) + units() * kinds * 8 +
           round_up(units() * classes * 4, 8);
  }
};

// The numbers of the units that measure_units() leaves to the other kernels.
struct Scratch {
  Stats* cells;      // [units, cells_of_unit], of pieces of cells
  double* sums;      // [units, kinds]
  uint32_t* counts;  // [units, C]

  Scratch(const Plan& plan, void* data)
      : cells(static_cast<Stats*>(data)), sums(reinterpret_cast<double*>(cells + plan.kept_cells())),
        counts(reinterpret_cast<uint32_t*>(sums + plan.units() * plan.kinds)) {}
};

// Where a region lies; `region` numbers it through all images.
struct Place {
  int64_t region, image, row, col;
  int32_t height, width;  // of the region's part that lies in the image
};

// The divisions are of 32 bits, which take a fraction of the time; a grid has fewer than 2^32 blocks.
__device__ inline Place place_of(const Plan& plan, uint32_t region) {
  const RegionGrid& grid = plan.grid;
  const auto rows = static_cast<uint32_t>(grid.rows), cols = static_cast<uint32_t>(grid.cols);
  const uint32_t row = region / cols % rows, col = region % cols;
  return {region,
          region / cols / rows,
          row,
          col,
          static_cast<int32_t>(grid.height(row)),
          static_cast<int32_t>(grid.width(col))};
}

struct Unit {
  Place place;
  Part y, x;
  int64_t top, left;  // of the part, in the image
};

// The unit of this block, in shared memory, where it takes no registers. All threads of the block call this
// together.
__device__ inline const Unit& unit_of_block(const Plan& plan) {
  __shared__ Unit unit;
  if (threadIdx.x == 0) {
    const auto of_region = static_cast<uint32_t>(plan.units_of_region());
    const auto part = static_cast<int32_t>(blockIdx.x % of_region);
    const Place place = place_of(plan, blockIdx.x / of_region);
    const Part y = plan.y.part(part / plan.x.parts, place.height);
    const Part x = plan.x.part(part % plan.x.parts, place.width);
    unit = {place, y, x, place.row * plan.grid.region.height + y.begin,
            place.col * plan.grid.region.width + x.begin};
  }
  __syncthreads();
  return unit;
}

// Counts the classes of a block's pixels.
class ClassTable {
 public:
  __device__ ClassTable(const Plan& plan, uint32_t* shared, uint32_t* sum)
      : classes_(plan.classes), copies_(plan.copies), shared_(shared), sum_(sum),
        own_(shared + (copies_ > 0 ? static_cast<int>(threadIdx.x / kWarp) % copies_ * classes_ : 0)) {
    if (copies_ == 0)
      for (int c = static_cast<int>(threadIdx.x); c < classes_; c += kThreads) sum_[c] = 0;
    for (int i = static_cast<int>(threadIdx.x); i < copies_ * classes_; i += kThreads) shared_[i] = 0;
    __syncthreads();
  }

  template <int kPixels>
  __device__ void add(const int32_t (&label)[kPixels], const bool (&wanted)[kPixels]) const {
    if (copies_ > 0) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i)
        if (wanted[i]) atomicAdd(&own_[label[i]], 1u);
    } else {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i)
        if (wanted[i]) atomicAdd(&sum_[label[i]], 1u);
    }
  }

  // Adds the tables to the block's counts, after a barrier.
  __device__ void flush() const {
    if (copies_ == 0) return;
    for (int c = static_cast<int>(threadIdx.x); c < classes_; c += kThreads) {
      uint32_t count = 0;
      for (int copy = 0; copy < copies_; ++copy) count += shared_[copy * classes_ + c];
      sum_[c] = count;
    }
  }

 private:
  const int classes_, copies_;
  uint32_t *const shared_, *const sum_, *const own_;
};

// The sum of `value` over the block's threads, always added in one order. All threads of the block call this
// together.
__device__ inline double block_sum(double value) {
  __shared__ double of_warp[kWarps];
  for (int step = 1; step < static_cast<int>(kWarp); step *= 2)
    value += __shfl_xor_sync(kWholeWarp, value, step);
  __syncthreads();  // all threads have read the sums of the last call
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = of_warp[0];
  for (int warp = 1; warp < kWarps; ++warp) sum += of_warp[warp];
  return sum;
}

// Pools the cells of a unit from the entropies of its pixels; returns the sum of the entropies that this
// thread has read.
__device__ inline double pool(const Plan& plan, const Scratch& scratch, const RegionOutputs& out,
                              const Unit& unit, const float* tile) {
  const auto lanes = static_cast<uint32_t>(plan.lanes), across = static_cast<uint32_t>(plan.across);
  const uint32_t in_cell = threadIdx.x & (lanes - 1), cells = unit.y.cells * unit.x.cells;
  const int lane_y = static_cast<int>(in_cell / across), lane_x = static_cast<int>(in_cell & (across - 1));
  const int down = static_cast<int>(lanes / across), pitch = unit.x.count;
  double total = 0;
  for (uint32_t first = threadIdx.x / kWarp * kWarp / lanes; first < cells; first += kThreads / lanes) {
    const uint32_t i = first + threadIdx.x % kWarp / lanes;
    const int row = unit.y.cells == 1 ? 0 : static_cast<int>(i / unit.x.cells);
    const int col = static_cast<int>(i) - row * unit.x.cells;
    const int top = row * plan.y.cell, left = col * plan.x.cell;
    const int height = i < cells ? least(plan.y.cell, unit.y.count - top) : 0;
    const int width = least(plan.x.cell, unit.x.count - left);
    Stats stats = no_stats();
    for (int x = lane_x; x < width; x += static_cast<int>(across)) {
      const float* entropy = tile + (top + lane_y) * pitch + left + x;
      int y = lane_y;
      for (; y + 3 * down < height; y += 4 * down, entropy += 4 * down * pitch)
        stats.add_four(entropy, down * pitch);
      for (; y < height; y += down, entropy += down * pitch) stats.add(*entropy);
    }
    total += stats.sum;
    stats.merge_lanes(plan.lanes);
    if (in_cell > 0 || i >= cells) continue;
    if (!plan.whole_cells()) {
      scratch.cells[static_cast<int64_t>(blockIdx.x) * plan.cells_of_unit() + i] = stats;
    } else if (unit.y.first_cell + row < plan.y.wanted && unit.x.first_cell + col < plan.x.wanted) {
      const int64_t output = (unit.place.region * plan.y.wanted + unit.y.first_cell + row) * plan.x.wanted;
      set_cell(out, output + unit.x.first_cell + col, stats,
               static_cast<int64_t>(most(0, height)) * most(0, width));
    }
  }
  return total;
}

// Calls visit(at, row, x) for each group of kPixels pixels in which pixels of the unit lie, with `row` and
// `x` counted from the unit's edge. Groups are counted from the image's edge, so that the first and the last
// group of a row may reach into other regions. Where kPixels is 1 the lanes of a warp may read together, so
// that a warp stays in a row.
template <typename Source, typename Visit>
__device__ void each_group(const Source& source, const Unit& unit, float* warp, const Visit& visit) {
  constexpr int kPixels = Source::kPixels, kLanes = static_cast<int>(kWarp);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int before = static_cast<int>(unit.left % kPixels);
  const int groups = (before + unit.x.count + kPixels - 1) / kPixels;
  const int of_row = most(1, kPixels > 1 ? groups : (groups + kLanes - 1) / kLanes * kLanes);
  const int total = unit.y.count * of_row, down = kThreads / of_row, along = kThreads % of_row;
  int row = static_cast<int>(threadIdx.x) / of_row, group = static_cast<int>(threadIdx.x) % of_row;
  for (int first = static_cast<int>(threadIdx.x) - lane; first < total; first += kThreads) {
    const bool wanted = row < unit.y.count && group < groups;
    const int y = wanted ? row : 0, x = (wanted ? group : 0) * kPixels - before;
    const auto at = source.at(0, unit.place.image, unit.top + y, unit.left + x, wanted, warp);
    if (wanted) visit(at, y, x);
    row += down;
    group += along;
    if (group >= of_row) {
      group -= of_row;
      ++row;
    }
  }
}

// The scores of a unit, summed over the pixels of one thread.
struct ScoreSums {
  double margin = 0, least_confidence = 0, impurity = 0;

  template <int kPixels>
  __device__ void add(const Measured<kPixels>& pixels, int i, double impurity_here) {
    margin += static_cast<double>(pixels.margin[i]);
    least_confidence += static_cast<double>(pixels.least_confidence[i]);
    impurity += static_cast<double>(pixels.entropy[i]) * impurity_here;
  }

  // Writes the sums over all threads. All threads of the block call this together.
  __device__ void store(const Scores& scores, double* sums) const {
    const auto put = [&](bool wanted, double value) {
      if (!wanted) return;
      const double sum = block_sum(value);
      if (threadIdx.x == 0) *sums = sum;
      ++sums;
    };
    put(scores.margin, margin);
    put(scores.least_confidence, least_confidence);
    put(scores.neighbourhood > 0, impurity);
  }
};

template <typename Source, bool kScored>
__global__ void __launch_bounds__(kThreads, kScored ? 6 : 8)
    measure_units(Source source, Plan plan, Scratch scratch, RegionOutputs out, ImpurityMap impurity) {
  constexpr int kPixels = Source::kPixels;
  const Unit& unit = unit_of_block(plan);
  float* const tile = dynamic_shared<float>();
  const ClassTable table(plan, reinterpret_cast<uint32_t*>(dynamic_shared<unsigned char>() + plan.tile_bytes),
                         scratch.counts + static_cast<int64_t>(blockIdx.x) * plan.classes);
  float* const warp = warp_memory(source, static_cast<size_t>(plan.tile_bytes + plan.table_bytes()));
  ScoreSums sums;
  const auto inside = [&](int x) { return x >= 0 && x < unit.x.count; };
  const auto take = [&](const Measured<kPixels>& pixels, int row, int x, const bool (&wanted)[kPixels]) {
    table.add(pixels.label, wanted);
    if constexpr (kScored) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i)
        if (wanted[i]) sums.add(pixels, i, impurity.at(unit.place.image, unit.top + row, unit.left + x + i));
    }
  };
  const bool in_packs = unit.left % kPixels == 0 && unit.x.count % kPixels == 0;
  bool again = false;
  each_group(source, unit, warp, [&](const auto& at, int row, int x) {
    Measured<kPixels> pixels;
    measure<kScored>(source, at, pixels);
    float* const entropies = tile + row * unit.x.count + x;
    bool simple[kPixels];
    if (in_packs) {
      Pack<float, kPixels> pack;
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        pack.of[i] = pixels.entropy[i];
        simple[i] = pixels.entropy[i] == pixels.entropy[i];
        again |= !simple[i];
      }
      *reinterpret_cast<Pack<float, kPixels>*>(entropies) = pack;
    } else {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) {
        simple[i] = inside(x + i) && pixels.entropy[i] == pixels.entropy[i];
        again |= inside(x + i) && !simple[i];
        if (inside(x + i)) entropies[i] = pixels.entropy[i];
      }
    }
    take(pixels, row, x, simple);
  });
  // The pixels that measure() could not measure, whose entropy is NaN so far.
  if (__any_sync(kWholeWarp, again))
    each_group(source, unit, warp, [&](const auto& at, int row, int x) {
      float* const entropies = tile + row * unit.x.count + x;
      bool wanted[kPixels], any = false;
      for (int i = 0; i < kPixels; ++i) any |= wanted[i] = inside(x + i) && entropies[i] != entropies[i];
      if (!any) return;
      Measured<kPixels> pixels;
      measure_any<kScored>(source, at, pixels);
      for (int i = 0; i < kPixels; ++i)
        if (wanted[i]) entropies[i] = pixels.entropy[i];
      take(pixels, row, x, wanted);
    });
  __syncthreads();
  table.flush();
  double* const kept = scratch.sums + static_cast<int64_t>(blockIdx.x) * plan.kinds;
  const double entropy = block_sum(pool(plan, scratch, out, unit, tile));
  if (threadIdx.x == 0) kept[0] = entropy;
  if constexpr (kScored) sums.store(plan.scores, kept + 1);
}

// Block r adds up the units of region r.
__global__ void __launch_bounds__(kThreads) add_up(Plan plan, Scratch scratch, RegionOutputs out) {
  wait_for_kernel_before();
  const Place place = place_of(plan, blockIdx.x);
  const int units = plan.units_of_region();
  const int64_t first = place.region * units;
  constexpr int kClasses = 1024;
  __shared__ uint32_t counts[kClasses];
  for (int begin = 0; begin < plan.classes; begin += kClasses) {
    const int classes = least(kClasses, plan.classes - begin);
    for (int c = static_cast<int>(threadIdx.x); c < classes; c += kThreads) counts[c] = 0;
    __syncthreads();
    const uint32_t* of_unit = scratch.counts + first * plan.classes + begin;
    for (int i = static_cast<int>(threadIdx.x); i < units * classes; i += kThreads) {
      const int unit = i / classes, c = i - unit * classes;
      atomicAdd(&counts[c], of_unit[static_cast<int64_t>(unit) * plan.classes + c]);
    }
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < classes; c += kThreads)
      out.class_hist[place.region * plan.classes + begin + c] =
          static_cast<float>(counts[c] / (static_cast<double>(place.height) * place.width));
    __syncthreads();
  }

  for (int kind = 0; kind < plan.kinds; ++kind) {
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < units; i += kThreads)
      sum += scratch.sums[(first + i) * plan.kinds + kind];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
      (kind == 0 ? out.entropy_sum : out.score_sum + (kind - 1) * plan.regions())[place.region] =
          static_cast<float>(sum);
  }
}

// Block r makes the cells of region r of their pieces, with a warp for each cell.
__global__ void __launch_bounds__(kThreads) merge_pieces(Plan plan, Scratch scratch, RegionOutputs out) {
  const Place place = place_of(plan, blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x % kWarp), pieces = plan.y.pieces * plan.x.pieces;
  const auto part = [](const Axis& axis, int cell, int piece) {
    return axis.pieces > 1 ? cell * axis.pieces + piece : cell / axis.together;
  };
  for (int i = static_cast<int>(threadIdx.x / kWarp); i < plan.y.wanted * plan.x.wanted; i += kWarps) {
    const int row = i / plan.x.wanted, col = i % plan.x.wanted;
    const int across = least(plan.x.together, plan.x.all - col / plan.x.together * plan.x.together);
    const int cell_of_unit = row % plan.y.together * across + col % plan.x.together;
    Stats stats = no_stats();
    for (int piece = lane; piece < pieces; piece += static_cast<int>(kWarp)) {
      const int part_y = part(plan.y, row, piece / plan.x.pieces);
      const int part_x = part(plan.x, col, piece % plan.x.pieces);
      const int64_t unit = place.region * plan.units_of_region() + part_y * plan.x.parts + part_x;
      stats.merge(scratch.cells[unit * plan.cells_of_unit() + cell_of_unit]);
    }
    stats.merge_lanes(static_cast<int>(kWarp));
    const int64_t area = static_cast<int64_t>(plan.y.size(row, place.height)) * plan.x.size(col, place.width);
    if (lane == 0) set_cell(out, place.region * plan.y.wanted * plan.x.wanted + i, stats, area);
  }
}

}  // namespace

int64_t region_features_scratch(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                                Extent cells, const Scores& scores) {
  const OnDevice here(logits.device);
  const LogitView view(logits, size, false);
  return Plan(view, region_size, keep_edge, cells, scores).scratch_bytes() +
         ImpurityMap(view, scores).bytes();
}

void region_features(const TensorView& logits, Extent region_size, bool keep_edge, Extent size,
                     bool align_corners, const Scores& scores, const RegionOutputs& out,
                     const TensorView& scratch, Stream stream) {
  const OnDevice here(logits.device);
  const LogitView view(logits, size, align_corners);
  const Plan plan(view, region_size, keep_edge, out.cells, scores);
  if (plan.regions() == 0) return;
  const Scratch kept(plan, scratch.data);
  ImpurityMap impurity(view, scores);
  impurity.use(static_cast<char*>(scratch.data) + plan.scratch_bytes());
  make_impurity(view, impurity, as_cuda(stream));
  const auto measure = [&](auto scored, auto source) {
    const size_t shared =
        static_cast<size_t>(plan.tile_bytes + plan.table_bytes()) + kWarps * source.warp_bytes();
    launch(measure_units<decltype(source), scored>, static_cast<unsigned>(plan.units()), kThreads, shared,
           as_cuda(stream), source, plan, kept, out, impurity);
  };
  // With scores and without, the classes come in equal chunks, so that scores change no bit of an entropy.
  dispatch_logits(view, [&](auto source) {
    with_classes<kPixelsOfThread>(source, [&](auto source) {
      if (plan.kinds > 1)
        measure(std::true_type{}, source);
      else
        measure(std::false_type{}, source);
    });
  });
  const auto regions = static_cast<unsigned>(plan.regions());
  launch_overlapping(add_up, regions, kThreads, 0, as_cuda(stream), plan, kept, out);
  if (!plan.whole_cells()) launch(merge_pieces, regions, kThreads, 0, as_cuda(stream), plan, kept, out);
}

}  // namespace ralx::RALX_ISA
