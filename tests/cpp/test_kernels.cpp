// The kernels without Python and without torch: each instruction set of this CPU against plain loops in
// double.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "bald/bald.h"
#include "common/pixel_math.h"
#include "confusion_matrix/confusion_matrix.h"
#include "kl_histogram/kl_histogram.h"
#include "label_map_features/label_map_features.h"
#include "region_features/region_features.h"

namespace {

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

using ralx::DType;
using ralx::TensorView;

template <typename T>
TensorView view(std::vector<T>& data, DType dtype, std::initializer_list<int64_t> sizes) {
  TensorView result{data.data(), dtype, -1, static_cast<int>(sizes.size()), {}, {}};
  int dim = 0;
  for (int64_t size : sizes) result.sizes[dim++] = size;
  int64_t stride = 1;
  while (dim-- > 0) {
    result.strides[dim] = stride;
    stride *= result.sizes[dim];
  }
  return result;
}

constexpr int64_t N = 2, C = 5, H = 13, W = 70, RH = 6, RW = 33, CH = 2, CW = 3;
constexpr int64_t rows = H / RH, cols = W / RW, R = rows * cols;

std::vector<float> random_logits(int64_t count) {
  std::mt19937 generator(0);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(count);
  for (float& x : logits) x = normal(generator);
  return logits;
}

struct Pixel {
  double p[C], entropy;
  int64_t label;
};

Pixel softmax(const float* logit, int64_t stride) {
  Pixel pixel{};
  double sum = 0;
  for (int64_t c = 0; c < C; ++c) {
    sum += pixel.p[c] = std::exp(static_cast<double>(logit[c * stride]));
    if (logit[c * stride] > logit[pixel.label * stride]) pixel.label = c;
  }
  for (double& p : pixel.p) {
    p /= sum;
    pixel.entropy -= p * std::log(p);
  }
  return pixel;
}

Pixel pixel_at(const std::vector<float>& logits, int64_t n, int64_t y, int64_t x) {
  return softmax(logits.data() + (n * C * H + y) * W + x, H * W);
}

template <typename T>
void test_exp_and_log() {
  namespace math = ralx::baseline;
  const double exp_error = sizeof(T) == 4 ? 2.5e-7 : 1e-15, log_error = sizeof(T) == 4 ? 1.2e-7 : 4e-16;
  for (double t = -125; t <= 0.25; t += 1.0 / 1024)
    CHECK(std::abs(math::exp2_nonpositive(static_cast<T>(t)) / std::exp2(t) - 1) < exp_error);
  for (double x = 1e-37; x < 1e38; x *= 1.001) {
    const double exact = std::log2(static_cast<double>(static_cast<T>(x)));
    CHECK(std::abs(math::log2_positive(static_cast<T>(x)) - exact) < log_error * (std::abs(exact) + 1));
  }
  CHECK(math::log2_positive(T(1)) == 0);
  const T no_log_of_zero = math::log2_positive(T(0));
  CHECK(no_log_of_zero < -100 && no_log_of_zero > -2000);
}

// What region_features and label_map_features write, of N images.
struct Features {
  int64_t regions, scores;
  ralx::Extent cells;
  std::vector<float> hist, low, mean, high, sum, score_sum;
  std::vector<int64_t> pixel_count;

  Features(int64_t classes, int64_t regions, ralx::Extent cells, int64_t scores)
      : regions(regions), scores(scores), cells(cells), hist(N * regions * classes),
        low(N * regions * cells.height * cells.width), mean(low), high(low), sum(N * regions),
        score_sum(scores * N * regions), pixel_count(N * regions) {}

