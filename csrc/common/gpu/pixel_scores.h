// A pixel's entropy on a GPU: measure() computes the entropy, the predicted class and the scores of a
// thread's pixels from one read of the logits. On the CPU, common/cpu/block_math.h and pixel_rows.h compute
// them.
//
// Classes come in chunks. The loads of a chunk leave at once, and its logits are looked at twice while they
// lie in registers: for the largest logit so far, then for the sums z = Σ 2^t and tz = Σ t 2^t with t = (x -
// largest) log2 e. Where the largest logit has grown since the last chunk, the sums are first made relative
// to the new largest logit. So a logit takes seven to nine instructions, one of them in the special function
// unit. Where the compiler knows the number of classes there is one chunk, and no sum to correct.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/gpu/fast_math.h"
#include "common/gpu/largest_logit.h"
#include "common/gpu/logit_pixels.h"

namespace ralx::RALX_ISA {

constexpr int kPixelsOfThread = 4;  // of a source that with_classes() makes

// The measurements of kPixels pixels. margin and least_confidence are set only by functions with kConfidence.
template <int kPixels>
struct Measured {
  float entropy[kPixels], margin[kPixels], least_confidence[kPixels];
  int32_t label[kPixels];
};

constexpr float kLogFloat = static_cast<float>(kLog2E);

// A score is never below 0, and NaN where the entropy is NaN.
RALX_HD float as_score(float score, float entropy) {
  return entropy == entropy ? higher(0.0f, score) : entropy;
}

template <bool kConfidence, int kPixels>
RALX_HD void set_scores(int i, float entropy, float best, float second, Measured<kPixels>& out) {
  out.entropy[i] = entropy;
  if constexpr (kConfidence) {
    out.margin[i] = as_score(1 - (best - second), entropy);
    out.least_confidence[i] = as_score(1 - best, entropy);
  }
}

// Totals to which the sums of many classes are carried, and the `shift` to which the totals are relative.
// They are touched once in some 32 classes, too seldom to be worth registers: hence `volatile`.
template <int kPixels>
struct ClassTotals {
  volatile float z[kPixels], tz[kPixels], shift[kPixels];

  RALX_HD void clear(int i) { z[i] = tz[i] = 0; }
  RALX_HD void follow(int i, float now) {
    const float growth = now - shift[i], scale = exp2_to_zero(growth), before = z[i];
    tz[i] = scale * fmaf(growth, before, tz[i]);
    z[i] = scale * before;
    shift[i] = now;
  }
  RALX_HD void carry_from(int i, float& sum_z, float& sum_tz) {
    float total_z = z[i], total_tz = tz[i];
    carry(sum_z, total_z);
    carry(sum_tz, total_tz);
    z[i] = total_z;
    tz[i] = total_tz;
  }
};

// Measures pixels of any logits: right also for NaN, for -inf, and for logits so large that x - largest is
// infinite or has few bits.
template <bool kConfidence, typename Source, int kPixels = Source::kPixels>
__device__ void measure_any(const Source& source, const typename Source::At& at, Measured<kPixels>& out) {
  float largest[kPixels], second[kPixels], z[kPixels], tz[kPixels];
  each_class_exactly(source, at, [&](int c, const float (&x)[kPixels]) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      if (c == 0) {
        largest[i] = x[i];
        second[i] = -__builtin_huge_valf();
        z[i] = tz[i] = 0;
        out.label[i] = 0;
      } else {
        if constexpr (kConfidence) second[i] = higher(lower(x[i], largest[i]), second[i]);
        argmax_step(x[i], c, largest[i], out.label[i]);
      }
    }
  });
  const auto step = [&](float x, int i) { return higher(kFloor<float>, (x - largest[i]) * kLogFloat); };
  ClassTotals<kPixels> totals;
  RALX_UNROLL
  for (int i = 0; i < kPixels; ++i) totals.clear(i);
  each_class_exactly(source, at, [&](int c, const float (&x)[kPixels]) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float t = step(x[i], i), e = exp2_to_zero(t);
      z[i] += e;
      tz[i] += t * e;
      if ((c + 1) % kFewClasses == 0) totals.carry_from(i, z[i], tz[i]);
    }
  });
  RALX_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    z[i] += totals.z[i];
    tz[i] += totals.tz[i];
    const float one_over_z = 1 / z[i];
    const float entropy = softmax_entropy(z[i], tz[i], one_over_z);
    const float next = kConfidence ? exp2_to_zero(step(second[i], i)) * one_over_z : 0;
    set_scores<kConfidence>(i, entropy, one_over_z, next, out);
  }
}

// The sums of one thread's pixels, which take a few registers a pixel.
template <bool kConfidence, typename Source>
struct PixelSums {
  static constexpr int kPixels = Source::kPixels;
  Largest<kConfidence, Source> largest;
  float shift[kPixels], z[kPixels], tz[kPixels];

