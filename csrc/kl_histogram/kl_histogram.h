#pragma once

#include <cstdint>

#include "common/cpu/kernel.h"
#include "common/tensor_view.h"

namespace ralx {

// out[i, b] = share of the j whose KL(p_i ‖ q_j), in nats, lies in bin b. Rows of p and q are first smoothed
// and normalised, (x + eps) / Σ (x + eps). Bin b is low + [b, b + 1) · (high - low) / B, where low..high is
// the row's own minimum..maximum (own_range; minimum = maximum: ±0.5 around it) or given; values outside fall
// into the end bins. A NaN, or +inf under own_range, makes the row NaN.
//   p    [M, C], q [L, C]  floating, computed in float64 whatever their type; L > 0, C > 0
//   out  float32 [M, B], contiguous
using KlHistogramKernel = void(const TensorView& p, const TensorView& q, const TensorView& out,
                               bool own_range, double low, double high, double eps, int threads);

}  // namespace ralx

RALX_DECLARE_KERNEL(kl_histogram, KlHistogramKernel)

namespace ralx::cuda {

// Bytes that kl_histogram needs for M rows of p, L rows of q and C classes: 8 bytes a number in float64, 64
// to 256 bytes a row in fp16 if C is at most 42, and some 70 bytes a row of p.
int64_t kl_histogram_scratch(int64_t rows, int64_t length, int64_t classes);

// kl_histogram on a GPU. L may be 0, in which case out becomes 0, and is below 2^32.
//   scratch  uint8, kl_histogram_scratch() bytes at least, aligned to 16
void kl_histogram(const TensorView& p, const TensorView& q, const TensorView& out, bool own_range, double low,
                  double high, double eps, const TensorView& scratch, Stream stream);

}  // namespace ralx::cuda