  ralx::RegionOutputs outputs() {
    return {regions,     cells,      hist.data(),      low.data(),        mean.data(),
            high.data(), sum.data(), score_sum.data(), pixel_count.data()};
  }
};

constexpr int64_t kNeighbourhood = 5;

// entropy · entropy of the classes predicted in the k×k window around a pixel.
double impurity(const std::vector<Pixel>& pixels, int64_t n, int64_t y, int64_t x) {
  constexpr int64_t reach = kNeighbourhood / 2;
  const int64_t top = std::max<int64_t>(0, y - reach), bottom = std::min(H - 1, y + reach);
  const int64_t left = std::max<int64_t>(0, x - reach), right = std::min(W - 1, x + reach);
  int64_t counts[C] = {};
  for (int64_t i = top; i <= bottom; ++i)
    for (int64_t j = left; j <= right; ++j) ++counts[pixels[(n * H + i) * W + j].label];
  const double area = static_cast<double>((bottom - top + 1) * (right - left + 1));
  double entropy = 0;
  for (int64_t count : counts)
    if (count > 0) entropy -= count / area * std::log(count / area);
  return entropy * pixels[(n * H + y) * W + x].entropy;
}

struct ScoredPixel {
  double entropy, scores[3];
  int64_t label;
};

// Of all pixels of random_logits(N * C * H * W).
std::vector<ScoredPixel> score_pixels() {
  const std::vector<float> logits = random_logits(N * C * H * W);
  std::vector<Pixel> pixels(N * H * W);
  for (int64_t i = 0; i < N * H * W; ++i) pixels[i] = pixel_at(logits, i / (H * W), i / W % H, i % W);
  std::vector<ScoredPixel> result;
  for (int64_t i = 0; i < N * H * W; ++i) {
    double p[C];
    std::partial_sort_copy(pixels[i].p, pixels[i].p + C, p, p + C, std::greater<>());
    const double of_window = impurity(pixels, i / (H * W), i / W % H, i % W);
    result.push_back({pixels[i].entropy, {1 - p[0] + p[1], 1 - p[0], of_window}, pixels[i].label});
  }
  return result;
}

struct PixelSums {
  double entropy = 0, scores[3] = {}, low = 1e9, high = -1e9;
  int64_t pixels = 0, counts[C] = {};

  // Pixel number i of the images.
  void add(int64_t i) {
    static const std::vector<ScoredPixel> all = score_pixels();
    const ScoredPixel& pixel = all[i];
    for (int s = 0; s < 3; ++s) scores[s] += pixel.scores[s];
    entropy += pixel.entropy;
    low = std::min(low, pixel.entropy);
    high = std::max(high, pixel.entropy);
    ++pixels;
    ++counts[pixel.label];
  }
};

void check_region(const Features& out, int64_t n, int64_t r, const PixelSums& expected) {
  const int64_t i = n * out.regions + r;
  const double limit = 4e-6 * static_cast<double>(expected.pixels);
  CHECK(std::abs(out.sum[i] - expected.entropy) <= limit);
  for (int64_t s = 0; s < out.scores; ++s)
    CHECK(std::abs(out.score_sum[s * N * out.regions + i] - expected.scores[s]) <= limit);
  const double area = static_cast<double>(std::max<int64_t>(expected.pixels, 1));
  for (int64_t c = 0; c < C; ++c) CHECK(out.hist[i * C + c] == static_cast<float>(expected.counts[c] / area));
}

void check_cell(const Features& out, int64_t i, const PixelSums& expected) {
  if (expected.pixels == 0) {
    CHECK(out.low[i] == 0 && out.mean[i] == 0 && out.high[i] == 0);
    return;
  }
  CHECK(std::abs(out.low[i] - expected.low) < 4e-6);
  CHECK(std::abs(out.high[i] - expected.high) < 4e-6);
  CHECK(std::abs(out.mean[i] - expected.entropy / static_cast<double>(expected.pixels)) < 4e-6);
}

void test_region_features(bool keep_edge, bool with_scores, int threads) {
  std::vector<float> logits = random_logits(N * C * H * W);
  const int64_t grid_rows = keep_edge ? rows + 1 : rows, grid_cols = keep_edge ? cols + 1 : cols;
  const int64_t regions = grid_rows * grid_cols, scores = with_scores ? 3 : 0;
  Features out(C, regions, {CH, CW}, scores);
  RALX_KERNEL(region_features)
  (view(logits, DType::float32, {N, C, H, W}), {RH, RW}, keep_edge, {H, W}, false,
   {with_scores, with_scores, with_scores ? kNeighbourhood : 0}, out.outputs(), threads);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t r = 0; r < regions; ++r) {
      const int64_t top = r / grid_cols * RH, left = r % grid_cols * RW;
      PixelSums region, cell[CH * CW];
      for (int64_t y = top; y < std::min(top + RH, H); ++y)
        for (int64_t x = left; x < std::min(left + RW, W); ++x) {
          region.add((n * H + y) * W + x);
          cell[(y - top) / (RH / CH) * CW + (x - left) / (RW / CW)].add((n * H + y) * W + x);
        }
      check_region(out, n, r, region);
      for (int64_t i = 0; i < CH * CW; ++i) check_cell(out, (n * regions + r) * CH * CW + i, cell[i]);
    }
}

