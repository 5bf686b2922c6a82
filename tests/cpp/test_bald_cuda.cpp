// The kernels of bald_cuda.cu, run on the host's grid, against the CPU's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "bald/bald.h"
#include "common/pixel_math.h"
#include "common/region_grid.h"
#include "cuda_cases.h"

namespace {

using ralx::DType;
using ralx::Extent;
using ralx::TensorView;
using Grid = ralx::baseline::RegionGrid;

constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

struct Case {
  int64_t passes, images, classes;
  Extent size, source, region;
  bool keep_edge, align_corners;
};

int64_t regions_of(const Case& c) {
  const Grid grid(c.size, c.region, c.keep_edge);
  return grid.rows * grid.cols;
}

// All outputs in one row, filled with what no kernel writes, and a number more.
struct Outputs {
  explicit Outputs(const Case& c)
      : pixels(c.images * c.size.height * c.size.width), regions(c.images * regions_of(c)),
        values(pixels + regions * (1 + c.classes) + 1, -77.0f),
        map(contiguous(values.data(), DType::float32, {c.images, c.size.height, c.size.width})),
        sum(contiguous(values.data() + pixels, DType::float32, {c.images, regions_of(c)})),
        hist(contiguous(values.data() + pixels + regions, DType::float32,
                        {c.images, regions_of(c), c.classes})) {}

  int64_t pixels, regions;
  std::vector<float> values;
  TensorView map, sum, hist;
};

// No byte more than the kernels ask for, and none they may rely on.
struct Scratch {
  explicit Scratch(const Case& c)
      : bytes(ralx::cuda::bald_scratch(c.passes, c.images, c.classes, c.size, c.region, c.keep_edge), 0xa5),
        view(contiguous(bytes.data(), DType::uint8, {static_cast<int64_t>(bytes.size())})) {}

  std::vector<uint8_t> bytes;
  TensorView view;
};

TensorView pass(const TensorView& logits, int64_t t) {
  const int64_t bytes = logits.dtype == DType::float32 ? 4 : 2;
  TensorView one = logits;
  one.ndim = 4;
  for (int i = 0; i < 4; ++i) {
    one.sizes[i] = logits.sizes[i + 1];
    one.strides[i] = logits.strides[i + 1];
  }
  one.data = static_cast<char*>(logits.data) + t * logits.strides[0] * bytes;
  return one;
}

std::vector<float> stacked(const Case& c, const TensorView& logits) {
  Outputs out(c);
  in_both_orders(out.values, [&] {
    const Scratch scratch(c);
    ralx::cuda::bald(logits, c.region, c.keep_edge, c.align_corners, out.map, out.sum, out.hist, scratch.view,
                     0);
  });
  return out.values;
}

std::vector<float> streamed(const Case& c, const TensorView& logits) {
  Outputs out(c);
  in_both_orders(out.values, [&] {
    const Scratch scratch(c);
    std::vector<float> p(out.pixels * c.classes), entropy(out.pixels);
    const TensorView sum_p =
        contiguous(p.data(), DType::float32, {c.images, c.classes, c.size.height, c.size.width});
    const TensorView sum_entropy =
        contiguous(entropy.data(), DType::float32, {c.images, c.size.height, c.size.width});
    std::vector<float> total_p(p.size()), total_entropy(entropy.size());
    for (int64_t t = 0; t < c.passes; ++t) {
      if (t > 0 && t % ralx::baseline::kPassesAtOnce == 0)
        for (auto [sums, totals] :
             {std::pair(sum_p, total_p.data()), std::pair(sum_entropy, total_entropy.data())}) {
          TensorView to = sums;
          to.data = totals;
          ralx::cuda::bald_carry(sums, to, 0);
        }
      ralx::cuda::bald_update(pass(logits, t), c.align_corners, sum_p, sum_entropy, 0);
    }
    for (size_t i = 0; i < p.size(); ++i) p[i] += total_p[i];
    for (size_t i = 0; i < entropy.size(); ++i) entropy[i] += total_entropy[i];
    ralx::cuda::bald_compute(sum_p, sum_entropy, c.passes, c.region, c.keep_edge, out.map, out.sum, out.hist,
                             scratch.view, 0);
  });
  return out.values;
}

// To the bit, but for the kind of a NaN.
bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

bool close(float a, float b, double limit) {
  return std::isnan(a) ? std::isnan(b) : std::abs(a - b) <= limit;
}

// A class of mean p that is nearly as large as another may come out as either.
void check_hist(const Case& c, const float* hist, const float* expected, double area) {
  double moved = 0, total = 0;
  for (int64_t k = 0; k < c.classes; ++k) {
    moved += std::abs(hist[k] - expected[k]) * area / 2;
    total += hist[k] * area;
  }
  CHECK(std::abs(total - area) < 1e-3 * area);
  CHECK(moved < (c.passes == 1 && c.size.height == c.source.height ? 0.5 : 1.5 + 0.005 * area));
}

void check(const Case& c, const TensorView& logits) {
  Outputs cpu(c);
  ralx::baseline::bald(logits, c.region, c.keep_edge, c.align_corners, cpu.map, cpu.sum, cpu.hist, 1);
  const std::vector<float> out = stacked(c, logits), again = streamed(c, logits);
  for (size_t i = 0; i < out.size(); ++i) CHECK(same(out[i], again[i]));

  const double rounding = 4e-6 * static_cast<double>(std::max<int64_t>(1, c.classes / 100));
  const double limit = c.size.width == c.source.width ? rounding : 4e-5;
  const float *expected = cpu.values.data(), *result = out.data();
  for (int64_t i = 0; i < cpu.pixels; ++i) CHECK(close(result[i], expected[i], limit));
  result += cpu.pixels;
  expected += cpu.pixels;
  const Grid grid(c.size, c.region, c.keep_edge);
  for (int64_t i = 0; i < cpu.regions; ++i) {
    const double area = static_cast<double>(grid.area(i / grid.cols % grid.rows, i % grid.cols));
    CHECK(close(result[i], expected[i], limit * area));
    check_hist(c, result + cpu.regions + i * c.classes, expected + cpu.regions + i * c.classes, area);
  }
}

void test(const Case& c, DType dtype, Layout layout) {
  const Logits logits(dtype, {c.passes, c.images, c.classes, c.source.height, c.source.width}, layout, 1);
  check(c, logits.view);
}

// At the layouts' native size.
void test(int64_t passes, int64_t images, int64_t classes, Extent size, Extent region, bool keep_edge,
          DType dtype = DType::float32, Layout layout = Layout::contiguous) {
  test({passes, images, classes, size, size, region, keep_edge, false}, dtype, layout);
}

void test_dtype_and_layout(DType dtype, Layout layout) {
  for (bool keep_edge : {false, true}) {
    test(3, 2, 19, {9, 26}, {4, 7}, keep_edge, dtype, layout);
    test(2, 1, 11, {7, 33}, {7, 33}, keep_edge, dtype, layout);
    test(2, 1, 37, {5, 14}, {2, 9}, keep_edge, dtype, layout);
    for (int64_t classes : {5, 21})
      test({2, 2, classes, {13, 22}, {5, 9}, {6, 8}, keep_edge, classes == 21}, dtype, layout);
  }
}

// A masked class, a hopeless pixel and logits of any size beside ordinary ones.
void test_special_values(int64_t classes, DType dtype, Layout layout, bool upsampled) {
  const Extent source{6, 10}, size = upsampled ? Extent{11, 21} : source;
  Logits logits(dtype, {3, 1, classes, source.height, source.width}, layout, 3);
  const auto set = [&](int64_t y, int64_t x, int64_t t, int64_t k, float value) {
    logits.set({t, 0, k, y, x}, value);
  };
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t y = 0; y < 6; ++y)
      for (int64_t x = 0; x < 10; ++x) set(y, x, t, 1, -kInf);
  const float large = dtype == DType::float16 ? 60000 : 3e38f;
  set(0, 1, 1, 2, kNaN);
  set(1, 4, 0, 2, kInf);
  set(2, 7, 2, 0, large);
  set(2, 8, 2, 0, -large);
  for (int64_t k = 0; k < classes; ++k) {
    set(3, 2, 1, k, -kInf);
    set(4, 4, 0, k, k == 0 ? -large : k == 1 ? large : -0.9f * large);
    set(4, 5, 0, k, large);
    set(4, 8, 1, k, -large + large * 0.001f * static_cast<float>(k));
    set(5, 6, 1, k, 30000 + 0.5f * static_cast<float>(k));
  }
  check({3, 1, classes, size, source, {2, 5}, true, true}, logits.view);
}

