// The kernels of region_features_cuda.cu and label_map_features_cuda.cu, run on the host's grid, against the
// CPU's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "common/bilinear.h"
#include "common/upsampled_logits.h"
#include "cuda_cases.h"
#include "region_features/region_features.h"

namespace {

using ralx::DType;
using ralx::Extent;
using ralx::Scores;
using ralx::TensorView;

constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

// Everything that is computed of N images with R regions each, one after another.
struct Features {
  std::vector<float> values;
  std::vector<int64_t> pixel_count;
  TensorView class_hist, entropy_min, entropy_avg, entropy_max, entropy_sum, score_sum, count;

  Features(int64_t images, int64_t regions, int64_t classes, Extent cells, int64_t scores)
      : values(images * regions * (classes + 3 * cells.height * cells.width + 1 + scores) + 1, -7.0f),
        pixel_count(images * regions, -7) {
    float* next = values.data();
    const auto take = [&](const std::vector<int64_t>& sizes) {
      const TensorView view = contiguous(next, DType::float32, sizes);
      int64_t count = 1;
      for (int64_t size : sizes) count *= size;
      next += count;
      return view;
    };
    class_hist = take({images, regions, classes});
    entropy_min = take({images, regions, cells.height, cells.width});
    entropy_avg = take({images, regions, cells.height, cells.width});
    entropy_max = take({images, regions, cells.height, cells.width});
    entropy_sum = take({images, regions});
    score_sum = take({scores, images, regions});
    count = contiguous(pixel_count.data(), DType::int64, {images, regions});
  }
};

int64_t count(const Scores& scores) {
  return scores.margin + scores.least_confidence + (scores.neighbourhood > 0 ? 1 : 0);
}

bool close(float a, float b, double limit) {
  return a == b || (std::isnan(a) && std::isnan(b)) || std::abs(static_cast<double>(a) - b) <= limit;
}

// Counts are equal; numbers are close, sums as close as their pixels allow.
void check_equal(const Features& cpu, const Features& grid, double per_pixel, double pixels) {
  CHECK(cpu.pixel_count == grid.pixel_count);
  const size_t sums =
      static_cast<size_t>(static_cast<const float*>(cpu.entropy_sum.data) - cpu.values.data());
  const size_t maps =
      static_cast<size_t>(static_cast<const float*>(cpu.entropy_min.data) - cpu.values.data());
  for (size_t i = 0; i < cpu.values.size(); ++i) {
    const double limit = i < maps ? 0 : i < sums ? per_pixel : per_pixel * pixels;
    if (!close(cpu.values[i], grid.values[i], limit)) {
      std::fprintf(stderr, "value %zu of %zu (maps from %zu, sums from %zu): %.9g on the CPU, %.9g\n", i,
                   cpu.values.size(), maps, sums, cpu.values[i], grid.values[i]);
      CHECK(false);
    }
  }
}

struct Case {
  int64_t images, classes, height, width;
  Extent source, region, cells;
  DType dtype = DType::float32;
  Layout layout = Layout::contiguous;
  bool keep_edge = false, align_corners = false;
  Scores scores = {false, false, 0};
};

void test_regions(const Case& c, const Logits& logits) {
  const Extent size{c.height, c.width};
  const auto tiles = [&](int64_t whole, int64_t part) {
    return (whole + (c.keep_edge ? part - 1 : 0)) / part;
  };
  const int64_t regions = tiles(c.height, c.region.height) * tiles(c.width, c.region.width);
  Features cpu(c.images, regions, c.classes, c.cells, count(c.scores)), grid = cpu;
  grid = Features(c.images, regions, c.classes, c.cells, count(c.scores));
  ralx::baseline::region_features(logits.view, c.region, c.keep_edge, size, c.align_corners, c.scores,
                                  cpu.class_hist, cpu.entropy_min, cpu.entropy_avg, cpu.entropy_max,
                                  cpu.entropy_sum, cpu.score_sum, 1);
  const int64_t bytes =
      ralx::cuda::region_features_scratch(logits.view, c.region, c.keep_edge, size, c.cells, c.scores);
  std::vector<double> scratch(static_cast<size_t>(bytes / 8 + 1));
  const TensorView scratch_view = contiguous(scratch.data(), DType::uint8, {bytes});
  in_both_orders(grid.values, [&] {
    std::memset(scratch.data(), 0x5a, scratch.size() * sizeof(double));
    ralx::cuda::region_features(logits.view, c.region, c.keep_edge, size, c.align_corners, c.scores,
                                grid.class_hist, grid.entropy_min, grid.entropy_avg, grid.entropy_max,
                                grid.entropy_sum, grid.score_sum, scratch_view, 0);
  });
  check_equal(cpu, grid, 4e-6 * std::max(1.0, std::log(static_cast<double>(c.classes))),
              static_cast<double>(c.region.height * c.region.width));
}

void test_regions(const Case& c) {
  test_regions(c, Logits(c.dtype, {c.images, c.classes, c.source.height, c.source.width}, c.layout, 1));
}

// All that is special at some pixels of a small image.
void test_special_values(DType dtype, Layout layout, const Scores& scores) {
  Case c{1, 11, 12, 40, {12, 40}, {6, 20}, {2, 2}, dtype, layout};
  c.keep_edge = true;
  c.scores = scores;
  Logits logits(dtype, {1, c.classes, 12, 40}, layout, 3);
  const auto fill = [&](int64_t y, int64_t x, float value) {
    for (int64_t k = 0; k < c.classes; ++k) logits.set({0, k, y, x}, value);
  };
  logits.set({0, 3, 0, 1}, kNaN);                                    // makes its cell NaN
  logits.set({0, 0, 0, 22}, kInf);                                   // as this does
  fill(7, 3, -kInf);                                                 // and this
  for (int64_t k = 0; k < 9; ++k) logits.set({0, k, 7, 25}, -kInf);  // masked: the first chunk as a whole
  for (int64_t x = 0; x < 40; ++x) logits.set({0, 5, 4, x}, -kInf);
  if (dtype != DType::float16) {
    logits.set({0, 2, 10, 30}, 3e38f);  // without the others' last bits
    logits.set({0, 9, 10, 30}, -3e38f);
    logits.set({0, 4, 11, 30}, 1e9f);
    fill(11, 33, -1e30f);
  }
  test_regions(c, logits);
}

// Upsampled, a class that is -inf in some of the source's pixels is masked where they weigh anything; NaN and
// inf spread as far.
void test_masked_class(DType dtype, Layout layout) {
  for (const Extent size : {Extent{9, 36}, Extent{13, 48}, Extent{13, 44}, Extent{9, 18}})
    for (bool align_corners : {false, true}) {
      Case c{1, 6, size.height, size.width, {4, 9}, {4, 6}, {2, 3}, dtype, layout, true, align_corners};
      Logits logits(dtype, {1, 6, 4, 9}, layout, 4);
      std::mt19937 generator(6);
      std::normal_distribution<float> normal(0, 3);
      for (int64_t k = 0; k < 6; ++k)  // no two equal, whose order after rounding would be anybody's guess
        for (int64_t y = 0; y < 4; ++y)
          for (int64_t x = 0; x < 9; ++x) logits.set({0, k, y, x}, normal(generator));
      for (int64_t y = 0; y < 4; ++y)
        for (int64_t x = 0; x < 9; x += 3) logits.set({0, 4, y, x}, -kInf);
      logits.set({0, 1, 0, 8}, kNaN);
      logits.set({0, 1, 3, 0}, kInf);
      test_regions(c, logits);
    }
}

// A large window is cut on all sides, and its counts pass through more than one row of a lane's way.
void test_scores() {
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16})
    for (Layout layout : {Layout::contiguous, Layout::channels_last})
      test_regions({2, 11, 18, 40, {18, 40}, {9, 13}, {3, 2}, dtype, layout, true, false, {true, true, 3}});
  const Case plain{1, 3, 40, 56, {40, 56}, {20, 24}, {2, 2}};
  for (const Scores& scores : {Scores{true, false, 0}, Scores{false, true, 0}, Scores{false, false, 7},
                               Scores{true, false, 41}, Scores{false, true, 255}}) {
    Case c = plain;
    c.scores = scores;
    test_regions(c);
  }
  test_regions(
      {1, 1, 6, 8, {6, 8}, {3, 4}, {1, 2}, DType::float32, Layout::strided, false, false, {true, true, 3}});
  // No block has room for the counts of its windows.
  test_regions({1,
                3000,
                3,
                8,
                {3, 8},
                {3, 4},
                {1, 2},
                DType::bfloat16,
                Layout::contiguous,
                false,
                false,
                {true, true, 3}});
}