ralx::BadLabel label_map_features(std::vector<float>& logits, std::vector<int16_t>& map, Features& out,
                                  int threads) {
  return RALX_KERNEL(label_map_features)(
      view(logits, DType::float32, {N, C, H, W}), view(map, DType::int16, {N, H, W}), false,
      {out.scores > 0, out.scores > 0, out.scores > 0 ? kNeighbourhood : 0}, out.outputs(), threads);
}

void test_label_map_features(bool with_scores, int threads) {
  constexpr int64_t regions = 11;  // the last ones without pixels
  std::vector<float> logits = random_logits(N * C * H * W);
  std::vector<int16_t> map(N * H * W);
  for (size_t i = 0; i < map.size(); ++i) map[i] = static_cast<int16_t>(i * i % 97 % 10) - 1;
  Features out(C, regions, {1, 1}, with_scores ? 3 : 0);
  CHECK(label_map_features(logits, map, out, threads).kind == ralx::BadLabel::none);
  std::vector<PixelSums> expected(N * regions);
  for (int64_t i = 0; i < N * H * W; ++i)
    if (map[i] >= 0) expected[i / (H * W) * regions + map[i]].add(i);
  for (int64_t i = 0; i < N * regions; ++i) {
    check_region(out, i / regions, i % regions, expected[i]);
    check_cell(out, i, expected[i]);
    CHECK(out.pixel_count[i] == expected[i].pixels);
  }

  map[1500] = 99;
  map[700] = regions;
  const ralx::BadLabel bad = label_map_features(logits, map, out, threads);
  CHECK(bad.kind == ralx::BadLabel::region && bad.position == 700 && bad.value == regions);
}

void test_upsampling_of_a_constant(int threads) {
  std::vector<float> logits(C * 3 * 4);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = i / 12 == 2 ? 7.0f : 0.0f;
  std::vector<float> hist(C), low(1), mean(1), high(1), sum(1);
  RALX_KERNEL(region_features)
  (view(logits, DType::float32, {1, C, 3, 4}), {50, 90}, false, {50, 90}, true, {false, false, 0},
   {1, {1, 1}, hist.data(), low.data(), mean.data(), high.data(), sum.data(), nullptr, nullptr}, threads);
  const double entropy = softmax(logits.data(), 12).entropy;
  CHECK(hist[2] == 1 && std::abs(low[0] - entropy) < 1e-5 && std::abs(high[0] - entropy) < 1e-5);
}

