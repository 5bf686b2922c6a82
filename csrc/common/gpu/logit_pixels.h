// Logits as the threads of a GPU read them: each thread has kPixels neighbours of a row, one class after
// another. A kernel is a template over the source, which knows the element type and the layout. Each source
// takes the classes in chunks of its own size and interpolates in an order of its own. So results from two
// layouts of equal logits agree up to rounding, not to the last bit.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/gpu/cuda.h"
#include "common/gpu/logit_view.h"
#include "common/gpu/upsampled_logits.h"
#include "common/scalar.h"

namespace ralx::RALX_ISA {

// Each source has
//   kPixels         pixels of a thread; x and the row's width are multiples of kPixels
//   kInterpolates   whether a logit takes several loads, and registers for them
//   kClasses        how many classes there are; 0: view.classes
//   at(t, n, y, x, wanted, warp)
//                   an At, the logits of pixels x .. x + kPixels - 1. All lanes of a warp call at() together,
//                   also lanes that want no pixel; `warp` is shared memory of this warp, warp_bytes() long,
//                   or null
//   At::read(c)     the logits of class c as they are stored, so that reading ahead costs few registers.
//                   Where a source interpolates, a logit may come out as NaN because a neighbour of weight 0
//                   is infinite or NaN
//   At::exact(c)    the logits of class c like read(c), but without looking at neighbours of weight 0
//   At::from(c)     an At of these pixels whose class 0 is class c: read(k) is cheap for a constant k
//   At::convert(raw, x)
//                   converts the result of read() or exact() to float

// Logits at native size, where the pixels of a row lie side by side in memory, aligned: one load a class, of
// 16 bytes unless fewer pixels are wanted.
template <typename Stored, int kNumber = 0, int kGroup = 16 / sizeof(Stored)>
struct PlanarLogits {
  static constexpr int kPixels = kGroup, kClasses = kNumber;
  static constexpr bool kInterpolates = false;

  struct At {
    // Whole registers, of one float or two halves each.
    using Raw = Pack<uint32_t, kPixels * sizeof(Stored) / 4>;

    RALX_HD At from(int c) const { return {at(c), stride_c}; }
    RALX_HD Raw read(int c) const { return *reinterpret_cast<const Raw*>(at(c)); }
    RALX_HD Raw exact(int c) const { return read(c); }
    // Takes one multiply-add.
    RALX_HD const char* at(int c) const { return first + static_cast<uint64_t>(c) * stride_c; }
    static RALX_HD void convert(const Raw& raw, float (&x)[kPixels]) {
      RALX_UNROLL
      for (int i = 0; i < kPixels; ++i) x[i] = to_real(part(raw, i, Stored{}));
    }
    static RALX_HD float part(const Raw& raw, int i, float) { return bit_cast<float>(raw.of[i]); }
    template <typename Short>
    static RALX_HD Short part(const Raw& raw, int i, Short) {
      return {static_cast<uint16_t>(raw.of[i / 2] >> i % 2 * 16)};
    }

    const char* first;
    uint32_t stride_c;  // bytes
  };

  static bool serves(const LogitView& view) {
    return view.has_packs(kPixels, sizeof(Stored)) && (sizeof(Stored) > 2 || view.classes <= 1 << 16);
  }
  RALX_HD size_t warp_bytes() const { return 0; }

  __device__ At at(int64_t t, int64_t n, int64_t y, int64_t x, bool, float*) const {
    const Stored* first = static_cast<const Stored*>(view.data) + view.offset(t, n, y, x);
    return {reinterpret_cast<const char*>(first), static_cast<uint32_t>(view.stride_c * sizeof(Stored))};
  }

  LogitView view;
};

// Logits at native size, of any strides. In channels_last the logits of a warp's pixels lie in one piece,
// which the warp copies to shared memory in that order. One number in 33 is left free in shared memory, so
// that with no number of classes the lanes meet in one bank.
template <typename Stored>
struct StridedLogits {
  static constexpr int kPixels = 1, kClasses = 0;
  static constexpr bool kInterpolates = false;

  struct At {
    using Raw = float;

    RALX_HD At from(int c) const { return {first + c * stride_c, stride_c, copy, copied + c}; }
    RALX_HD float read(int c) const {
      if (copy == nullptr) return to_real(first[c * stride_c]);
      const int place = copied + c;
      return copy[place + place / static_cast<int>(kWarp)];
    }
    RALX_HD float exact(int c) const { return read(c); }
    static RALX_HD void convert(float raw, float (&x)[1]) { x[0] = raw; }

    const Stored* first;
    int64_t stride_c;
    const float* copy;
    int copied;
  };

