// How a thread of a GPU measures its pixels: the predicted class, the entropy and the scores of each, from
// one read of the logits.
//
// Classes come in chunks, which are asked for as a whole and looked at twice while they lie in registers: for
// the largest so far, then for the sums z = Σ 2^t and tz = Σ t 2^t, t = (x - largest) log2 e; where the
// largest has grown since the last chunk, the sums are put right. So a logit takes seven to nine
// instructions, of which the special function unit has one. Where the number of classes is known to the
// compiler there is one chunk, and nothing to put right.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/gpu/fast_math.h"
#include "common/gpu/largest_logit.h"
#include "common/gpu/logit_pixels.h"

namespace ralx::RALX_ISA {

constexpr int kPixelsOfThread = 4;  // at once, where all classes are

// Of kPixels pixels. The confidence scores are set only where they are measured.
template <int kPixels>
struct Measured {
  float entropy[kPixels], margin[kPixels], least_confidence[kPixels];
  int32_t label[kPixels];
};

constexpr float kLogFloat = static_cast<float>(kLog2E);

// Never below 0, NaN where the entropy is.
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

// What is carried out of the sums of many classes, with the `shift` that it is relative to. There are no
// registers for what is looked at once in some 32 classes.
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

// Right for NaN, for -inf, and for logits so large that their difference is inf or that its bits are few.
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

// The pixels of one thread, in a few registers each.
template <bool kConfidence, typename Source>
struct PixelSums {
  static constexpr int kPixels = Source::kPixels;
  Largest<kConfidence, Source> largest;
  float shift[kPixels], z[kPixels], tz[kPixels];

  RALX_HD PixelSums() {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) shift[i] = z[i] = tz[i] = 0;
  }

  // After `largest` has seen some more classes and before add() sees them: what was added so far is meant
  // relative to the largest then.
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

  // Whether t was right: no NaN, nothing infinite, and `shift` rounded by less than a quarter.
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

// The pixels at `at`. A pixel whose entropy is NaN then is one for measure_any(), which is kept apart because
// it would need registers here.
template <bool kConfidence, typename Source, int kPixels = Source::kPixels>
__device__ void measure(const Source& source, const typename Source::At& at, Measured<kPixels>& out) {
  PixelSums<kConfidence, Source> sums;
  ClassTotals<kPixels> totals;
  constexpr int kChunk = Source::kInterpolates || kPixels > 4 ? 6 : 8;  // for which there are registers
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

// Both, where there are registers enough.
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
