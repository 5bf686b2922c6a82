// The kernels of label_map_features_cuda.cu, run on the host's grid, against the CPU's.
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "label_map_features/label_map_features.h"
#include "region_cases.h"

namespace {

using ralx::DType;
using ralx::Extent;
using ralx::Scores;
using ralx::TensorView;

struct MapCase {
  int64_t images, classes, height, width;
  Extent source;
  int64_t regions;
  DType dtype = DType::float32, map = DType::int32;
  Layout layout = Layout::contiguous;
  Scores scores = {false, false, 0};
};

// Regions lie in strips of a few pixels, as those of an image do; one pixel in nine is of none.
std::vector<int64_t> make_map(const MapCase& c) {
  std::vector<int64_t> map(static_cast<size_t>(c.images * c.height * c.width));
  std::mt19937 generator(5);
  int64_t region = 0;
  for (int64_t& id : map) {
    if (generator() % 7 == 0) region = static_cast<int64_t>(generator() % static_cast<uint32_t>(c.regions));
    id = generator() % 9 == 0 ? -1 : region;
  }
  return map;
}

void test_label_map(const MapCase& c, const Logits& logits) {
  const Extent size{c.height, c.width};
  std::vector<int64_t> map = make_map(c), on_grid = map;
  for (size_t i = 0; i < map.size(); ++i)  // what is too large is of no region
    if (map[i] < 0 && i % 2 == 0) on_grid[i] = c.regions + static_cast<int64_t>(i % 5);
  std::vector<int64_t> stored(map.size());
  size_t place = 0;
  for (int64_t id : on_grid)
    ralx::RALX_ISA::dispatch_integral(c.map, [&](auto integer) {
      using Integer = decltype(integer);
      reinterpret_cast<Integer*>(stored.data())[place++] = static_cast<Integer>(id);
    });
  const std::vector<int64_t> sizes{c.images, c.height, c.width};
  const TensorView cpu_map = contiguous(map.data(), DType::int64, sizes),
                   grid_map = contiguous(stored.data(), c.map, sizes);
  Features cpu(c.images, c.regions, c.classes, {1, 1}, count(c.scores)),
      grid(c.images, c.regions, c.classes, {1, 1}, count(c.scores));
  const ralx::BadLabel bad =
      ralx::baseline::label_map_features(logits.view, cpu_map, true, c.scores, cpu.outputs, 1);
  CHECK(bad.kind == ralx::BadLabel::none);
  const int64_t bytes = ralx::cuda::label_map_features_scratch(logits.view, grid_map, c.regions, c.scores);
  std::vector<double> scratch(static_cast<size_t>(bytes / 8 + 1));
  const TensorView scratch_view = contiguous(scratch.data(), DType::uint8, {bytes});
  in_both_orders(grid.values, [&] {
    std::memset(scratch.data(), 0x5a, scratch.size() * sizeof(double));
    ralx::cuda::label_map_features(logits.view, grid_map, true, c.scores, grid.outputs, scratch_view, 0);
  });
  check_equal(cpu, grid, 4e-6, static_cast<double>(size.height * size.width));
}

void test_label_map(const MapCase& c) {
  test_label_map(c, Logits(c.dtype, {c.images, c.classes, c.source.height, c.source.width}, c.layout, 1));
}

void test_label_maps() {
  for (DType dtype : {DType::float32, DType::float16, DType::bfloat16})
    for (Layout layout : {Layout::contiguous, Layout::channels_last, Layout::strided}) {
      test_label_map({2, 19, 9, 40, {9, 40}, 12, dtype, DType::int16, layout});
      test_label_map({1, 11, 11, 33, {5, 12}, 7, dtype, DType::int64, layout, {true, true, 3}});
      const MapCase c{1, 9, 6, 32, {6, 32}, 40, dtype, DType::int32, layout, {true, false, 5}};
      Logits special(dtype, {1, 9, 6, 32}, layout, 2);
      special.set({0, 4, 0, 3}, kNaN);
      special.set({0, 4, 2, 9}, kInf);
      for (int64_t k = 0; k < 9; ++k) special.set({0, k, 5, 20}, -kInf);
      for (int64_t k = 0; k < 8; ++k) special.set({0, k, 4, 20}, -kInf);
      test_label_map(c, special);
    }
  test_label_map({2, 1, 8, 16, {8, 16}, 1});
  test_label_map({1, 3, 8, 16, {8, 16}, 200});  // most without pixels
  test_label_map({0, 3, 8, 16, {8, 16}, 4});
}

}  // namespace

int main() { test_label_maps(); }
