#pragma once

#include <cstdint>

#include "common/cpu/block_math.h"
#include "common/scores.h"

namespace ralx::RALX_ISA {

// Computes the impurity of a row's pixels.
class ImpurityRow {
 public:
  ImpurityRow(int64_t neighbourhood, int64_t classes, Arena& arena)
      : reach_(neighbourhood / 2), classes_(classes),
        c_log_c_(arena.take<int64_t>(neighbourhood * neighbourhood + 1)),
        counts_(arena.take<int32_t>(classes)) {}

  // Must be called once, before the first row.
  void prepare() {
    const int64_t most = (2 * reach_ + 1) * (2 * reach_ + 1);
    for (int64_t c = 0; c <= most; ++c) c_log_c_[c] = c_log_c(c);
  }

  // rows [num_rows]: the labels of every row into which the windows of this row reach.
  template <typename Real>
  void compute(const int32_t* const* rows, int64_t num_rows, int64_t width, Real* impurity) {
    for (int64_t c = 0; c < classes_; ++c) counts_[c] = 0;
    int64_t pixels = 0, sum = 0;
    const auto add_column = [&](int64_t x, int32_t step) {
      for (int64_t row = 0; row < num_rows; ++row) {
        int32_t& count = counts_[rows[row][x]];
        sum -= c_log_c_[count];
        count += step;
        sum += c_log_c_[count];
      }
      pixels += step * num_rows;
    };
    for (int64_t x = 0; x < min_of(reach_, width); ++x) add_column(x, 1);
    for (int64_t x = 0; x < width; ++x) {
      // The removal comes first, or a count could be too large for the table.
      if (x > reach_) add_column(x - reach_ - 1, -1);
      if (x + reach_ < width) add_column(x + reach_, 1);
      impurity[x] = static_cast<Real>(impurity_of(pixels, c_log_c_[pixels], sum));
    }
  }

 private:
  const int64_t reach_, classes_;
  int64_t* const c_log_c_;  // [neighbourhood² + 1]: c_log_c(c)
  int32_t* const counts_;   // [C] of the window
};

// The maps that regions are pooled from, row by row: entropy, predicted class and the scores asked for.
template <typename Real>
class PixelRows {
 public:
  PixelRows(const LogitSource<Real>& source, const Scores& scores, Arena& arena)
      : source_(source), scores_(scores), reach_(scores.neighbourhood / 2), reader_(source, arena),
        padded_((source.width + kBlock<Real> - 1) / kBlock<Real> * kBlock<Real>),
        maps_(arena.take<Real>(num_rows() * kMaps * padded_)),
        labels_(arena.take<int32_t>(num_rows() * padded_)), places_(arena.take<Place>(num_rows())),
        window_(arena.take<const int32_t*>(num_rows())),
        impurity_row_(scores.neighbourhood, source.classes, arena), impurity_(arena.take<Real>(padded_)) {}

  // Must be called before the first row.
  void prepare() {
    for (int64_t i = 0; i < num_rows(); ++i) places_[i] = {-1, -1};
    if (scores_.neighbourhood > 0) impurity_row_.prepare();
  }

  void seek(int64_t image, int64_t y) {
    row_ = make(image, y);
    if (scores_.neighbourhood == 0) return;
    int64_t reached = 0;
    const int64_t first = y > reach_ ? y - reach_ : 0, last = min_of(y + reach_, source_.height - 1);
    for (int64_t near = first; near <= last; ++near) window_[reached++] = label_of(make(image, near));
    impurity_row_.compute(window_, reached, source_.width, impurity_);
    for (int64_t x = 0; x < source_.width; ++x) impurity_[x] *= entropy()[x];
  }

  // Entropy and predicted class of the current row [W].
  const Real* entropy() const { return map_of(row_, kEntropy); }
  const int32_t* label() const { return label_of(row_); }
  // Score i of the current row [W], numbered among the scores that are asked for.
  const Real* score(int64_t i) const {
    if (scores_.margin && i-- == 0) return map_of(row_, kMargin);
    if (scores_.least_confidence && i-- == 0) return map_of(row_, kLeastConfidence);
    return impurity_;
  }

 private:
  using V = Vector<Real>;
  enum Map { kEntropy, kMargin, kLeastConfidence, kMaps };
  struct Place {
    int64_t image, y;
  };

  int64_t num_rows() const { return 2 * reach_ + 1; }
  Real* map_of(int64_t row, Map map) const { return maps_ + (row * kMaps + map) * padded_; }
  int32_t* label_of(int64_t row) const { return labels_ + row * padded_; }

  // Number of row y among the rows that are kept; makes the row's maps if they aren't kept.
  int64_t make(int64_t image, int64_t y) {
    const int64_t row = y % num_rows();
    if (places_[row].image == image && places_[row].y == y) return row;
    places_[row] = {image, y};
    reader_.seek(image, y);
    for (int64_t x = 0; x < source_.width; x += kBlock<Real>) {
      const LogitBlock<Real> block = reader_.read(x);
      Real largest[kBlock<Real>];
      block_entropy(block, source_.classes, map_of(row, kEntropy) + x,
                    [&](int v, const BlockSums<Real>& sums, V one_over_z, V entropy) {
                      measure_confidence(block, v, sums, one_over_z, entropy, row, x);
                    });
      block_argmax(block, source_.classes, largest, label_of(row) + x);
    }
    return row;
  }

  void measure_confidence(Block<Real> block, int v, const BlockSums<Real>& sums, V one_over_z, V entropy,
                          int64_t row, int64_t x) {
    if (!scores_.margin && !scores_.least_confidence) return;
    const int64_t at = v * kLanes<Real>;
    V first = load(block.pixels + at), second = V{} - static_cast<Real>(__builtin_huge_val());
    for (int64_t c = 1; c < source_.classes; ++c) {
      const V logit = load(block.pixels + c * block.class_stride + at);
      second = higher(lower(logit, first), second);
      first = higher(logit, first);
    }
    const V best = exp2_nonpositive(sums.step(first, v)) * one_over_z;
    const V next = exp2_nonpositive(sums.step(second, v)) * one_over_z;
    const auto keep = [&](Map map, V score) {
      // A score is never below 0, and NaN where the entropy is NaN, which the two largest logits needn't
      // show.
      store(map_of(row, map) + x + at, entropy == entropy ? higher(V{}, score) : entropy);
    };
    keep(kMargin, Real(1) - (best - next));
    keep(kLeastConfidence, Real(1) - best);
  }

  const LogitSource<Real>& source_;
  const Scores scores_;
  const int64_t reach_;
  LogitReader<Real> reader_;
  const int64_t padded_;
  Real* const maps_;       // [rows, kMaps, padded]
  int32_t* const labels_;  // [rows, padded]
  Place* const places_;    // [rows]: the image and the row whose maps are kept there
  const int32_t** const window_;
  ImpurityRow impurity_row_;
  Real* const impurity_;
  int64_t row_ = 0;
};

}  // namespace ralx::RALX_ISA
