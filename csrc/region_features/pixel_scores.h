// How a thread of a GPU measures its pixels: the predicted class, the entropy and the scores of each, from
// one read of the logits.
//
// Classes come in chunks, which are asked for as a whole and looked at twice while they lie in registers: for
// the largest so far, then for the sums z = Σ 2^t and tz = Σ t 2^t, t = (x - largest) log2 e; where the
// largest has grown since the last chunk, the sums are put right. So a logit takes about nine instructions,
// of which the special function unit has one.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/half_pairs.h"
#include "common/logit_pixels.h"
#include "common/pixel_math.h"

namespace ralx::RALX_ISA {

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

// Right for NaN, for -inf, and for logits so large that their difference is inf or that its bits are few.
template <bool kConfidence, typename Source, int kPixels = Source::kPixels>
__device__ void measure_any(const Source& source, const typename Source::At& at, Measured<kPixels>& out) {
  float largest[kPixels], second[kPixels], z[kPixels], tz[kPixels];
  each_class<1>(source, at, [&](int c, const float (&x)[kPixels]) {
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
  each_class<1>(source, at, [&](int, const float (&x)[kPixels]) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float t = step(x[i], i), e = exp2_to_zero(t);
      z[i] += e;
      tz[i] += t * e;
    }
  });
  RALX_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    const float one_over_z = 1 / z[i];
    const float entropy = softmax_entropy(z[i], tz[i], one_over_z);
    const float next = kConfidence ? exp2_to_zero(step(second[i], i)) * one_over_z : 0;
    set_scores<kConfidence>(i, entropy, one_over_z, next, out);
  }
}

// The largest and the second largest logit of each pixel and the class of the largest, the first of equal
// ones; NaN is overlooked.
template <bool kSecond, typename Source>
struct Largest {
  static constexpr int kPixels = Source::kPixels;
  using Raw = typename Source::At::Raw;

  RALX_HD Largest() {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      first_[i] = second_[i] = -__builtin_huge_valf();
      label_[i] = 0;
    }
  }

  RALX_HD void add(int c, const Raw& raw) {
    float x[kPixels];
    Source::At::convert(raw, x);
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      if constexpr (kSecond) second_[i] = higher(lower(x[i], first_[i]), second_[i]);
      const bool better = x[i] > first_[i];
      first_[i] = better ? x[i] : first_[i];
      label_[i] = better ? c : label_[i];
    }
  }

  RALX_HD float first(int i) const { return first_[i]; }
  RALX_HD float second(int i) const { return second_[i]; }
  RALX_HD int32_t label(int i) const { return label_[i]; }

 private:
  float first_[kPixels], second_[kPixels];
  int32_t label_[kPixels];
};

// The same of halves as they lie in memory, two at once.
template <bool kSecond, typename Short>
struct LargestOfPairs {
  static constexpr int kPixels = 8;
  using Raw = Pack<uint32_t, 4>;

  RALX_HD LargestOfPairs() {
    RALX_UNROLL
    for (int i = 0; i < 4; ++i) {
      first_.of[i] = second_.of[i] = LowestPair<Short>::kBits;
      label_[i] = 0;
    }
  }

  RALX_HD void add(int c, const Raw& raw) {
    const uint32_t both = static_cast<uint32_t>(c) * 0x10001u;
    RALX_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t x = raw.of[i], best = first_.of[i], better = greater_pairs(x, best, Short{});
      if constexpr (kSecond)
        second_.of[i] = max_of_pairs(min_of_pairs(x, best, Short{}), second_.of[i], Short{});
      first_.of[i] = max_of_pairs(x, best, Short{});
      label_[i] = (both & better) | (label_[i] & ~better);
    }
  }

  RALX_HD float first(int i) const { return to_real(half(first_.of, i)); }
  RALX_HD float second(int i) const { return to_real(half(second_.of, i)); }
  RALX_HD int32_t label(int i) const { return half(label_, i).bits; }

 private:
  static RALX_HD Short half(const uint32_t (&words)[4], int i) {
    return {static_cast<uint16_t>(words[i / 2] >> i % 2 * 16)};
  }

  Raw first_, second_;
  uint32_t label_[4];
};
template <bool kSecond>
struct Largest<kSecond, PlanarLogits<Half>> : LargestOfPairs<kSecond, Half> {};
template <bool kSecond>
struct Largest<kSecond, PlanarLogits<BFloat16>> : LargestOfPairs<kSecond, BFloat16> {};

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
  RALX_HD void follow_largest() {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float now = rounded_product(largest.first(i), -kLogFloat), growth = now - shift[i];
      shift[i] = now;
      if (growth < 0 && z[i] > 0) {
        const float scale = exp2_to_zero(growth);
        tz[i] = scale * (tz[i] + growth * z[i]);
        z[i] *= scale;
      }
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
    return (tz[i] > -0x1p120f) & (shift[i] < kLarge) & (shift[i] > -kLarge);
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

constexpr int kChunk = 8;

// Classes first .. first + kChunk - 1, as far as there are so many; kWhole says that there are.
template <bool kWhole, typename Source, typename Sums>
__device__ void add_chunk(const Source& source, const typename Source::At& at, int first, Sums& sums) {
  const int left = source.view.classes - first;
  typename Source::At::Raw raw[kChunk];
  RALX_UNROLL
  for (int k = 0; k < kChunk; ++k)
    if (kWhole || k < left) raw[k] = at.read(first + k);
  RALX_UNROLL
  for (int k = 0; k < kChunk; ++k)
    if (kWhole || k < left) sums.largest.add(first + k, raw[k]);
  sums.follow_largest();
  RALX_UNROLL
  for (int k = 0; k < kChunk; ++k)
    if (kWhole || k < left) {
      float x[Source::kPixels];
      Source::At::convert(raw[k], x);
      sums.add(x);
    }
}

// The pixels at `at`. A pixel whose entropy is NaN then is one for measure_any(), which is kept apart because
// it would need registers here.
template <bool kConfidence, typename Source, int kPixels = Source::kPixels>
__device__ void measure(const Source& source, const typename Source::At& at, Measured<kPixels>& out) {
  PixelSums<kConfidence, Source> sums;
  int first = 0;
  for (; first + kChunk <= source.view.classes; first += kChunk) add_chunk<true>(source, at, first, sums);
  if (first < source.view.classes) add_chunk<false>(source, at, first, sums);
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
