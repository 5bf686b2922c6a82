#pragma once

#include <cstdint>

namespace ralx {

// The first label, in reading order, that is out of range; or none.
struct BadLabel {
  enum Kind : int64_t { none, target, prediction, region } kind;
  int64_t position;  // in the flattened [N, H, W]
  int64_t value;
};

}  // namespace ralx
