// The kernels of confusion_matrix_cuda.cu, run on the host's grid, against the CPU's.
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "confusion_matrix/confusion_matrix.h"
#include "cuda_cases.h"

namespace {

using ralx::DType;
using ralx::Extent;
using ralx::TensorView;

constexpr int64_t kIgnored = 2;  // a class like the others, as far as there are so many

struct Case {
  int64_t images, classes, height, width;
  Extent source;
  DType dtype, target;
  Layout layout;
  bool align_corners;
};

std::vector<int64_t> on_cpu(const TensorView& prediction, const TensorView& target, int64_t classes,
                            bool align_corners) {
  std::vector<int64_t> counts(classes * classes, -1);
  const TensorView out = contiguous(counts.data(), DType::int64, {classes, classes});
  const ralx::BadLabel bad =
      ralx::baseline::confusion_matrix(prediction, target, out, kIgnored, align_corners, 1);
  CHECK(bad.kind == ralx::BadLabel::none);
  return counts;
}

std::vector<int64_t> on_grid(const TensorView& prediction, const TensorView& target, int64_t classes,
                             bool align_corners) {
  std::vector<int64_t> counts(classes * classes, -1);
  const TensorView out = contiguous(counts.data(), DType::int64, {classes, classes});
  in_both_orders(counts,
                 [&] { ralx::cuda::confusion_matrix(prediction, target, out, kIgnored, align_corners, 0); });
  return counts;
}

void test_logits(const Case& c) {
  const Logits logits(c.dtype, {c.images, c.classes, c.source.height, c.source.width}, c.layout, 1);
  const Labels target(c.target, {c.images, c.height, c.width}, c.classes, kIgnored, 2);
  CHECK(on_grid(logits.view, target.view, c.classes, c.align_corners) ==
        on_cpu(logits.view, target.view, c.classes, c.align_corners));
}

// A label that is out of range counts nowhere.
void test_skips_what_is_out_of_range() {
  std::vector<int16_t> prediction{0, 1, 2, 3, -1, 1}, target{0, 1, 3, 1, 1, -7};
  std::vector<int64_t> counts(9, -1);
  ralx::cuda::confusion_matrix(contiguous(prediction.data(), DType::int16, {1, 2, 3}),
                               contiguous(target.data(), DType::int16, {1, 2, 3}),
                               contiguous(counts.data(), DType::int64, {3, 3}), 255, false, 0);
  CHECK((counts == std::vector<int64_t>{1, 0, 0, 0, 1, 0, 0, 0, 0}));
}

void test_label_maps() {
  const Labels prediction(DType::int32, {3, 17, 29}, 6, 5, 3),
      target(DType::uint8, {3, 17, 29}, 6, kIgnored, 4);
  CHECK(on_grid(prediction.view, target.view, 6, false) == on_cpu(prediction.view, target.view, 6, false));
}

}  // namespace

int main() {
  for (DType dtype : {DType::float32, DType::float16, DType::bfloat16})
    for (Layout layout : {Layout::contiguous, Layout::channels_last, Layout::strided})
      for (bool align_corners : {false, true}) {
        test_logits({2, 19, 9, 40, {9, 40}, dtype, DType::uint8, layout, align_corners});
        test_logits({1, 11, 7, 33, {7, 33}, dtype, DType::int64, layout, align_corners});
        test_logits({2, 5, 20, 31, {6, 9}, dtype, DType::int16, layout, align_corners});
        test_logits({1, 1, 5, 16, {5, 16}, dtype, DType::int32, layout, align_corners});
      }
  test_logits({1, 40, 8, 24, {8, 24}, DType::float32, DType::uint8, Layout::channels_last, false});
  test_logits({1, 150, 8, 24, {8, 24}, DType::float32, DType::uint8, Layout::contiguous, false});
  test_logits({0, 3, 8, 24, {8, 24}, DType::float32, DType::uint8, Layout::contiguous, false});
  test_label_maps();
  test_skips_what_is_out_of_range();
}
