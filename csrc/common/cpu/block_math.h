// A pixel's entropy on the CPU: softmax, entropy and argmax of a block of pixels. On a GPU,
// common/gpu/pixel_scores.h computes them.
#pragma once

#include "common/cpu/logit_reader.h"
#include "common/cpu/vector_math.h"

namespace ralx::RALX_ISA {

// For each class, the pixels of a block that have their largest logit in the class.
template <typename Real>
class BlockMasks {
 public:
  BlockMasks(int64_t classes, Arena& arena) : masks_(arena.take<uint16_t>(classes * kVectorsPerBlock)) {}

  void set(int64_t c, int v, uint32_t lanes) {
    masks_[c * kVectorsPerBlock + v] = static_cast<uint16_t>(lanes);
  }

  // Bit i tells whether class c has the largest logit of pixel i.
  uint32_t of(int64_t c) const {
    const uint16_t* mask = masks_ + c * kVectorsPerBlock;
    return mask[0] | static_cast<uint32_t>(mask[1]) << kLanes<Real>;
  }

 private:
  uint16_t* const masks_;  // [C, kVectorsPerBlock]
};

// label[i] = argmax of pixel i by torch.argmax's rules; best[i] = the largest number of pixel i, or NaN where
// one of its numbers is NaN.
template <typename Real>
inline void block_argmax(Block<Real> block, int64_t classes, Real* best, int32_t* label) {
  using Int = IntOf<Vector<Real>>;
  for (int v = 0; v < kVectorsPerBlock; ++v) {
    const Real* x = block.pixels + v * kLanes<Real>;
    Vector<Real> largest = load(x);
    Int largest_class = {};
    for (int64_t c = 1; c < classes; ++c)
      argmax_step(load(x + c * block.class_stride), Int{} + static_cast<IntOf<Real>>(c), largest,
                  largest_class);
    store(best + v * kLanes<Real>, largest);
    for (int i = 0; i < kLanes<Real>; ++i)
      label[v * kLanes<Real> + i] = static_cast<int32_t>(largest_class[i]);
  }
}

#if defined(__AVX512F__)
template <typename Real>
constexpr bool kReachesZero = sizeof(Real) == 4;  // exp2_nonpositive(-inf) is 0
#else
template <typename Real>
constexpr bool kReachesZero = false;
#endif

// The result of a comparison of vectors: 0 or -1 in each lane.
template <typename Real>
using Lanes = IntOf<Vector<Real>>;

// Sums over the classes of each pixel of a block: z = Σ 2^t and tz = Σ t 2^t with t = (x - max) log2 e. The
// rounding of `shift` adds one number, which grows with max, to every t of a pixel; neither p = 2^t / z nor
// the entropy depends on that number.
template <typename Real>
struct BlockSums {
  using V = Vector<Real>;
  static constexpr Real kLog = static_cast<Real>(kLog2E);
  V largest[kVectorsPerBlock], shift[kVectorsPerBlock], z[kVectorsPerBlock], tz[kVectorsPerBlock];
  Lanes<Real> simple[kVectorsPerBlock];  // where simple_step() is right

  // t of the logits x, in one instruction where there is a fused multiply-add. find_simple() tells where it
  // is right.
  V simple_step(V x, int v) const {
    const V t = kFused ? multiply_add(x, V{} + kLog, shift[v]) : (x - largest[v]) * kLog;
    return kReachesZero<Real> ? t : higher(V{} + kFloor<Real>, t);  // NaN stays NaN
  }

  // t of the logits x, right for every logit: also for -inf, and for logits so large that x - max is infinite
  // or has few bits.
  V step(V x, int v) const {
    const V t = (x - largest[v]) * kLog;
    return simple[v] ? simple_step(x, v) : higher(V{} + kFloor<Real>, t);
  }

  void find_simple() {
    // A `shift` smaller than kLarge is rounded by less than a quarter.
    constexpr Real kLarge = sizeof(Real) == 4 ? Real(0x1p22) : Real(0x1p51);
    for (int v = 0; v < kVectorsPerBlock; ++v)
      simple[v] = (tz[v] == tz[v]) & (shift[v] < kLarge) & (shift[v] > -kLarge);
  }

  bool all_simple() const {
    Lanes<Real> every = simple[0];
    for (int v = 1; v < kVectorsPerBlock; ++v) every &= simple[v];
    return all(every);
  }
};

// Adds up the classes of a block by simple_step() and, where simple_step() isn't right for every pixel, again
// from the start by step(). visit(c, v, x, 2^t) sees vector v of class c on the way; in a second round it
// overwrites what it kept in the first. A pixel's sums don't depend on its neighbours.
template <typename Real, typename Visit>
inline __attribute__((always_inline)) void block_softmax(const LogitBlock<Real>& block, int64_t classes,
                                                         BlockSums<Real>& sums, const Visit& visit) {
  using V = Vector<Real>;
  const auto logit = [&](int64_t c, int v) {
    return load(block.pixels + c * block.class_stride + v * kLanes<Real>);
  };
  const auto add_some = [&](const auto& step, int64_t first, int64_t last) __attribute__((always_inline)) {
    for (int64_t c = first; c < last; ++c)
      for (int v = 0; v < kVectorsPerBlock; ++v) {
        const V x = logit(c, v), t = step(x, v), e = exp2_nonpositive(t);
        sums.z[v] += e;
        sums.tz[v] += t * e;
        visit(c, v, x, e);
      }
  };
  const auto add = [&](const auto& step) __attribute__((always_inline)) {
    for (int v = 0; v < kVectorsPerBlock; ++v) sums.z[v] = sums.tz[v] = V{};
    if (classes <= kFewClasses) return add_some(step, 0, classes);
    V z[kVectorsPerBlock] = {}, tz[kVectorsPerBlock] = {};
    for (int64_t first = 0; first < classes; first += kClassesAtOnce) {
      add_some(step, first, min_of(first + kClassesAtOnce, classes));
      for (int v = 0; v < kVectorsPerBlock; ++v) {
        carry(sums.z[v], z[v]);
        carry(sums.tz[v], tz[v]);
      }
    }
    for (int v = 0; v < kVectorsPerBlock; ++v) {
      sums.z[v] = z[v];
      sums.tz[v] = tz[v];
    }
  };
  for (int v = 0; v < kVectorsPerBlock; ++v) sums.largest[v] = block.largest[v];
  for (int v = 0; v < kVectorsPerBlock; ++v) sums.shift[v] = sums.largest[v] * -sums.kLog;
  add([&](V x, int v) { return sums.simple_step(x, v); });
  sums.find_simple();
  if (!sums.all_simple()) add([&](V x, int v) { return sums.step(x, v); });
}

// entropy[i] = Shannon entropy in nats of pixel i's softmax; visit(v, sums, 1 / z, entropy) sees each vector
// of entropies and the sums from which it was made.
template <typename Real, typename Visit>
inline __attribute__((always_inline)) void block_entropy(const LogitBlock<Real>& block, int64_t classes,
                                                         Real* entropy, const Visit& visit) {
  using V = Vector<Real>;
  BlockSums<Real> sums;
  block_softmax(block, classes, sums, [](int64_t, int, V, V) {});
  for (int v = 0; v < kVectorsPerBlock; ++v) {
    const V one_over_z = reciprocal(sums.z[v]);
    const V of_vector = softmax_entropy(sums.z[v], sums.tz[v], one_over_z);
    store(entropy + v * kLanes<Real>, of_vector);
    visit(v, sums, one_over_z, of_vector);
  }
}

}  // namespace ralx::RALX_ISA