  static bool serves(const LogitView& view) { return !view.resized(); }
  RALX_HD size_t warp_bytes() const {
    const bool channels_last = view.stride_c == 1 && view.stride_x == view.classes && view.classes > 1;
    const size_t bytes = sizeof(float) * (kWarp + 1) * static_cast<size_t>(view.classes);
    return channels_last && bytes <= kMostCopied ? bytes : 0;
  }

  __device__ At at(int64_t t, int64_t n, int64_t y, int64_t x, bool wanted, float* warp) const {
    const Stored* first = static_cast<const Stored*>(view.data) + view.offset(t, n, y, x);
    if (warp == nullptr) return {first, view.stride_c, nullptr, 0};
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int64_t distance = reinterpret_cast<const char*>(first) - static_cast<const char*>(view.data);
    const int64_t start = __shfl_sync(kWholeWarp, distance, 0);
    const int pixels = static_cast<int>(kWarp) - __clz(static_cast<int>(__ballot_sync(kWholeWarp, wanted)));
    const int64_t place = static_cast<int64_t>(sizeof(Stored)) * lane * view.classes;
    const bool one_piece = __all_sync(kWholeWarp, lane >= pixels || distance == start + place) != 0;
    if (!one_piece) return {first, view.stride_c, nullptr, 0};
    const auto* from = reinterpret_cast<const Stored*>(static_cast<const char*>(view.data) + start);
    __syncwarp();  // all lanes have read the last copy
    constexpr int kPair = 4 / sizeof(Stored);
    const int count = pixels * view.classes;
    const bool aligned = reinterpret_cast<uintptr_t>(from) % 4 == 0;
    const int paired = kPair > 1 && aligned ? count / kPair * kPair : 0;
    copy<kPair>(from, 0, paired, warp);
    copy<1>(from, paired, count, warp);
    __syncwarp();
    return {first, view.stride_c, warp, lane * view.classes};
  }

  // All lanes of a warp together copy numbers begin .. end - 1: kEach numbers with a load, and kAhead loads
  // before the first store.
  template <int kEach>
  static __device__ void copy(const Stored* from, int begin, int end, float* warp) {
    constexpr int kAhead = 10, kStep = static_cast<int>(kWarp) * kEach;
    using Piece = Pack<Stored, kEach>;
    for (int i = begin + static_cast<int>(threadIdx.x % kWarp) * kEach; i < end; i += kAhead * kStep) {
      Piece pieces[kAhead];
      RALX_UNROLL
      for (int k = 0; k < kAhead; ++k)
        if (i + k * kStep < end) pieces[k] = *reinterpret_cast<const Piece*>(from + i + k * kStep);
      RALX_UNROLL
      for (int k = 0; k < kAhead; ++k) {
        const int first = i + k * kStep;
        if (first >= end) break;
        RALX_UNROLL
        for (int j = 0; j < kEach; ++j)
          warp[first + j + (first + j) / static_cast<int>(kWarp)] = to_real(pieces[k].of[j]);
      }
    }
  }

  static constexpr size_t kMostCopied = 5 << 10;  // 38 classes; with more, too few warps would find room