// A pixel's result doesn't depend on its neighbour, not even where that one needs another way.
void test_each_pixel_alone() {
  const Case c{2, 1, 19, {1, 8}, {1, 8}, {1, 8}, false, false};
  Logits logits(DType::float32, {2, 1, 19, 1, 8}, Layout::contiguous, 5);
  const std::vector<float> before = stacked(c, logits.view);
  for (int64_t x = 0; x < 8; x += 2) logits.set({1, 0, 3, 0, x}, x == 2 ? -kInf : x == 4 ? 1e30f : kNaN);
  const std::vector<float> after = stacked(c, logits.view);
  for (int64_t x = 0; x < 8; ++x) CHECK((before[x] == after[x]) == (x % 2 == 1));
}

}  // namespace

int main() {
  for (DType dtype : {DType::float32, DType::float16, DType::bfloat16})
    for (Layout layout : {Layout::contiguous, Layout::channels_last, Layout::strided}) {
      test_dtype_and_layout(dtype, layout);
      for (int64_t classes : {3, 19, 40})
        for (bool upsampled : {false, true}) test_special_values(classes, dtype, layout, upsampled);
    }
  for (int64_t classes : {1, 2, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 31, 32, 33})
    test(2, 1, classes, {4, 18}, {3, 5}, true);
  test(2, 1, 150, {4, 18}, {3, 5}, true);
  for (int64_t classes : {3, 11, 19, 40, 385})  // so many passes that their sums are carried
    test(70, 1, classes, {3, 14}, {3, 5}, true);
  test(2, 1, 385, {3, 14}, {3, 5}, true);
  test(1, 1, 385, {60, 280}, {30, 100}, true);  // more blocks than scratch has room for
  test(1, 2, 1700, {3, 9}, {2, 9}, false, DType::float32, Layout::strided);
  test(7, 1, 3, {90, 70}, {89, 69}, true);     // slices of a region
  test(1, 1, 2, {5, 4100}, {3, 4100}, false);  // rows longer than a slice
  test(1, 3, 6, {4, 6}, {1, 1}, false);
  test(2, 0, 6, {4, 6}, {2, 2}, false);
  test_each_pixel_alone();
}
