// What the tests of the CUDA kernels that measure regions share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "common/region_outputs.h"
#include "common/scores.h"
#include "cuda_cases.h"

using ralx::RALX_ISA::count;

constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

// Everything that is computed of N images with R regions each, one after another.
struct Features {
  std::vector<float> values;
  std::vector<int64_t> pixel_count;
  ralx::RegionOutputs outputs;

  Features(int64_t images, int64_t regions, int64_t classes, ralx::Extent cells, int64_t scores)
      : values(images * regions * (classes + 3 * cells.height * cells.width + 1 + scores) + 1, -7.0f),
        pixel_count(images * regions, -7), outputs() {
    float* next = values.data();
    const auto take = [&](int64_t numbers) {
      float* const memory = next;
      next += images * regions * numbers;
      return memory;
    };
    outputs.regions = regions;
    outputs.cells = cells;
    outputs.class_hist = take(classes);
    outputs.entropy_min = take(cells.height * cells.width);
    outputs.entropy_avg = take(cells.height * cells.width);
    outputs.entropy_max = take(cells.height * cells.width);
    outputs.entropy_sum = take(1);
    outputs.score_sum = take(scores);
    outputs.pixel_count = pixel_count.data();
  }
  Features(const Features&) = delete;
};

inline bool close(float a, float b, double limit) {
  return a == b || (std::isnan(a) && std::isnan(b)) || std::abs(static_cast<double>(a) - b) <= limit;
}

// Counts are equal; numbers are close, sums as close as their pixels allow.
inline void check_equal(const Features& cpu, const Features& grid, double per_pixel, double pixels) {
  CHECK(cpu.pixel_count == grid.pixel_count);
  const auto sums = static_cast<size_t>(cpu.outputs.entropy_sum - cpu.values.data());
  const auto maps = static_cast<size_t>(cpu.outputs.entropy_min - cpu.values.data());
  for (size_t i = 0; i < cpu.values.size(); ++i) {
    const double limit = i < maps ? 0 : i < sums ? per_pixel : per_pixel * pixels;
    if (!close(cpu.values[i], grid.values[i], limit)) {
      std::fprintf(stderr, "value %zu of %zu (maps from %zu, sums from %zu): %.9g on the CPU, %.9g\n", i,
                   cpu.values.size(), maps, sums, cpu.values[i], grid.values[i]);
      CHECK(false);
    }
  }
}