  LogitView view;
};

// The memory that source.at() takes for this warp; the memory of all warps lies in the block's dynamic shared
// memory from byte `offset` on.
template <typename Source>
__device__ float* warp_memory(const Source& source, size_t offset) {
  const size_t bytes = source.warp_bytes();
  return bytes == 0 ? nullptr
                    : reinterpret_cast<float*>(dynamic_shared<unsigned char>() + offset +
                                               threadIdx.x / kWarp * bytes);
}

// Calls function(source) with the first source that serves the view. float64 has none.
template <typename Function>
void dispatch_logits(const LogitView& view, const Function& function) {
  const auto of_type = [&](auto stored) {
    using Stored = decltype(stored);
    if (PlanarLogits<Stored>::serves(view)) return function(PlanarLogits<Stored>{view});
    if (StridedLogits<Stored>::serves(view)) return function(StridedLogits<Stored>{view});
    if (WidelyUpsampledLogits<Stored, false>::serves(view))
      return function(WidelyUpsampledLogits<Stored, false>(view));
    if (WidelyUpsampledLogits<Stored, true>::serves(view))
      return function(WidelyUpsampledLogits<Stored, true>(view));
    return function(UpsampledLogits<Stored>(view));
  };
  switch (view.dtype) {
    case DType::float16: return of_type(Half{});
    case DType::bfloat16: return of_type(BFloat16{});
    default: return of_type(float{});
  }
}

// Calls function with a source that tells the compiler the number of classes, where that number is a usual
// one: then no loop over classes is left, and no chunk of classes is partly empty. Such a source has at most
// kGroup pixels a thread. For all other numbers calls function(source).
template <int kGroup, typename Source, typename Function>
void with_classes(const Source& source, const Function& function) {
  function(source);
}
template <int kGroup, typename Stored, typename Function>
void with_classes(const PlanarLogits<Stored>& source, const Function& function) {
  constexpr int kMost = PlanarLogits<Stored>::kPixels, kPixels = kGroup < kMost ? kGroup : kMost;
  switch (source.view.classes) {
    case 11: return function(PlanarLogits<Stored, 11, kPixels>{source.view});  // CamVid's
    case 19: return function(PlanarLogits<Stored, 19, kPixels>{source.view});  // Cityscapes'
    default: return function(source);
  }
}

// Calls visit(first, raw, count) with classes first .. first + count - 1 of `at`, in chunks of at most kAhead
// classes, whose loads leave at once. In all chunks but the last, count is a constant.
template <int kAhead, typename Source, typename Visit>
__device__ void each_chunk(const Source& source, const typename Source::At& at, const Visit& visit) {
  const auto take = [&](int first, auto count) {
    const auto here = at.from(first);
    typename Source::At::Raw raw[kAhead];
    RALX_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (k < count) raw[k] = here.read(k);
    visit(first, raw, count);
  };
  if constexpr (Source::kClasses > 0) {
    constexpr int kChunks = (Source::kClasses + kAhead - 1) / kAhead;
    constexpr int kEach = (Source::kClasses + kChunks - 1) / kChunks;
    RALX_UNROLL
    for (int i = 0; i < kChunks; ++i)
      take(i * kEach, static_cast<int>(min_of(kEach, Source::kClasses - i * kEach)));
  } else {
    int first = 0;
    for (; first + kAhead <= source.view.classes; first += kAhead)
      take(first, std::integral_constant<int, kAhead>());
    if (first < source.view.classes) take(first, source.view.classes - first);
  }
}

// Calls visit(c, x) with each class in turn. The loads of kAhead classes leave before the first of these
// classes is visited.
template <int kAhead, typename Source, typename Visit>
__device__ void each_class(const Source& source, const typename Source::At& at, const Visit& visit) {
  each_chunk<kAhead>(source, at, [&](int first, const auto& raw, auto count) {
    RALX_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      if (k >= count) break;
      float x[Source::kPixels];
      Source::At::convert(raw[k], x);
      visit(first + k, x);
    }
  });
}

// Calls visit(c, x) with each class in turn, read by At::exact().
template <typename Source, typename Visit>
__device__ void each_class_exactly(const Source& source, const typename Source::At& at, const Visit& visit) {
  for (int c = 0; c < source.view.classes; ++c) {
    float x[Source::kPixels];
    Source::At::convert(at.exact(c), x);
    visit(c, x);
  }
}

// Pixels [N, H, W] in groups of kGroup neighbours, shared out among the threads of the grid.
template <int kGroup>
struct PixelGroups {
  int64_t images, rows, groups;  // groups of a row

  int64_t count() const { return images * rows * groups; }

  // Calls visit(n, y, x, wanted) with each group of this thread. All threads of a warp make equally many
  // calls: `wanted` is false where a thread has no group left.
  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    const int64_t total = images * rows * groups, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const int64_t lane = static_cast<int64_t>(threadIdx.x % kWarp);
    int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x - lane;
    if (first >= total) return;
    Place place = place_of(first + lane);
    const Place further = place_of(step);  // from one visit to the next: no visit takes a division
    for (; first < total; first += step) {
      const bool wanted = first + lane < total;
      const Place here = wanted ? place : Place{0, 0, 0};
      visit(here.n, here.y, static_cast<int64_t>(here.group) * kGroup, wanted);
      place.add(further, static_cast<int32_t>(rows), static_cast<int32_t>(groups));
    }
  }

 private:
  struct Place {
    int64_t n;
    int32_t y, group;

    __device__ void add(const Place& more, int32_t rows, int32_t groups) {
      group += more.group;
      y += more.y;
      n += more.n;
      if (group >= groups) {
        group -= groups;
        ++y;
      }
      if (y >= rows) {
        y -= rows;
        ++n;
      }
    }
  };

  __device__ Place place_of(int64_t i) const {
    const int64_t row = i / groups;
    return {row / rows, static_cast<int32_t>(row % rows), static_cast<int32_t>(i % groups)};
  }
};

}  // namespace ralx::RALX_ISA
