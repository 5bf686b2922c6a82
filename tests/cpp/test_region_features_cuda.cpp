// The kernels of region_features_cuda.cu, run on the host's grid, against the CPU's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "common/bilinear.h"
#include "common/gpu/upsampled_logits.h"
#include "region_cases.h"
#include "region_features/region_features.h"

namespace {

using ralx::DType;
using ralx::Extent;
using ralx::Scores;
using ralx::TensorView;

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
  Features cpu(c.images, regions, c.classes, c.cells, count(c.scores)),
      grid(c.images, regions, c.classes, c.cells, count(c.scores));
  ralx::baseline::region_features(logits.view, c.region, c.keep_edge, size, c.align_corners, c.scores,
                                  cpu.outputs, 1);
  const int64_t bytes =
      ralx::cuda::region_features_scratch(logits.view, c.region, c.keep_edge, size, c.cells, c.scores);
  std::vector<double> scratch(static_cast<size_t>(bytes / 8 + 1));
  const TensorView scratch_view = contiguous(scratch.data(), DType::uint8, {bytes});
  in_both_orders(grid.values, [&] {
    std::memset(scratch.data(), 0x5a, scratch.size() * sizeof(double));
    ralx::cuda::region_features(logits.view, c.region, c.keep_edge, size, c.align_corners, c.scores,
                                grid.outputs, scratch_view, 0);
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
  test_regions({1, 1, 8, 16, {8, 16}, {4, 4}, {1, 1}});
  test_regions({0, 3, 8, 16, {8, 16}, {4, 4}, {1, 1}});
  // Cells in several pieces, along one axis and along both; a table of classes that no block has room for.
  test_regions({1, 2, 70, 72, {70, 72}, {70, 72}, {1, 1}});
  test_regions({1, 2, 5, 4300, {5, 4300}, {5, 4300}, {2, 1}});
  test_regions({1, 1, 70, 72, {70, 72}, {70, 72}, {70, 72}});
  test_regions({1, 300, 6, 8, {6, 8}, {3, 4}, {1, 2}});
  test_regions({1, 7000, 3, 4, {3, 4}, {3, 4}, {3, 1}});
}
