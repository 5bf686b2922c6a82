#include "label_map_features/label_map_features.h"

#include <omp.h>

#include "common/cpu/dispatch.h"
#include "common/cpu/label_rows.h"
#include "common/cpu/pixel_rows.h"
#include "common/cpu/plain_floats.h"
#include "common/scores.h"
#include "label_map_features/fixed_point.h"

namespace ralx::RALX_ISA {
namespace {

// The pixels that one thread found in the regions of one image.
template <typename Real>
struct Totals {
  Real *min, *max;  // [R] of the entropy; NaN stays NaN
  int64_t* sums;    // [1 + S, R] of the entropy and the scores
  int32_t* counts;  // [R, C]

  Totals(int64_t regions, int64_t classes, int64_t kinds, Arena& arena)
      : min(arena.take<Real>(regions)), max(arena.take<Real>(regions)),
        sums(arena.take<int64_t>(kinds * regions)), counts(arena.take<int32_t>(regions * classes)) {}
};

template <typename Real>
class Worker {
 public:
  Worker(const LogitSource<Real>& source, const LabelRows& map, int64_t regions, const Scores& scores,
         Arena& arena)
      : totals(regions, source.classes, 1 + count(scores), arena), map_(map), regions_(regions),
        width_(source.width), classes_(source.classes), scores_(scores), rows_(source, scores, arena),
        region_(arena.take<int64_t>(source.width)) {}

  void prepare() { rows_.prepare(); }

  void clear() {
    for (int64_t r = 0; r < regions_; ++r) {
      totals.min[r] = static_cast<Real>(__builtin_huge_val());
      totals.max[r] = -totals.min[r];
    }
    for (int64_t i = 0; i < (1 + count(scores_)) * regions_; ++i) totals.sums[i] = 0;
    for (int64_t i = 0; i < regions_ * classes_; ++i) totals.counts[i] = 0;
  }

  BadLabel add_row(int64_t image, int64_t y, int64_t height) {
    map_.read(image, y, region_);
    for (int64_t x = 0; x < width_; ++x)
      if (region_[x] >= regions_) return {BadLabel::region, (image * height + y) * width_ + x, region_[x]};
    rows_.seek(image, y);
    for (int64_t x = 0; x < width_; ++x) {
      const int64_t r = region_[x];
      if (r < 0) continue;
      const Real entropy = rows_.entropy()[x];
      totals.min[r] = (entropy < totals.min[r]) | (entropy != entropy) ? entropy : totals.min[r];
      totals.max[r] = (entropy > totals.max[r]) | (entropy != entropy) ? entropy : totals.max[r];
      totals.sums[r] += to_fixed(entropy);
      ++totals.counts[r * classes_ + rows_.label()[x]];
    }
    for (int64_t s = 0; s < count(scores_); ++s) {
      const Real* score = rows_.score(s);
      int64_t* sums = totals.sums + (s + 1) * regions_;
      for (int64_t x = 0; x < width_; ++x)
        if (region_[x] >= 0) sums[region_[x]] += to_fixed(score[x]);
    }
    return {BadLabel::none, 0, 0};
  }

  Totals<Real> totals;

 private:
  const LabelRows map_;
  const int64_t regions_, width_, classes_;
  const Scores scores_;
  PixelRows<Real> rows_;
  int64_t* const region_;  // [W]
};

// Writes region r, which is number `out_r` among the regions of all images, from the totals of all threads.
template <typename Real>
void write(const Totals<Real>* totals, int threads, int64_t r, int64_t regions, int64_t classes,
           int64_t kinds, int64_t out_r, int64_t all_regions, const RegionOutputs& out) {
  Real min = totals[0].min[r], max = totals[0].max[r];
  for (int t = 1; t < threads; ++t) {
    const Real other_min = totals[t].min[r], other_max = totals[t].max[r];
    min = (other_min < min) | (other_min != other_min) ? other_min : min;
    max = (other_max > max) | (other_max != other_max) ? other_max : max;
  }
  int64_t pixels = 0;
  for (int t = 0; t < threads; ++t)
    for (int64_t c = 0; c < classes; ++c) pixels += totals[t].counts[r * classes + c];
  const double area = static_cast<double>(pixels > 0 ? pixels : 1);
  for (int64_t c = 0; c < classes; ++c) {
    int64_t count = 0;
    for (int t = 0; t < threads; ++t) count += totals[t].counts[r * classes + c];
    out.class_hist[out_r * classes + c] = static_cast<float>(static_cast<double>(count) / area);
  }
  const double bad = min == min ? 0 : __builtin_nan("");
  for (int64_t kind = 0; kind < kinds; ++kind) {
    int64_t units = 0;
    for (int t = 0; t < threads; ++t) units += totals[t].sums[kind * regions + r];
    const double sum = static_cast<double>(units) * kFixedUnit + bad;
    if (kind == 0) out.entropy_avg[out_r] = static_cast<float>(sum / area);
    (kind == 0 ? out.entropy_sum : out.score_sum + (kind - 1) * all_regions)[out_r] = static_cast<float>(sum);
  }
  out.entropy_min[out_r] = pixels > 0 ? static_cast<float>(min) : 0;
  out.entropy_max[out_r] = pixels > 0 ? static_cast<float>(max) : 0;
  out.pixel_count[out_r] = pixels;
}

template <typename Real>
BadLabel compute(const LogitSource<Real>& source, const LabelRows& map, const Scores& scores,
                 const RegionOutputs& out, int threads) {
  const int64_t regions = out.regions;
  // Each thread has totals of its own. There are only so many threads that all totals together take no more
  // memory than the logits of an image.
  threads = static_cast<int>(min_of(threads, 1 + source.height * source.width / (regions > 0 ? regions : 1)));
  const auto make_worker = [&](Arena& arena) { return Worker<Real>(source, map, regions, scores, arena); };
  ThreadScratch scratch(threads, make_worker);
  Buffer<Totals<Real>> totals(threads);
  BadLabel bad{BadLabel::none, 0, 0};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const PlainFloats plain;
    const int thread = omp_get_thread_num(), team = omp_get_num_threads();  // maybe fewer than `threads`
    Arena arena = scratch.arena(thread);
    Worker<Real> worker = make_worker(arena);
    worker.prepare();
    totals[thread] = worker.totals;
    BadLabel own{BadLabel::none, 0, 0};
    for (int64_t image = 0; image < source.images; ++image) {
      worker.clear();
#pragma omp for schedule(static)
      for (int64_t y = 0; y < source.height; ++y) own = earlier(own, worker.add_row(image, y, source.height));
#pragma omp for schedule(static)
      for (int64_t r = 0; r < regions; ++r)
        write(totals.data(), team, r, regions, source.classes, 1 + count(scores), image * regions + r,
              source.images * regions, out);
    }
#pragma omp critical(ralx_label_map_features)
    bad = earlier(bad, own);
  }
  return bad;
}

}  // namespace

BadLabel label_map_features(const TensorView& logits, const TensorView& regions, bool align_corners,
                            const Scores& scores, const RegionOutputs& out, int threads) {
  BadLabel bad{BadLabel::none, 0, 0};
  dispatch_real(logits.dtype, [&](auto real) {
    using Real = decltype(real);
    const LogitSource<Real> source(logits, {regions.sizes[1], regions.sizes[2]}, align_corners);
    bad = compute(source, LabelRows{regions}, scores, out, threads);
  });
  return bad;
}

}  // namespace ralx::RALX_ISA
