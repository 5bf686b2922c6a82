// The kernels without Python and without torch: each instruction set of this CPU against plain loops in
// double.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "bald/bald.h"
#include "common/pixel_math.h"
#include "confusion_matrix/confusion_matrix.h"
#include "kl_histogram/kl_histogram.h"
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

void test_region_features(int threads) {
  std::vector<float> logits = random_logits(N * C * H * W);
  std::vector<float> hist(N * R * C), low(N * R * CH * CW), mean(low), high(low), sum(N * R), none;
  RALX_KERNEL(region_features)
  (view(logits, DType::float32, {N, C, H, W}), {RH, RW}, false, {H, W}, false, {false, false, 0},
   view(hist, DType::float32, {N, R, C}), view(low, DType::float32, {N, R, CH, CW}),
   view(mean, DType::float32, {N, R, CH, CW}), view(high, DType::float32, {N, R, CH, CW}),
   view(sum, DType::float32, {N, R}), view(none, DType::float32, {0, N, R}), threads);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t r = 0; r < R; ++r) {
      double total = 0;
      std::vector<int64_t> counts(C);
      std::vector<double> cell_min(CH * CW, 1e9), cell_max(CH * CW, -1e9), cell_sum(CH * CW);
      for (int64_t y = 0; y < RH; ++y)
        for (int64_t x = 0; x < RW; ++x) {
          const Pixel pixel = pixel_at(logits, n, r / cols * RH + y, r % cols * RW + x);
          const int64_t cell = y / (RH / CH) * CW + x / (RW / CW);
          total += pixel.entropy;
          ++counts[pixel.label];
          cell_min[cell] = std::min(cell_min[cell], pixel.entropy);
          cell_max[cell] = std::max(cell_max[cell], pixel.entropy);
          cell_sum[cell] += pixel.entropy;
        }
      CHECK(std::abs(sum[n * R + r] - total) < 4e-6 * RH * RW);
      for (int64_t c = 0; c < C; ++c)
        CHECK(hist[(n * R + r) * C + c] == static_cast<float>(counts[c] / static_cast<double>(RH * RW)));
      for (int64_t cell = 0; cell < CH * CW; ++cell) {
        const int64_t i = (n * R + r) * CH * CW + cell;
        CHECK(std::abs(low[i] - cell_min[cell]) < 4e-6);
        CHECK(std::abs(high[i] - cell_max[cell]) < 4e-6);
        CHECK(std::abs(mean[i] - cell_sum[cell] / (RH / CH * (RW / CW))) < 4e-6);
      }
    }
}

void test_upsampling_of_a_constant(int threads) {
  std::vector<float> logits(C * 3 * 4);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = i / 12 == 2 ? 7.0f : 0.0f;
  std::vector<float> hist(C), low(1), mean(1), high(1), sum(1), none;
  RALX_KERNEL(region_features)
  (view(logits, DType::float32, {1, C, 3, 4}), {50, 90}, false, {50, 90}, true, {false, false, 0},
   view(hist, DType::float32, {1, 1, C}), view(low, DType::float32, {1, 1, 1, 1}),
   view(mean, DType::float32, {1, 1, 1, 1}), view(high, DType::float32, {1, 1, 1, 1}),
   view(sum, DType::float32, {1, 1}), view(none, DType::float32, {0, 1, 1}), threads);
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

}  // namespace

int main() {
  test_exp_and_log<float>();
  test_exp_and_log<double>();
  for (ralx::Isa isa : {ralx::Isa::baseline, ralx::Isa::avx2, ralx::Isa::avx512}) {
    if (!ralx::runs_here(isa)) continue;
    ralx::use_isa(isa);
    for (int threads : {1, 2, 5}) {
      test_region_features(threads);
      test_upsampling_of_a_constant(threads);
      test_bald(threads);
      test_confusion_matrix(threads);
      test_kl_histogram(threads);
    }
  }
  std::puts("ok");
}
