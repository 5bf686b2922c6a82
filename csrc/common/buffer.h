#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "common/isa.h"

namespace ralx::RALX_ISA {

// Scratch memory on cache-line bounds, not initialised. Made before a parallel region starts, since an exception
// (std::bad_alloc) must not leave one.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(static_cast<size_t>(count) * sizeof(T), std::align_val_t{64}))) {}
  ~Buffer() { ::operator delete(data_, std::align_val_t{64}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  T* data_;
};

}  // namespace ralx::RALX_ISA
