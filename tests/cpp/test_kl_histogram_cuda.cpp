// kl_histogram's CUDA kernels, run on the host, against the CPU's: the counts must be the same bit for bit.
// Both compute in float64, but the CPU's baseline rounds products and sums apart: a divergence within some
// 1e-15 of an edge between bins could fall on either side. The inputs are random, or have no such divergence
// but those at the ends, which are no edges.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda_cases.h"
#include "kl_histogram/kl_histogram.h"

namespace {

using ralx::DType;
using ralx::TensorView;

const double kInfinity = std::numeric_limits<double>::infinity();
const double kNaN = std::numeric_limits<double>::quiet_NaN();

// A matrix [rows, classes], classes outermost if transposed, its elements `spread` apart and NaN between
// them.
struct Matrix {
  std::vector<unsigned char> bytes;
  TensorView view;

  Matrix(const std::vector<double>& values, int64_t rows, int64_t classes, DType dtype, int64_t spread,
         bool transposed) {
    const int64_t size = dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
    bytes.assign(rows * classes * spread * size, 0xff);
    view = {bytes.data(), dtype, -1, 2, {rows, classes}, {classes * spread, spread}};
    if (transposed) {
      view.strides[0] = spread;
      view.strides[1] = rows * spread;
    }
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < classes; ++c)
        write((i * view.strides[0] + c * view.strides[1]) * size, values[i * classes + c]);
  }

  void write(int64_t place, double value) {
    const auto single = static_cast<float>(value);
    const uint16_t half = to_half(single);
    unsigned char* to = bytes.data() + place;
    if (view.dtype == DType::float64)
      std::memcpy(to, &value, 8);
    else if (view.dtype == DType::float32)
      std::memcpy(to, &single, 4);
    else if (view.dtype == DType::bfloat16)
      std::memcpy(to, reinterpret_cast<const unsigned char*>(&single) + 2, 2);
    else
      std::memcpy(to, &half, 2);
  }
};

struct Case {
  int64_t rows = 37, length = 150, classes = 19, bins = 32;
  bool own_range = false;
  double low = 0, high = 9, eps = 1e-7;
  DType p_dtype = DType::float32, q_dtype = DType::float32;
  int64_t spread = 1;
  bool transposed = false;
};

std::vector<double> random_rows(int64_t rows, int64_t classes, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, 2);
  std::vector<double> values(rows * classes);
  for (double& x : values) x = std::exp(normal(generator));
  return values;
}

std::vector<float> on_grid(const Case& x, const Matrix& p, const Matrix& q) {
  std::vector<float> out(x.rows * x.bins, -1);
  std::vector<unsigned char> scratch(ralx::cuda::kl_histogram_scratch(x.rows, x.length, x.classes));
  const TensorView out_view = contiguous(out.data(), DType::float32, {x.rows, x.bins});
  const TensorView scratch_view =
      contiguous(scratch.data(), DType::uint8, {static_cast<int64_t>(scratch.size())});
  in_both_orders(out, [&] {
    std::fill(scratch.begin(), scratch.end(), 0xff);
    ralx::cuda::kl_histogram(p.view, q.view, out_view, x.own_range, x.low, x.high, x.eps, scratch_view, 0);
  });
  return out;
}

std::vector<float> on_cpu(const Case& x, const Matrix& p, const Matrix& q) {
  std::vector<float> out(x.rows * x.bins, 0);
  if (x.length > 0)
    ralx::baseline::kl_histogram(p.view, q.view, contiguous(out.data(), DType::float32, {x.rows, x.bins}),
                                 x.own_range, x.low, x.high, x.eps, 1);
  return out;
}

// Returns the histograms.
std::vector<float> check(const Case& x, const std::vector<double>& p_values,
                         const std::vector<double>& q_values) {
  const Matrix p(p_values, x.rows, x.classes, x.p_dtype, x.spread, x.transposed);
  const Matrix q(q_values, x.length, x.classes, x.q_dtype, x.spread, x.transposed);
  const std::vector<float> result = on_grid(x, p, q), expected = on_cpu(x, p, q);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (result[i] == expected[i] || (std::isnan(result[i]) && std::isnan(expected[i]))) continue;
    std::fprintf(stderr, "row %d bin %d: %.9g, the CPU has %.9g (M %d L %d C %d B %d own %d)\n",
                 static_cast<int>(i / x.bins), static_cast<int>(i % x.bins), result[i], expected[i],
                 static_cast<int>(x.rows), static_cast<int>(x.length), static_cast<int>(x.classes),
                 static_cast<int>(x.bins), x.own_range);
    std::exit(1);
  }
  return result;
}

void check(const Case& x) {
  check(x, random_rows(x.rows, x.classes, 1), random_rows(x.length, x.classes, 2));
}

void test_shapes() {
  for (bool own_range : {false, true}) {
    for (int64_t classes : {1, 10, 11, 21, 22, 33, 42, 43, 70}) {
      Case x;
      x.own_range = own_range;
      x.classes = classes;
      x.length = 45;
      x.rows = 5;
      check(x);
    }
    for (int64_t length : {1, 5, 8, 32, 39, 64, 69, 70}) {
      Case x;
      x.own_range = own_range;
      x.length = length;
      x.classes = 3;
      x.bins = 31;  // of an even number, the middle of the range of one divergence would be an edge
      check(x);
    }
    for (int64_t rows : {1, 32, 257}) {
      Case x;
      x.own_range = own_range;
      x.rows = rows;
      x.length = 33;
      x.classes = 3;
      check(x);
    }
    for (int64_t bins : {1, 2, 31, 33, 64, 65, 128, 129, 1000}) {
      Case x;
      x.own_range = own_range;
      x.bins = bins;
      x.rows = 3;
      check(x);
    }
    Case x;
    x.own_range = own_range;
    x.length = 600;  // more than one block of columns
    x.rows = 9;
    check(x);
  }
}

