#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "common/isa.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace ralx::RALX_ISA {

constexpr int64_t kCacheLine = 64;

// AddressSanitizer knows whole allocations only. So an Arena tells AddressSanitizer where its pieces end, and
// leaves a gap behind each piece.
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kGap = kCacheLine;
inline void forbid(const void* memory, int64_t bytes) {
  __asan_poison_memory_region(memory, static_cast<size_t>(bytes));
}
inline void allow(const void* memory, int64_t bytes) {
  __asan_unpoison_memory_region(memory, static_cast<size_t>(bytes));
}
#else
constexpr int64_t kGap = 0;
inline void forbid(const void*, int64_t) {}
inline void allow(const void*, int64_t) {}
#endif

// Memory on cache-line bounds, not initialised. A Buffer is made before a parallel region starts, since an
// exception (std::bad_alloc) must not leave a parallel region.
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

// Hands out pieces of one thread's scratch memory. An Arena without memory only adds up the sizes of the
// pieces.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}

  template <typename T>
  T* take(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T)), begin = used_;
    used_ += (bytes + kCacheLine - 1) / kCacheLine * kCacheLine + kGap;
    if (base_ == nullptr) return nullptr;
    allow(base_ + begin, bytes);
    return reinterpret_cast<T*>(base_ + begin);
  }

  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// Scratch memory for `threads` workers, each made by make_worker(arena). One more worker is made from an
// Arena without memory, to measure how much a worker takes. So the constructor of a worker takes pieces, but
// writes to none of them.
class ThreadScratch {
 public:
  template <typename MakeWorker>
  ThreadScratch(int threads, const MakeWorker& make_worker)
      : size_(measure(make_worker)), threads_(threads), bytes_(threads * size_) {
    forbid(bytes_.data(), threads_ * size_);
  }
  ~ThreadScratch() { allow(bytes_.data(), threads_ * size_); }

  Arena arena(int thread) { return Arena(bytes_.data() + thread * size_); }

 private:
  template <typename MakeWorker>
  static int64_t measure(const MakeWorker& make_worker) {
    Arena arena(nullptr);
    make_worker(arena);
    return arena.used();
  }

  const int64_t size_, threads_;
  Buffer<char> bytes_;
};

}  // namespace ralx::RALX_ISA
