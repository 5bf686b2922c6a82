#include "confusion_matrix/confusion_matrix.h"

#include <omp.h>

#include "common/cpu/block_math.h"
#include "common/cpu/dispatch.h"
#include "common/cpu/label_rows.h"
#include "common/cpu/plain_floats.h"

namespace ralx::RALX_ISA {
namespace {

// The rows of the label map that logits predict.
template <typename Real>
struct ArgmaxRows {
  const LogitSource<Real>& source;
  LogitReader<Real> reader;

  void read(int64_t n, int64_t y, int64_t* out) {
    Real best[kBlock<Real>];
    int32_t label[kBlock<Real>];
    reader.seek(n, y);
    for (int64_t x = 0; x < source.width; x += kBlock<Real>) {
      block_argmax(reader.read(x), source.classes, best, label);
      const int64_t count = min_of(kBlock<Real>, source.width - x);
      for (int64_t i = 0; i < count; ++i) out[x + i] = label[i];
    }
  }
};

BadLabel count_row(const int64_t* target, const int64_t* prediction, int64_t width, int64_t classes,
                   int64_t ignore_index, int64_t position, int64_t* counts) {
  for (int64_t x = 0; x < width; ++x) {
    const int64_t t = target[x], p = prediction[x];
    if (t == ignore_index) continue;
    if (t < 0 || t >= classes) return {BadLabel::target, position + x, t};
    if (p < 0 || p >= classes) return {BadLabel::prediction, position + x, p};
    ++counts[t * classes + p];
  }
  return {BadLabel::none, 0, 0};
}

// make_predictions(arena) makes a reader of the predicted labels, ArgmaxRows or LabelRows; each thread has
// its own reader.
template <typename MakePredictions>
BadLabel count_all(const TensorView& target, const TensorView& counts, int64_t ignore_index, int threads,
                   const MakePredictions& make_predictions) {
  const int64_t height = target.sizes[1], width = target.sizes[2], rows = target.sizes[0] * height;
  const int64_t classes = counts.sizes[0], cells = classes * classes;
  const LabelRows targets{target};
  // Each thread has a matrix of its own. There are only so many threads that all matrices together have no
  // more cells than there are pixels.
  threads = static_cast<int>(min_of(threads, 1 + rows * width / cells));
  ThreadScratch scratch(threads, [&](Arena& arena) {
    arena.take<int64_t>(2 * width);
    make_predictions(arena);
  });
  Buffer<int64_t> partial(threads * cells);
  for (int64_t i = 0; i < threads * cells; ++i) partial[i] = 0;
  BadLabel bad{BadLabel::none, 0, 0};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const PlainFloats plain;
    const int thread = omp_get_thread_num();
    Arena arena = scratch.arena(thread);
    int64_t* row_target = arena.take<int64_t>(2 * width);
    int64_t* row_prediction = row_target + width;
    auto predictions = make_predictions(arena);
    BadLabel own{BadLabel::none, 0, 0};
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      targets.read(row / height, row % height, row_target);
      predictions.read(row / height, row % height, row_prediction);
      own = earlier(own, count_row(row_target, row_prediction, width, classes, ignore_index, row * width,
                                   partial.data() + thread * cells));
    }
#pragma omp critical(ralx_confusion_matrix)
    bad = earlier(bad, own);
  }
  int64_t* out = static_cast<int64_t*>(counts.data);
  for (int64_t i = 0; i < cells; ++i) {
    out[i] = 0;
    for (int64_t thread = 0; thread < threads; ++thread) out[i] += partial[thread * cells + i];
  }
  return bad;
}

}  // namespace

BadLabel confusion_matrix(const TensorView& prediction, const TensorView& target, const TensorView& counts,
                          int64_t ignore_index, bool align_corners, int threads) {
  if (prediction.ndim == 3)
    return count_all(target, counts, ignore_index, threads, [&](Arena&) { return LabelRows{prediction}; });
  BadLabel bad{BadLabel::none, 0, 0};
  dispatch_real(prediction.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(prediction, {target.sizes[1], target.sizes[2]}, align_corners);
    const auto make_rows = [&](Arena& arena) { return ArgmaxRows<Real>{source, {source, arena}}; };
    bad = count_all(target, counts, ignore_index, threads, make_rows);
  });
  return bad;
}

}  // namespace ralx::RALX_ISA