void test_bald(int threads) {
  constexpr int64_t T = 3;
  std::vector<float> logits = random_logits(T * N * C * H * W);
  std::vector<float> map(N * H * W), sum(N * R), hist(N * R * C);
  const TensorView map_view = view(map, DType::float32, {N, H, W}),
                   sum_view = view(sum, DType::float32, {N, R}),
                   hist_view = view(hist, DType::float32, {N, R, C});
  RALX_KERNEL(bald)
  (view(logits, DType::float32, {T, N, C, H, W}), {RH, RW}, false, false, map_view, sum_view, hist_view,
   threads);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t y = 0; y < H; ++y)
      for (int64_t x = 0; x < W; ++x) {
        double mean_p[C] = {}, expected = 0;
        for (int64_t t = 0; t < T; ++t) {
          const Pixel pixel = pixel_at(logits, t * N + n, y, x);
          expected -= pixel.entropy / T;
          for (int64_t c = 0; c < C; ++c) mean_p[c] += pixel.p[c] / T;
        }
        for (double p : mean_p) expected -= p * std::log(p);
        CHECK(std::abs(map[(n * H + y) * W + x] - expected) < 5e-6);
      }

  const std::vector<float> stacked_map = map, stacked_sum = sum, stacked_hist = hist;
  std::vector<float> sum_p(N * C * H * W), sum_entropy(N * H * W);
  const TensorView p_view = view(sum_p, DType::float32, {N, C, H, W}),
                   entropy_view = view(sum_entropy, DType::float32, {N, H, W});
  for (int64_t t = 0; t < T; ++t) {
    TensorView one = view(logits, DType::float32, {N, C, H, W});
    one.data = logits.data() + t * N * C * H * W;
    RALX_KERNEL(bald_update)(one, false, p_view, entropy_view, threads);
  }
  RALX_KERNEL(bald_compute)(p_view, entropy_view, T, {RH, RW}, false, map_view, sum_view, hist_view, threads);
  CHECK(map == stacked_map && sum == stacked_sum && hist == stacked_hist);
}

void test_confusion_matrix(int threads) {
  std::vector<float> logits = random_logits(N * C * H * W);
  std::vector<uint8_t> target(N * H * W);
  for (size_t i = 0; i < target.size(); ++i) target[i] = i % 7 == 6 ? 255 : i % C;
  std::vector<int64_t> counts(C * C), expected(C * C);
  const TensorView counts_view = view(counts, DType::int64, {C, C}),
                   target_view = view(target, DType::uint8, {N, H, W}),
                   logits_view = view(logits, DType::float32, {N, C, H, W});
  CHECK(RALX_KERNEL(confusion_matrix)(logits_view, target_view, counts_view, 255, false, threads).kind ==
        ralx::BadLabel::none);
  for (int64_t i = 0; i < N * H * W; ++i)
    if (target[i] != 255) ++expected[target[i] * C + pixel_at(logits, i / (H * W), i / W % H, i % W).label];
  CHECK(counts == expected);

  target[100] = C;
  target[1000] = C + 1;
  const ralx::BadLabel bad =
      RALX_KERNEL(confusion_matrix)(logits_view, target_view, counts_view, 255, false, threads);
  CHECK(bad.kind == ralx::BadLabel::target && bad.position == 100 && bad.value == C);
}

void test_kl_histogram(int threads) {
  constexpr int64_t M = 3, L = 41, bins = 4;
  const double low = 0.1, high = 1.3, eps = 1e-3;
  std::vector<float> p = random_logits(M * C), q = random_logits(L * C), histograms(M * bins);
  for (float& x : p) x = std::abs(x);
  for (float& x : q) x *= x;
  const auto smoothed = [&](const std::vector<float>& x, int64_t row, int64_t c) {
    double sum = 0;
    for (int64_t k = 0; k < C; ++k) sum += x[row * C + k] + eps;
    return (x[row * C + c] + eps) / sum;
  };
  RALX_KERNEL(kl_histogram)
  (view(p, DType::float32, {M, C}), view(q, DType::float32, {L, C}),
   view(histograms, DType::float32, {M, bins}), false, low, high, eps, threads);
  for (int64_t i = 0; i < M; ++i) {
    std::vector<double> expected(bins);
    for (int64_t j = 0; j < L; ++j) {
      double divergence = 0;
      for (int64_t c = 0; c < C; ++c)
        divergence += smoothed(p, i, c) * std::log(smoothed(p, i, c) / smoothed(q, j, c));
      const double position = std::floor((divergence - low) / (high - low) * bins);
      expected[static_cast<int64_t>(std::min(std::max(position, 0.0), bins - 1.0))] += 1.0 / L;
    }
    for (int64_t b = 0; b < bins; ++b) CHECK(std::abs(histograms[i * bins + b] - expected[b]) < 1e-6);
  }
}