// Without a division, to the last bit, on both sides of the size from which on 32 bits don't do.
void test_upsampled_axis() {
  const int64_t sizes[] = {1, 2, 3, 5, 9, 64, 120, 481, 2048};
  const auto test = [](int64_t source, int64_t size, bool align_corners) {
    const ralx::RALX_ISA::UpsampledAxis axis(source, size, align_corners);
    for (int64_t position = 0; position < size; ++position) {
      const ralx::RALX_ISA::Neighbours exact =
          ralx::RALX_ISA::bilinear(position, source, size, align_corners);
      const auto place = axis.at(position);
      CHECK(place.first == exact.first && place.second == exact.second);
      CHECK(place.weight == static_cast<float>(exact.weight));
    }
  };
  for (bool align_corners : {false, true}) {
    for (int64_t source : sizes)
      for (int64_t size : sizes) test(source, size, align_corners);
    test(32000, 32001, align_corners);
    test(40000, 40001, align_corners);
  }
}

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
  const ralx::BadLabel bad = ralx::baseline::label_map_features(
      logits.view, cpu_map, true, c.scores, cpu.class_hist, cpu.entropy_min, cpu.entropy_avg, cpu.entropy_max,
      cpu.entropy_sum, cpu.score_sum, cpu.count, 1);
  CHECK(bad.kind == ralx::BadLabel::none);
  const int64_t bytes = ralx::cuda::label_map_features_scratch(logits.view, grid_map, c.regions, c.scores);
  std::vector<double> scratch(static_cast<size_t>(bytes / 8 + 1));
  const TensorView scratch_view = contiguous(scratch.data(), DType::uint8, {bytes});
  in_both_orders(grid.values, [&] {
    std::memset(scratch.data(), 0x5a, scratch.size() * sizeof(double));
    ralx::cuda::label_map_features(logits.view, grid_map, true, c.scores, grid.class_hist, grid.entropy_min,
                                   grid.entropy_avg, grid.entropy_max, grid.entropy_sum, grid.score_sum,
                                   grid.count, scratch_view, 0);
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

int main() {
  for (DType dtype : {DType::float32, DType::float16, DType::bfloat16})
    for (Layout layout : {Layout::contiguous, Layout::channels_last, Layout::strided}) {
      test_regions({2, 19, 18, 48, {18, 48}, {9, 21}, {2, 4}, dtype, layout});
      test_regions({1, 11, 13, 33, {13, 33}, {5, 14}, {5, 14}, dtype, layout, true});
      test_regions({1, 5, 20, 31, {6, 9}, {8, 8}, {3, 3}, dtype, layout, true, true});
      for (bool align_corners : {false, true}) {  // less and more than three times as wide
        test_regions({1, 5, 12, 24, {6, 9}, {8, 8}, {3, 3}, dtype, layout, false, align_corners});
        test_regions({1, 5, 22, 48, {6, 9}, {8, 9}, {3, 3}, dtype, layout, true, align_corners});
        test_regions({1, 9, 7, 36, {7, 1}, {7, 9}, {1, 1}, dtype, layout, false, align_corners});
      }
      test_masked_class(dtype, layout);
      test_special_values(dtype, layout, {false, false, 0});
      test_special_values(dtype, layout, {true, true, 5});
    }
  test_upsampled_axis();
  test_scores();
  test_label_maps();
  test_regions({1, 1, 8, 16, {8, 16}, {4, 4}, {1, 1}});
  test_regions({0, 3, 8, 16, {8, 16}, {4, 4}, {1, 1}});
  // Cells in several pieces, along one axis and along both; a table of classes that no block has room for.
  test_regions({1, 2, 70, 72, {70, 72}, {70, 72}, {1, 1}});
  test_regions({1, 2, 5, 4300, {5, 4300}, {5, 4300}, {2, 1}});
  test_regions({1, 1, 70, 72, {70, 72}, {70, 72}, {70, 72}});
  test_regions({1, 300, 6, 8, {6, 8}, {3, 4}, {1, 2}});
  test_regions({1, 7000, 3, 4, {3, 4}, {3, 4}, {3, 1}});
}
