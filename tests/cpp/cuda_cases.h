// What the tests of the CUDA kernels on the host's grid share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

#include "common/scalar.h"
#include "common/tensor_view.h"
#include "host_grid.h"

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

inline ralx::TensorView contiguous(void* data, ralx::DType dtype, const std::vector<int64_t>& sizes) {
  ralx::TensorView view{data, dtype, -1, static_cast<int>(sizes.size()), {}, {}};
  int64_t stride = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    view.sizes[i] = sizes[i];
    view.strides[i] = stride;
    stride *= sizes[i];
  }
  return view;
}

// Runs a kernel with the threads in their order and in the reverse, which must give the same bits.
template <typename T, typename Run>
void in_both_orders(std::vector<T>& result, const Run& run) {
  host_grid::order = host_grid::Order::backward;
  run();
  const std::vector<T> backward = result;
  host_grid::order = host_grid::Order::forward;
  run();
  CHECK(std::memcmp(backward.data(), result.data(), sizeof(T) * result.size()) == 0);
}

enum class Layout { contiguous, channels_last, strided };

inline uint16_t to_half(float x) {  // of normal halves, towards zero
  const uint32_t bits = ralx::RALX_ISA::bit_cast<uint32_t>(x);
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127 + 15;
  if (exponent <= 0) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (exponent >= 31)
    return static_cast<uint16_t>((bits >> 16 & 0x8000) | 0x7c00 | ((bits & 0x7fffff) ? 1 : 0));
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | static_cast<uint32_t>(exponent) << 10 |
                               (bits >> 13 & 0x3ff));
}

// Logits [N, C, h, w] or [T, N, C, h, w] of a dtype and layout, drawn at random. Equal logits are frequent.
class Logits {
 public:
  Logits(ralx::DType dtype, const std::vector<int64_t>& sizes, Layout layout, uint32_t seed)
      : view(contiguous(nullptr, dtype, sizes)), element_(dtype == ralx::DType::float32 ? 4 : 2) {
    const int n = view.ndim;
    int64_t count = 1;
    for (int64_t size : sizes) count *= size;
    if (layout == Layout::channels_last) {
      view.strides[n - 3] = 1;
      view.strides[n - 1] = sizes[n - 3];
      view.strides[n - 2] = sizes[n - 3] * sizes[n - 1];
    } else if (layout == Layout::strided) {  // every second column of something wider
      for (int i = 0; i < n; ++i) view.strides[i] *= 2;
      count *= 2;
    }
    bytes_.resize(static_cast<size_t>(count * element_ + 16));
    view.data = bytes_.data() + (16 - reinterpret_cast<uintptr_t>(bytes_.data()) % 16) % 16;
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0, 3);
    for (int64_t i = 0; i < count; ++i) put(i, std::round(normal(generator) * 8) / 8);
  }

  // The number at indices [.., n, c, y, x].
  void set(const std::vector<int64_t>& index, float x) {
    int64_t place = 0;
    for (int i = 0; i < view.ndim; ++i) place += index[i] * view.strides[i];
    put(place, x);
  }

  ralx::TensorView view;

 private:
  void put(int64_t place, float x) {
    if (view.dtype == ralx::DType::float32)
      static_cast<float*>(view.data)[place] = x;
    else if (view.dtype == ralx::DType::bfloat16)
      static_cast<uint16_t*>(view.data)[place] =
          static_cast<uint16_t>(ralx::RALX_ISA::bit_cast<uint32_t>(x) >> 16);
    else
      static_cast<uint16_t*>(view.data)[place] = to_half(x);
  }

  const int64_t element_;
  std::vector<unsigned char> bytes_;
};

// Labels [N, H, W] of 0 .. classes - 1, one in eight of them `other`.
class Labels {
 public:
  Labels(ralx::DType dtype, const std::vector<int64_t>& sizes, int64_t classes, int64_t other, uint32_t seed)
      : view(contiguous(nullptr, dtype, sizes)),
        values_(static_cast<size_t>(sizes[0] * sizes[1] * sizes[2])) {
    view.data = values_.data();
    std::mt19937 generator(seed);
    int64_t place = 0;
    for (size_t i = 0; i < values_.size(); ++i) {
      const int64_t label = generator() % 8 == 0 ? other : static_cast<int64_t>(generator() % classes);
      ralx::RALX_ISA::dispatch_integral(dtype, [&](auto integer) {
        static_cast<decltype(integer)*>(view.data)[place++] = static_cast<decltype(integer)>(label);
      });
    }
  }

  ralx::TensorView view;

 private:
  std::vector<int64_t> values_;
};