  RALX_HD PixelSums() {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) shift[i] = z[i] = tz[i] = 0;
  }

  // Makes the sums, which are relative to the largest logit of the chunks before, relative to the largest
  // logit now. Is called after `largest` has seen the logits of a chunk, and before add() sees them.
  RALX_HD void follow_largest(bool of_first_chunk) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float now = rounded_product(largest.first(i), -kLogFloat);
      if (!of_first_chunk) {
        const float growth = now - shift[i], scale = exp2_to_zero(growth);
        tz[i] = scale * fmaf(growth, z[i], tz[i]);
        z[i] *= scale;
      }
      shift[i] = now;
    }
  }

  RALX_HD void carry_into(ClassTotals<kPixels>& totals, bool first_time) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      if (first_time) {
        totals.clear(i);
        totals.shift[i] = shift[i];
      }
      totals.follow(i, shift[i]);
      totals.carry_from(i, z[i], tz[i]);
    }
  }
  RALX_HD void take(const ClassTotals<kPixels>& totals) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      z[i] = totals.z[i];
      tz[i] = totals.tz[i];
    }
  }

  RALX_HD void add(const float (&x)[kPixels]) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float t = step(x[i], i), e = exp2_to_zero(t);
      z[i] += e;
      tz[i] += t * e;
    }
  }

  RALX_HD float step(float x, int i) const { return fmaf(x, kLogFloat, shift[i]); }

  // Whether every t of pixel i was right: no logit was NaN or infinite, and `shift` was rounded by less than
  // a quarter.
  RALX_HD bool simple(int i) const {
    constexpr float kLarge = 0x1p22f;
    return (tz[i] > -0x1p120f) & (fabsf(shift[i]) < kLarge);
  }

  RALX_HD void finish(Measured<kPixels>& out) const {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float one_over_z = reciprocal_of_sum(z[i]);
      const float entropy = higher(0.0f, (log2_of_sum(z[i]) - tz[i] * one_over_z) * static_cast<float>(kLn2));
      const float best = kConfidence ? exp2_to_zero(step(largest.first(i), i)) * one_over_z : 0;
      const float next = kConfidence ? exp2_to_zero(step(largest.second(i), i)) * one_over_z : 0;
      set_scores<kConfidence>(i, simple(i) ? entropy : __builtin_nanf(""), best, next, out);
      out.label[i] = largest.label(i);
    }
  }
};

// Measures the pixels at `at`. A pixel whose entropy comes out as NaN has to be measured again by
// measure_any(), which is not called here because it would take registers.
template <bool kConfidence, typename Source, int kPixels = Source::kPixels>
__device__ void measure(const Source& source, const typename Source::At& at, Measured<kPixels>& out) {
  PixelSums<kConfidence, Source> sums;
  ClassTotals<kPixels> totals;
  constexpr int kChunk = Source::kInterpolates || kPixels > 4 ? 6 : 8;  // as many as there are registers for
  constexpr int kAhead = Source::kClasses > 0 ? Source::kClasses : kChunk;
  const bool many = Source::kClasses == 0 && source.view.classes > kFewClasses;
  each_chunk<kAhead>(source, at, [&](int first, const auto& raw, auto count) {
    RALX_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (k < count) sums.largest.add(first + k, raw[k]);
    sums.follow_largest(first == 0);
    RALX_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (k < count) {
        float x[kPixels];
        Source::At::convert(raw[k], x);
        sums.add(x);
      }
    constexpr int kLast = 3 * kAhead;
    if (many && first % (kLast + kAhead) == kLast) sums.carry_into(totals, first == kLast);
  });
  if (many) {
    sums.carry_into(totals, false);
    sums.take(totals);
  }
  sums.finish(out);
}

// measure(), and measure_any() where a pixel needs it: for kernels that have registers enough for both.
template <bool kConfidence, typename Source, int kPixels = Source::kPixels>
__device__ void measure_all(const Source& source, const typename Source::At& at, Measured<kPixels>& out) {
  measure<kConfidence>(source, at, out);
  bool again = false;
  RALX_UNROLL
  for (int i = 0; i < kPixels; ++i) again |= out.entropy[i] != out.entropy[i];
  if (!again) return;
  Measured<kPixels> any;
  measure_any<kConfidence>(source, at, any);
  RALX_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    const bool simple = out.entropy[i] == out.entropy[i];
    out.entropy[i] = simple ? out.entropy[i] : any.entropy[i];
    out.label[i] = simple ? out.label[i] : any.label[i];
    if constexpr (kConfidence) {
      out.margin[i] = simple ? out.margin[i] : any.margin[i];
      out.least_confidence[i] = simple ? out.least_confidence[i] : any.least_confidence[i];
    }
  }
}

}  // namespace ralx::RALX_ISA
