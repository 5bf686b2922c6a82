#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "common/isa.h"

namespace ralx::RALX_ISA {

constexpr int64_t kCacheLine = 64;

// Memory on cache-line bounds, not initialised. Made before a parallel region starts, since an exception
// (std::bad_alloc) must not leave one.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(
            ::operator new(static_cast<size_t>(count) * sizeof(T), std::align_val_t{kCacheLine}))) {}
  ~Buffer() { ::operator delete(data_, std::align_val_t{kCacheLine}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

// Hands out pieces of one thread's scratch memory.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return piece;
  }

  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// ThreadScratch memory for `threads` workers, each of which takes from its arena whatever make_worker takes.
class ThreadScratch {
 public:
  template <typename MakeWorker>
  ThreadScratch(int threads, const MakeWorker& make_worker)
      : size_(measure(make_worker)), bytes_(threads * size_) {}

  Arena arena(int thread) { return Arena(bytes_.data() + thread * size_); }

 private:
  template <typename MakeWorker>
  static int64_t measure(const MakeWorker& make_worker) {
    Arena arena(nullptr);
    make_worker(arena);
    return arena.used();
  }

  const int64_t size_;
  Buffer<char> bytes_;
};

}  // namespace ralx::RALX_ISA
