// Launches, streams and shared memory, as every <op>_cuda.cu uses them. Such a file is C++ too: where it is
// compiled as C++, tests/cpp/host_grid.h takes the GPU's place.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "host_grid.h"
#endif

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/isa.h"
#include "common/tensor_view.h"

// Stands before a loop that must be unrolled, so that the arrays which it indexes are registers.
#if defined(__CUDA_ARCH__)
#define RALX_UNROLL _Pragma("unroll")
#else
#define RALX_UNROLL
#endif

namespace ralx::RALX_ISA {

constexpr unsigned kWarp = 32, kWholeWarp = 0xffffffffu;
constexpr size_t kUsualShared = 48 << 10;  // bytes of shared memory that a block has without asking

constexpr unsigned blocks_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

inline cudaStream_t as_cuda(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }

#if defined(__CUDACC__)

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// While an OnDevice lives, the device of the tensors is the current device.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "no device");
    if (device != before_) check(cudaSetDevice(device), "the tensors' device can't be used");
    changed_ = device != before_;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "no device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "no multiprocessor count");
  return count;
}

// Bytes of shared memory that a block can have at most.
inline size_t most_shared() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "no device");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "no shared memory");
  return static_cast<size_t>(bytes);
}

template <typename... Parameters>
void allow_shared(void (*kernel)(Parameters...), size_t bytes) {
  if (bytes > kUsualShared)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
          "a block needs more shared memory than there is");
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  allow_shared(kernel, shared_bytes);
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  check(cudaGetLastError(), "a kernel can't be started");
}

// Whether this build has code for GPUs that can start a kernel before the previous kernel has ended.
constexpr bool built_to_overlap() {
  for (const int arch : {__CUDA_ARCH_LIST__})
    if (arch >= 900) return true;
  return false;
}

// Like launch(), but the kernel may start before the previous kernel in the stream has ended. So all threads
// of the kernel call wait_for_kernel_before() before they touch any memory that the previous kernel writes.
template <typename... Parameters, typename... Arguments>
void launch_overlapping(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                        cudaStream_t stream, Arguments... arguments) {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "no device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "no compute capability");
  if (!built_to_overlap() || major < 9)
    return launch(kernel, grid, block, shared_bytes, stream, arguments...);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  allow_shared(kernel, shared_bytes);
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
        "a kernel can't be started");
}

__device__ inline void wait_for_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel in the stream start, once all blocks of this kernel have called
// let_next_kernel_start() or have ended.
__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

inline void set_zero(void* data, size_t bytes, cudaStream_t stream) {
  if (bytes > 0) check(cudaMemsetAsync(data, 0, bytes, stream), "memory can't be cleared");
}

// The dynamic shared memory of the block, 16-byte aligned.
template <typename T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char ralx_shared_bytes[];
  return reinterpret_cast<T*>(ralx_shared_bytes);
}

#else

class OnDevice {
 public:
  explicit OnDevice(int) {}
};

inline int multiprocessors() { return 4; }
inline size_t most_shared() { return 160 << 10; }

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            Arguments... arguments) {
  if (shared_bytes > most_shared())
    throw std::runtime_error("a block needs more shared memory than there is");
  host_grid::run(grid, block, shared_bytes, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

template <typename... Parameters, typename... Arguments>
void launch_overlapping(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                        cudaStream_t stream, Arguments... arguments) {
  launch(kernel, grid, block, shared_bytes, stream, arguments...);
}

inline void wait_for_kernel_before() {}
inline void let_next_kernel_start() {}

inline void set_zero(void* data, size_t bytes, cudaStream_t) { std::memset(data, 0, bytes); }

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(host_grid::dynamic_shared());
}

#endif

}  // namespace ralx::RALX_ISA