void test_types_and_layouts() {
  for (DType p_dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16})
    for (DType q_dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16}) {
      const bool transposed = p_dtype == q_dtype;
      Case x;
      x.p_dtype = p_dtype;
      x.q_dtype = q_dtype;
      x.transposed = transposed;
      x.spread = transposed ? 1 : 2;
      x.own_range = p_dtype < q_dtype;
      x.rows = 7;
      x.length = 70;
      check(x);
    }
}

// Edges between bins all over the place: of some ranges float32 leaves a few pairs in doubt, of others so
// many that float64 counts all of them.
void test_narrow_ranges() {
  for (double high : {1.6, 1.8, 2.5, 5.0})
    for (int64_t bins : {32, 64}) {
      Case x;
      x.low = 1.5;
      x.high = high;
      x.bins = bins;
      check(x);
    }
  Case similar;
  similar.own_range = true;
  for (double spread : {1e-1, 1e-2, 1e-3}) {
    std::vector<double> p = random_rows(similar.rows, similar.classes, 3);
    std::vector<double> q = random_rows(similar.length, similar.classes, 4);
    for (double& v : p) v = 1 + spread * v;
    for (double& v : q) v = 1 + spread * v;
    check(similar, p, q);
  }
}

// 0 is the edge between the bins: a little less, and it would be in the first one.
void test_divergence_of_a_row_from_itself_is_zero() {
  for (DType q_dtype : {DType::float32, DType::float64}) {
    Case x;
    x.rows = x.length = 70;
    x.low = -1;
    x.high = 1;
    x.bins = 2;
    x.q_dtype = q_dtype;
    std::vector<double> rows = random_rows(x.rows, x.classes, 5);
    for (double& v : rows) v = static_cast<float>(v);
    const std::vector<float> result = check(x, rows, rows);
    for (int64_t i = 0; i < x.rows; ++i) CHECK(result[2 * i] == 0 && result[2 * i + 1] == 1);
  }
}

void test_equal_rows_share_a_bin() {
  Case x;
  x.own_range = true;
  x.bins = 31;
  x.rows = 40;
  const std::vector<double> p = random_rows(x.rows, x.classes, 6);
  std::vector<double> q = random_rows(x.length, x.classes, 7);
  for (int64_t i = x.classes; i < x.length * x.classes; ++i) q[i] = q[i % x.classes];
  const std::vector<float> result = check(x, p, q);
  for (int64_t i = 0; i < x.rows; ++i) CHECK(result[i * x.bins + 15] == 1);
}

void test_special_values() {
  for (bool own_range : {false, true})
    for (int64_t bins : {32, 100, 200})
      for (bool in_q : {false, true})
        for (double value : {0.0, kNaN, kInfinity, -1.0, 1e-310}) {
          Case x;
          x.own_range = own_range;
          x.bins = bins;
          x.eps = bins == 32 ? 1e-7 : 0;
          x.rows = 34;
          x.length = 40;
          x.classes = 4;
          x.p_dtype = x.q_dtype = DType::float64;
          std::vector<double> p = random_rows(x.rows, x.classes, 8);
          std::vector<double> q = random_rows(x.length, x.classes, 9);
          for (int64_t c = 0; c < x.classes; ++c) p[3 * x.classes + c] = 0;  // 0 / 0 without eps
          p[5 * x.classes] = p[33 * x.classes + 1] = 0;
          (in_q ? q : p)[11 * x.classes + 1] = value;
          check(x, p, q);
        }
}

void test_nothing_to_compare() {
  Case x;
  x.length = 0;
  for (float share : check(x, random_rows(x.rows, x.classes, 12), {})) CHECK(share == 0);
  const Matrix p({}, 0, x.classes, DType::float32, 1, false);
  const TensorView nothing = contiguous(nullptr, DType::uint8, {0});
  ralx::cuda::kl_histogram(p.view, p.view, contiguous(nullptr, DType::float32, {0, 32}), true, 0, 1, x.eps,
                           nothing, 0);
}

void test_too_many_rows_are_refused() {
  const TensorView p = contiguous(nullptr, DType::float32, {1, 1});
  const TensorView q = contiguous(nullptr, DType::float32, {int64_t{1} << 32, 1});
  const TensorView nothing = contiguous(nullptr, DType::uint8, {0});
  bool refused = false;
  try {
    ralx::cuda::kl_histogram(p, q, p, true, 0, 1, 0, nothing, 0);
  } catch (const std::runtime_error&) {
    refused = true;
  }
  CHECK(refused);
}

}  // namespace

int main() {
  test_shapes();
  test_types_and_layouts();
  test_narrow_ranges();
  test_divergence_of_a_row_from_itself_is_zero();
  test_equal_rows_share_a_bin();
  test_special_values();
  test_nothing_to_compare();
  test_too_many_rows_are_refused();
  std::puts("ok");
}
