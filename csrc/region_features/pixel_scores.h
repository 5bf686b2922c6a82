// How a thread of a GPU measures its pixels: the predicted class, the entropy and the scores of each, from
// one read of the logits.
//
// Classes come in chunks, which are asked for as a whole and looked at twice while they lie in registers: for
// the largest so far, then for the sums z = Σ 2^t and tz = Σ t 2^t, t = (x - largest) log2 e; where the
// largest has grown since the last chunk, the sums are put right. So a logit takes about nine instructions, of
// which the special function unit has one.
#pragma once

#include <cstdint>

#include "common/logit_pixels.h"
#include "common/pixel_math.h"

namespace ralx::RALX_ISA {

// Of kPixels pixels. The confidence scores are set only where they are measured.
template <int kPixels>
struct Measured {
  float entropy[kPixels], margin[kPixels], least_confidence[kPixels];
  int32_t label[kPixels];
};

// a · b, rounded, whatever it is added to.
RALX_HD float rounded_product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

constexpr float kLogFloat = static_cast<float>(kLog2E);

// Never below 0, NaN where the entropy is.
RALX_HD float as_score(float score, float entropy) { return entropy == entropy ? higher(0.0f, score) : entropy; }

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

// The pixels of one thread, in a few registers each.
template <bool kConfidence, int kPixels>
struct PixelSums {
  float largest[kPixels], second[kPixels], shift[kPixels], z[kPixels], tz[kPixels];
  int32_t label[kPixels];

  RALX_HD PixelSums() {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      largest[i] = second[i] = -__builtin_huge_valf();
      shift[i] = z[i] = tz[i] = 0;
      label[i] = 0;
    }
  }

  RALX_HD void find_largest(int c, const float (&x)[kPixels]) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      if constexpr (kConfidence) second[i] = higher(lower(x[i], largest[i]), second[i]);
      const bool better = x[i] > largest[i];  // the first of equal ones
      largest[i] = better ? x[i] : largest[i];
      label[i] = better ? c : label[i];
    }
  }

  // Between the two: what was added so far is meant relative to the largest then. t grows by `growth`.
  RALX_HD void follow_largest() {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float now = rounded_product(largest[i], -kLogFloat), growth = now - shift[i];
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

  RALX_HD float step(float x, int i) const { return x * kLogFloat + shift[i]; }

  // Whether t was right: no NaN, nothing infinite, and `shift` rounded by less than a quarter.
  RALX_HD bool simple(int i) const {
    constexpr float kLarge = 0x1p22f;
    return (tz[i] > -0x1p120f) & (shift[i] < kLarge) & (shift[i] > -kLarge);
  }

  RALX_HD void finish(Measured<kPixels>& out) const {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const float one_over_z = 1 / z[i];
      const float entropy = higher(0.0f, (log2_of_sum(z[i]) - tz[i] * one_over_z) * static_cast<float>(kLn2));
      const float best = kConfidence ? exp2_to_zero(step(largest[i], i)) * one_over_z : 0;
      const float next = kConfidence ? exp2_to_zero(step(second[i], i)) * one_over_z : 0;
      set_scores<kConfidence>(i, simple(i) ? entropy : __builtin_nanf(""), best, next, out);
      out.label[i] = label[i];
    }
  }
};

constexpr int kChunk = 8;

// From here on the compiler knows nothing of `raw`: it can't keep the numbers that `raw` was converted to, which
// take more registers than a thread has, and converts it again.
template <typename Raw>
__device__ void forget(Raw& raw) {
#if defined(__CUDA_ARCH__)
  static_assert(sizeof(Raw) == 16);
  auto words = bit_cast<Pack<uint32_t, 4>>(raw);
  asm volatile("" : "+r"(words.of[0]), "+r"(words.of[1]), "+r"(words.of[2]), "+r"(words.of[3]));
  raw = bit_cast<Raw>(words);
#else
  static_cast<void>(raw);
#endif
}

// Classes first .. first + kChunk - 1, as far as there are so many; kWhole says that there are.
template <bool kWhole, typename Source, typename Sums>
__device__ void add_chunk(const Source& source, const typename Source::At& at, int first, Sums& sums) {
  const int left = source.view.classes - first;
  typename Source::At::Raw raw[kChunk];
  RALX_UNROLL
  for (int k = 0; k < kChunk; ++k)
    if (kWhole || k < left) raw[k] = at.read(first + k);
  float x[Source::kPixels];
  RALX_UNROLL
  for (int k = 0; k < kChunk; ++k)
    if (kWhole || k < left) {
      Source::At::convert(raw[k], x);
      sums.find_largest(first + k, x);
    }
  sums.follow_largest();
  RALX_UNROLL
  for (int k = 0; k < kChunk; ++k)
    if (kWhole || k < left) {
      if constexpr (sizeof(raw[k]) < sizeof(x)) forget(raw[k]);
      Source::At::convert(raw[k], x);
      sums.add(x);
    }
}

// The pixels at `at`. A pixel whose entropy is NaN then is one for measure_any(), which is kept apart because
// it would need registers here.
template <bool kConfidence, typename Source, int kPixels = Source::kPixels>
__device__ void measure(const Source& source, const typename Source::At& at, Measured<kPixels>& out) {
  PixelSums<kConfidence, kPixels> sums;
  int first = 0;
  for (; first + kChunk <= source.view.classes; first += kChunk) add_chunk<true>(source, at, first, sums);
  if (first < source.view.classes) add_chunk<false>(source, at, first, sums);
  sums.finish(out);
}

}  // namespace ralx::RALX_ISA
