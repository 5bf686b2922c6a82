#include <pybind11/pybind11.h>

#include <iterator>

#include "bald/bald.h"
#include "common/cpu/kernel.h"
#include "common/pixel_math.h"
#include "common/region_outputs.h"
#include "common/tensor_view.h"
#include "confusion_matrix/confusion_matrix.h"
#include "kl_histogram/kl_histogram.h"
#include "label_map_features/label_map_features.h"
#include "region_features/region_features.h"

namespace py = pybind11;

namespace {

// torch's names, looked up once and kept as long as the process lives.
struct Torch {
  static constexpr int kNumDTypes = static_cast<int>(ralx::DType::int64) + 1;

  py::handle tensor_type, dtypes[kNumDTypes];
  py::handle data_ptr, dtype, shape, stride, is_cpu, get_device;

  Torch() {
    const py::module_ torch = py::module_::import("torch");
    tensor_type = py::object(torch.attr("Tensor")).release();
    // In the order of DType.
    const char* names[] = {"float64", "float32", "float16", "bfloat16", "uint8", "int16", "int32", "int64"};
    static_assert(std::size(names) == kNumDTypes);
    for (int i = 0; i < kNumDTypes; ++i) dtypes[i] = py::object(torch.attr(names[i])).release();
    data_ptr = intern("data_ptr");
    dtype = intern("dtype");
    shape = intern("shape");
    stride = intern("stride");
    is_cpu = intern("is_cpu");
    get_device = intern("get_device");
  }

