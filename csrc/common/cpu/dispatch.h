// From a tensor's dtype to the types that a kernel is compiled for.
#pragma once

#include "common/scalar.h"
#include "common/tensor_view.h"

namespace ralx::RALX_ISA {

// Calls function(Real{}) with the type that a floating-point tensor is computed in: float64 in double,
// everything else in float.
template <typename Function>
inline void dispatch_real(DType dtype, const Function& function) {
  if (dtype == DType::float64) return function(double{});
  return function(float{});
}

// Calls function(Stored{}) with the element type of a floating-point tensor. Python has checked the dtype.
template <typename Function>
inline void dispatch_floating(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::float64: return function(double{});
    case DType::float16: return function(Half{});
    case DType::bfloat16: return function(BFloat16{});
    default: return function(float{});
  }
}

}  // namespace ralx::RALX_ISA
