#pragma once

#include <cstdint>

namespace ralx {

enum class DType { float64, float32, float16, bfloat16, uint8, int16, int32, int64 };

constexpr int kMaxDims = 8;

// A tensor that Python owns: kernels read and write its memory through the view, and own nothing.
struct TensorView {
  void* data;
  DType dtype;
  int device;  // -1 the CPU, otherwise the index of the CUDA device
  int ndim;
  int64_t sizes[kMaxDims];
  int64_t strides[kMaxDims];  // in elements; 0 in an expanded dimension
};

// A cudaStream_t, the number that torch calls cuda_stream.
using Stream = uintptr_t;

// A height and a width in pixels, or counts of rows and columns.
struct Extent {
  int64_t height, width;
};

}  // namespace ralx