  static py::handle intern(const char* name) { return PyUnicode_InternFromString(name); }
};

const Torch& torch() {
  static const Torch names;
  return names;
}

py::object get(py::handle object, py::handle name) {
  PyObject* value = PyObject_GetAttr(object.ptr(), name.ptr());
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

py::object call(py::handle object, py::handle name) {
  PyObject* value = PyObject_CallMethodNoArgs(object.ptr(), name.ptr());
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

int64_t to_int(py::handle number) {
  const long long value = PyLong_AsLongLong(number.ptr());
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

}  // namespace

namespace pybind11::detail {

// torch.Tensor → TensorView, by the tensor's Python attributes: the module is built without torch and serves
// any version of it.
template <>
struct type_caster<ralx::TensorView> {
  PYBIND11_TYPE_CASTER(ralx::TensorView, const_name("torch.Tensor"));

  bool load(handle source, bool /*convert*/) {
    const Torch& names = torch();
    if (PyObject_IsInstance(source.ptr(), names.tensor_type.ptr()) != 1) return false;
    const object dtype = get(source, names.dtype);
    int code = 0;
    while (code < Torch::kNumDTypes && !dtype.is(names.dtypes[code])) ++code;
    if (code == Torch::kNumDTypes) return false;
    const tuple sizes = get(source, names.shape), strides = call(source, names.stride);
    if (sizes.size() > ralx::kMaxDims) return false;
    value.dtype = static_cast<ralx::DType>(code);
    value.ndim = static_cast<int>(sizes.size());
    for (int i = 0; i < value.ndim; ++i) {
      value.sizes[i] = to_int(PyTuple_GET_ITEM(sizes.ptr(), i));
      value.strides[i] = to_int(PyTuple_GET_ITEM(strides.ptr(), i));
    }
    const bool on_cpu = get(source, names.is_cpu).ptr() == Py_True;
    value.device = on_cpu ? -1 : static_cast<int>(to_int(call(source, names.get_device)));
    value.data = reinterpret_cast<void*>(to_int(call(source, names.data_ptr)));
    return true;
  }
};

// (height, width) → Extent
template <>
struct type_caster<ralx::Extent> {
  PYBIND11_TYPE_CASTER(ralx::Extent, const_name("tuple[int, int]"));

  bool load(handle source, bool /*convert*/) {
    if (!isinstance<sequence>(source) || len(source) != 2) return false;
    const auto pair = reinterpret_borrow<sequence>(source);
    value = {to_int(object(pair[0])), to_int(object(pair[1]))};
    return true;
  }
};

// (margin, least_confidence, neighbourhood) → Scores
template <>
struct type_caster<ralx::Scores> {
  PYBIND11_TYPE_CASTER(ralx::Scores, const_name("tuple[bool, bool, int]"));

  bool load(handle source, bool /*convert*/) {
    if (!isinstance<sequence>(source) || len(source) != 3) return false;
    const auto scores = reinterpret_borrow<sequence>(source);
    value = {to_int(object(scores[0])) != 0, to_int(object(scores[1])) != 0, to_int(object(scores[2]))};
    return true;
  }
};

// (class_hist, entropy_min, entropy_avg, entropy_max, entropy_sum, score_sum), or these and pixel_count →
// RegionOutputs
template <>
struct type_caster<ralx::RegionOutputs> {
  PYBIND11_TYPE_CASTER(ralx::RegionOutputs, const_name("tuple[torch.Tensor, ...]"));

  bool load(handle source, bool /*convert*/) {
    constexpr size_t kMost = 7;
    if (!isinstance<tuple>(source) || (len(source) != kMost - 1 && len(source) != kMost)) return false;
    ralx::TensorView views[kMost] = {};
    for (size_t i = 0; i < len(source); ++i) {
      type_caster<ralx::TensorView> view;
      if (!view.load(PyTuple_GET_ITEM(source.ptr(), i), false)) return false;
      views[i] = view;
    }
    const auto data = [&](size_t i) { return static_cast<float*>(views[i].data); };
    value = {views[0].sizes[1],
             {views[1].sizes[2], views[1].sizes[3]},
             data(0),
             data(1),
             data(2),
             data(3),
             data(4),
             data(5),
             static_cast<int64_t*>(views[6].data)};
    return true;
  }
};

// BadLabel → (kind, position, value)
template <>
struct type_caster<ralx::BadLabel> {
  PYBIND11_TYPE_CASTER(ralx::BadLabel, const_name("tuple[str, int, int]"));

  static handle cast(const ralx::BadLabel& bad, return_value_policy, handle) {
    static const char* const kinds[] = {"", "target", "prediction", "region"};
    return make_tuple(kinds[bad.kind], bad.position, bad.value).release();
  }
};

}  // namespace pybind11::detail

PYBIND11_MODULE(_C, m) {
  using without_gil = py::call_guard<py::gil_scoped_release>;
  torch();

  m.def("bald", RALX_KERNEL(bald), without_gil());
  m.def("bald_update", RALX_KERNEL(bald_update), without_gil());
  m.def("bald_carry", RALX_KERNEL(bald_carry), without_gil());
  m.attr("PASSES_AT_ONCE") = ralx::baseline::kPassesAtOnce;
  m.def("bald_compute", RALX_KERNEL(bald_compute), without_gil());
  m.def("confusion_matrix", RALX_KERNEL(confusion_matrix), without_gil());
  m.def("kl_histogram", RALX_KERNEL(kl_histogram), without_gil());
  m.def("region_features", RALX_KERNEL(region_features), without_gil());
  m.def("label_map_features", RALX_KERNEL(label_map_features), without_gil());

#if defined(RALX_CUDA_ARCHS)
  py::module_ cuda = m.def_submodule("cuda", "The kernels on a GPU.");
  cuda.attr("version") = RALX_CUDA_VERSION;
  cuda.attr("archs") = py::make_tuple(RALX_CUDA_ARCHS);
  cuda.def("bald", ralx::cuda::bald, without_gil());
  cuda.def("bald_scratch", ralx::cuda::bald_scratch);
  cuda.def("bald_update", ralx::cuda::bald_update, without_gil());
  cuda.def("bald_carry", ralx::cuda::bald_carry, without_gil());
  cuda.def("bald_compute", ralx::cuda::bald_compute, without_gil());
  cuda.def("confusion_matrix", ralx::cuda::confusion_matrix, without_gil());
  cuda.def("kl_histogram", ralx::cuda::kl_histogram, without_gil());
  cuda.def("kl_histogram_scratch", ralx::cuda::kl_histogram_scratch);
  cuda.def("region_features", ralx::cuda::region_features, without_gil());
  cuda.def("region_features_scratch", ralx::cuda::region_features_scratch);
  cuda.def("label_map_features", ralx::cuda::label_map_features, without_gil());
  cuda.def("label_map_features_scratch", ralx::cuda::label_map_features_scratch);
#endif

  // For tests and comparisons; otherwise a CPU uses its widest instruction set.
  py::enum_<ralx::Isa>(m, "Isa", py::module_local())
      .value("baseline", ralx::Isa::baseline)
      .value("avx2", ralx::Isa::avx2)
      .value("avx512", ralx::Isa::avx512);
  m.attr("compiler") = __VERSION__;
  m.def("runs_here", &ralx::runs_here);
  m.def("active_isa", &ralx::active_isa);
  m.def("use_isa", &ralx::use_isa);
}
