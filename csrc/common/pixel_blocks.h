// The per-pixel mathematics over a block of pixels [C, kBlock].
#pragma once

#include "common/logit_reader.h"
#include "common/pixel_math.h"

namespace ralx::RALX_ISA {

// label[i] = argmax of pixel i, best[i] its value (NaN where there is one).
template <typename Real>
inline void block_argmax(const Real* __restrict block, int64_t classes, Real* __restrict best,
                         int32_t* __restrict label) {
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) best[i] = block[i], label[i] = 0;
  for (int64_t c = 1; c < classes; ++c) {
    const Real* x = block + c * kBlock;
#pragma omp simd
    for (int i = 0; i < kBlock; ++i) argmax_step(x[i], static_cast<int32_t>(c), best[i], label[i]);
  }
}

// entropy[i] = Shannon entropy in nats of pixel i's softmax, label[i] = its argmax.
// The logits in the block are replaced by e^(logit - maximum), z[i] is their sum.
template <typename Real>
inline void block_softmax_entropy(Real* __restrict block, int64_t classes, Real* __restrict z,
                                  Real* __restrict entropy, int32_t* __restrict label) {
  Real max[kBlock], de[kBlock];
  block_argmax(block, classes, max, label);
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) z[i] = 0, de[i] = 0;
  for (int64_t c = 0; c < classes; ++c) {
    Real* x = block + c * kBlock;
#pragma omp simd
    for (int i = 0; i < kBlock; ++i) x[i] = SoftmaxEntropy<Real>::add(x[i], max[i], z[i], de[i]);
  }
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) entropy[i] = SoftmaxEntropy<Real>::entropy(z[i], de[i]);
}

}  // namespace ralx::RALX_ISA
