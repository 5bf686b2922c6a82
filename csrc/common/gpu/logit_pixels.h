// Logits as the threads of a GPU read them: each thread has kPixels neighbours of a row, one class after
// another. A kernel is a template over the source, which knows the element type and the layout. Sources take
// the classes in chunks of their own, and interpolate in their own order: what is computed from two layouts of
// the same logits agrees to rounding, not to the last bit.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/gpu/cuda.h"
#include "common/gpu/logit_view.h"
#include "common/scalar.h"
#include "common/gpu/upsampled_logits.h"

namespace ralx::RALX_ISA {

// Each source has
//   kPixels                      pixels of a thread; x is a multiple of it, and the row's width too
//   kInterpolates                whether a logit takes several loads, and registers for them
//   kClasses                     how many classes there are; 0: view.classes
//   at(t, n, y, x, wanted, warp) the logits of pixels x .. x + kPixels - 1: all lanes of a warp call it
//                                together, also those that want no pixel; `warp` is shared memory of this
//                                warp, warp_bytes() long, or null
//   At::read(c)                  class c as it is stored, so that reading ahead costs few registers
//   At::exact(c)                 the same; read(c) may give NaN beside logits that are not finite
//   At::from(c)                  the same pixels, with class c as the first: then read(k) is cheap for a
//                                constant k
//   At::convert(raw, x)          as float

// At native size, the pixels of a row side by side in memory and aligned: one load a class, of 16 bytes
// unless fewer pixels are wanted.
template <typename Stored, int kNumber = 0, int kGroup = 16 / sizeof(Stored)>
struct PlanarLogits {
  static constexpr int kPixels = kGroup, kClasses = kNumber;
  static constexpr bool kInterpolates = false;

  struct At {
    using Raw = Pack<uint32_t, kPixels * sizeof(Stored) / 4>;  // whole registers, two halves each

    RALX_HD At from(int c) const { return {at(c), stride_c}; }
    RALX_HD Raw read(int c) const { return *reinterpret_cast<const Raw*>(at(c)); }
    RALX_HD Raw exact(int c) const { return read(c); }
    // One multiply-add.
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

// At native size, of any strides. In channels_last a warp's logits lie in one piece, which it copies to
// shared memory as they lie; one number in 33 is left free there, so that no class count makes the lanes meet
// in a bank.
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
    __syncwarp();  // what was copied before has been read
    constexpr int kPair = 4 / sizeof(Stored);
    const int count = pixels * view.classes;
    const bool aligned = reinterpret_cast<uintptr_t>(from) % 4 == 0;
    const int paired = kPair > 1 && aligned ? count / kPair * kPair : 0;
    copy<kPair>(from, 0, paired, warp);
    copy<1>(from, paired, count, warp);
    __syncwarp();
    return {first, view.stride_c, warp, lane * view.classes};
  }

  // Numbers begin .. end - 1 by all lanes, kEach with one load and many loads ahead.
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

  static constexpr size_t kMostCopied = 5 << 10;  // of 38 classes; beyond, too few warps would find room

  LogitView view;
};

// Of the block's dynamic shared memory, from byte `offset` on, what source.at() takes for this warp.
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

// Calls function(source) with the number of classes known to the compiler where it is a usual one: then no
// loop over classes is left, and no chunk of them is partly empty. A thread then has kGroup pixels at most.
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

// visit(first, raw, count) for the classes first .. first + count - 1 of `at`, in chunks of at most kAhead
// that are asked for at once. Of all chunks but the last, count is a constant.
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

// visit(c, x) for each class in turn. kAhead classes are asked for before the first of them is looked at.
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

// The same, one by one and without NaN where there is none.
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

  // visit(n, y, x, wanted): as often in all threads of a warp.
  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    const int64_t total = images * rows * groups, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const int64_t lane = static_cast<int64_t>(threadIdx.x % kWarp);
    int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x - lane;
    if (first >= total) return;
    Place place = place_of(first + lane);
    const Place further = place_of(step);  // from one visit to the next, without a division
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
