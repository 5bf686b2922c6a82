// The largest logit of each pixel of a thread, and its class.
#pragma once

#include <cstdint>

#include "common/gpu/fast_math.h"
#include "common/gpu/half_pairs.h"
#include "common/gpu/logit_pixels.h"

namespace ralx::RALX_ISA {

// The largest and the second largest logit of each pixel, and the class of the largest logit, the lowest of
// equal ones. Where a logit is NaN the largest is NaN too; the second and the class are then of no use.
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
      label_[i] = x[i] > first_[i] ? c : label_[i];
      first_[i] = larger_or_nan(x[i], first_[i]);
    }
  }

  RALX_HD float first(int i) const { return first_[i]; }
  RALX_HD float second(int i) const { return second_[i]; }
  RALX_HD int32_t label(int i) const { return label_[i]; }

 private:
  float first_[kPixels], second_[kPixels];
  int32_t label_[kPixels];
};

// Largest of 16-bit logits, which are compared as they lie in memory, two at once.
template <bool kSecond, typename Short, int kPixels>
struct LargestOfPairs {
  static constexpr int kWords = kPixels / 2;
  using Raw = Pack<uint32_t, kWords>;

  RALX_HD LargestOfPairs() {
    RALX_UNROLL
    for (int i = 0; i < kWords; ++i) {
      first_.of[i] = second_.of[i] = LowestPair<Short>::kBits;
      label_[i] = 0;
    }
  }

  RALX_HD void add(int c, const Raw& raw) {
    const uint32_t both = static_cast<uint32_t>(c) * 0x10001u;
    RALX_UNROLL
    for (int i = 0; i < kWords; ++i) {
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
  static RALX_HD Short half(const uint32_t (&words)[kWords], int i) {
    return {static_cast<uint16_t>(words[i / 2] >> i % 2 * 16)};
  }

  Raw first_, second_;
  uint32_t label_[kWords];
};
template <bool kSecond, int kClasses, int kPixels>
struct Largest<kSecond, PlanarLogits<Half, kClasses, kPixels>> : LargestOfPairs<kSecond, Half, kPixels> {};
template <bool kSecond, int kClasses, int kPixels>
struct Largest<kSecond, PlanarLogits<BFloat16, kClasses, kPixels>>
    : LargestOfPairs<kSecond, BFloat16, kPixels> {};

// The predicted class of each pixel, by torch.argmax's rules.
template <typename Source>
__device__ void predict(const Source& source, const typename Source::At& at,
                        int32_t (&label)[Source::kPixels]) {
  constexpr int kPixels = Source::kPixels;
  constexpr int kAhead = Source::kClasses > 0 ? Source::kClasses : Source::kInterpolates ? 4 : 8;
  Largest<false, Source> largest;
  each_chunk<kAhead>(source, at, [&](int first, const auto& raw, auto count) {
    RALX_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (k < count) largest.add(first + k, raw[k]);
  });
  bool simple = true;
  RALX_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    label[i] = largest.label(i);
    simple &= largest.first(i) == largest.first(i);
  }
  if (simple) return;
  float best[kPixels];
  each_class_exactly(source, at, [&](int c, const float (&logit)[kPixels]) {
    RALX_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      if (c == 0) {
        best[i] = logit[i];
        label[i] = 0;
      } else {
        argmax_step(logit[i], c, best[i], label[i]);
      }
    }
  });
}

}  // namespace ralx::RALX_ISA
