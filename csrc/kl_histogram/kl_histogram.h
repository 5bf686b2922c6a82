#pragma once

#include <cstdint>

#include "common/isa.h"
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
