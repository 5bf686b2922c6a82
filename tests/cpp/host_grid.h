// CUDA's grid on one thread of the CPU, so that the very kernels of the .cu files are tested where there is
// no GPU, under AddressSanitizer and UndefinedBehaviorSanitizer too: a .cu file compiled as C++ includes this
// instead of cuda_runtime.h. Blocks run one after another; the threads of a block are fibers, which give way
// to each other where the threads of a GPU would wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using cudaStream_t = void*;

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_grid {

// The order in which the threads of a block come to their turn. A result must not depend on it.
enum class Order { forward, backward };
extern Order order;

// Runs body() in every thread of every block. shared_bytes of dynamic shared memory, with no byte beyond.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

void* dynamic_shared();

// How many threads of the block said true, once all have arrived.
int block_barrier(bool predicate);

// The values [32] of the lanes of this warp, 8 bytes each, once all lanes of the mask have arrived.
const uint64_t* warp_exchange(unsigned mask, uint64_t value);

unsigned lane();

// mma.m16n8k16 of fp16 with float32 sums, worse than any tensor core: eight products at a time are cut, with
// what they are added to, at 2^-24 of the largest, and then their sum to float32.
void mma_m16n8k16(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&sum)[4]);

template <typename T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace host_grid

inline void __syncthreads() { host_grid::block_barrier(false); }
inline int __syncthreads_or(int predicate) { return host_grid::block_barrier(predicate != 0) > 0; }
inline int __syncthreads_count(int predicate) { return host_grid::block_barrier(predicate != 0); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { host_grid::warp_exchange(mask, 0); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned first = host_grid::lane() & ~static_cast<unsigned>(width - 1);
  const uint64_t* lanes = host_grid::warp_exchange(mask, host_grid::to_bits(value));
  return host_grid::from_bits<T>(lanes[first + (static_cast<unsigned>(source) & (width - 1))]);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  const unsigned source = host_grid::lane() ^ static_cast<unsigned>(lane_mask);
  return host_grid::from_bits<T>(host_grid::warp_exchange(mask, host_grid::to_bits(value))[source]);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  const unsigned lane = host_grid::lane(), source = lane + delta < 32 ? lane + delta : lane;
  return host_grid::from_bits<T>(host_grid::warp_exchange(mask, host_grid::to_bits(value))[source]);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const unsigned lane = host_grid::lane(), source = lane >= delta ? lane - delta : lane;
  return host_grid::from_bits<T>(host_grid::warp_exchange(mask, host_grid::to_bits(value))[source]);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* lanes = host_grid::warp_exchange(mask, predicate != 0);
  unsigned ballot = 0;
  for (unsigned i = 0; i < 32; ++i)
    if (mask >> i & 1) ballot |= static_cast<unsigned>(lanes[i]) << i;
  return ballot;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t bits = host_grid::to_bits(value);
  const uint64_t* lanes = host_grid::warp_exchange(mask, bits);
  unsigned match = 0;
  for (unsigned i = 0; i < 32; ++i)
    if ((mask >> i & 1) != 0 && lanes[i] == bits) match |= 1u << i;
  return match;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

template <typename T>
T __ldg(const T* from) {
  return *from;
}

template <typename T>
T atomicAdd(T* to, T value) {
  const T old = *to;
  *to = old + value;
  return old;
}
template <typename T>
T atomicMin(T* to, T value) {
  const T old = *to;
  *to = value < old ? value : old;
  return old;
}
template <typename T>
T atomicMax(T* to, T value) {
  const T old = *to;
  *to = value > old ? value : old;
  return old;
}
template <typename T>
T atomicOr(T* to, T value) {
  const T old = *to;
  *to = old | value;
  return old;
}