// Images of any width, in every type, both layouts and both ways of upsampling, for the sanitizers: all
// memory is as long as it must be.
template <typename T>
void test_any_width(DType dtype, int64_t width, int threads) {
  constexpr int64_t height = 3, regions = 2;
  std::vector<T> logits(N * C * height * width);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<T>(i * 7 % 5);
  std::vector<uint8_t> map;
  std::vector<int64_t> counts(C * C);
  for (const bool channels_last : {false, true})
    for (const int64_t out_width : {width, 2 * width + 1, (width + 3) / 4}) {
      TensorView in = view(logits, dtype, {N, C, height, width});
      if (channels_last) {
        in.strides[1] = 1;
        in.strides[2] = width * C;
        in.strides[3] = C;
      }
      map.assign(N * height * out_width, 1);
      const TensorView map_view = view(map, DType::uint8, {N, height, out_width});
      for (const int64_t scores : {0, 3}) {
        const ralx::Scores wanted{scores > 0, scores > 0, scores};
        Features grid(C, regions, {1, 1}, scores), labelled(C, regions, {1, 1}, scores);
        RALX_KERNEL(region_features)
        (in, {2, out_width}, true, {height, out_width}, false, wanted, grid.outputs(), threads);
        RALX_KERNEL(label_map_features)
        (in, map_view, true, wanted, labelled.outputs(), threads);
        CHECK(grid.sum[0] >= 0 && grid.high[0] < 2 && labelled.high[0] == 0 && labelled.high[1] < 2);
        CHECK(labelled.pixel_count[1] == height * out_width);
      }
      RALX_KERNEL(confusion_matrix)
      (in, map_view, view(counts, DType::int64, {C, C}), 255, false, threads);
      CHECK(std::accumulate(counts.begin() + C, counts.begin() + 2 * C, int64_t{0}) ==
            N * height * out_width);
      std::vector<float> bald_map(N * height * out_width), sum(N * regions), hist(N * regions * C);
      TensorView passes = view(logits, dtype, {1, N, C, height, width});
      std::copy(in.strides, in.strides + 4, passes.strides + 1);
      RALX_KERNEL(bald)
      (passes, {2, out_width}, true, true, view(bald_map, DType::float32, {N, height, out_width}),
       view(sum, DType::float32, {N, regions}), view(hist, DType::float32, {N, regions, C}), threads);
      for (float x : bald_map) CHECK(std::abs(x) < 5e-6);  // a single pass agrees with itself
    }
}

void test_any_width(int threads) {
  for (int64_t width : {1, 3, 4, 9, 16, 31, 33, 64, 70, 127}) {
    test_any_width<float>(DType::float32, width, threads);
    test_any_width<double>(DType::float64, width, threads);
    test_any_width<uint16_t>(DType::float16, width, threads);  // bits of tiny numbers
    test_any_width<uint16_t>(DType::bfloat16, width, threads);
  }
}

}  // namespace

int main() {
  test_exp_and_log<float>();
  test_exp_and_log<double>();
  for (ralx::Isa isa : {ralx::Isa::baseline, ralx::Isa::avx2, ralx::Isa::avx512}) {
    if (!ralx::runs_here(isa)) continue;
    ralx::use_isa(isa);
    for (int threads : {1, 2, 5}) {
      for (bool keep_edge : {false, true})
        for (bool with_scores : {false, true}) test_region_features(keep_edge, with_scores, threads);
      for (bool with_scores : {false, true}) test_label_map_features(with_scores, threads);
      test_upsampling_of_a_constant(threads);
      test_bald(threads);
      test_confusion_matrix(threads);
      test_kl_histogram(threads);
    }
    for (int threads : {1, 2}) test_any_width(threads);
  }
  std::puts("ok");
}
