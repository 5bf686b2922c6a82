#include "host_grid.h"

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_grid {

Order order = Order::forward;

namespace {

constexpr size_t kStackBytes = 256 << 10;

[[noreturn]] void fail(const char* rule) {
  std::fprintf(stderr, "host_grid: %s (block %u %u %u, thread %u %u %u)\n", rule, blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

// A context with its own stack, known to AddressSanitizer.
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  size_t bytes = 0;
  dim3 thread;
  unsigned number = 0;
  bool done = false;
};

void switch_to(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from.done ? nullptr : &from.fake_stack, to.bottom, to.bytes);
#endif
  swapcontext(&from.context, &to.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

struct Warp {
  uint64_t values[2][32];  // of this exchange and the one before, which some lanes may not have read yet
  unsigned arrived = 0, generation = 0;
};

struct Block {
  const std::function<void()>* body;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> shared;
  unsigned alive = 0, arrived = 0, generation = 0;
  int said_true[2] = {};
  bool progress = false;
};

Fiber scheduler;
Fiber* current;
Block block;

void give_way() { switch_to(*current, scheduler); }

void release_block() {
  block.arrived = 0;
  ++block.generation;
  block.said_true[block.generation & 1] = 0;
  block.progress = true;
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.bottom, &scheduler.bytes);
#endif
  (*block.body)();
  current->done = true;
  block.progress = true;
  if (--block.alive > 0 && block.arrived == block.alive) release_block();  // the others wait for nobody now
  give_way();
}

void run_block() {
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  block.alive = threads;
  block.arrived = block.generation = 0;
  block.said_true[0] = block.said_true[1] = 0;
  block.warps.assign((threads + 31) / 32, Warp{});
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.number = i;
    fiber.thread = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
    fiber.done = false;
    fiber.fake_stack = nullptr;
    fiber.bottom = fiber.stack.get();
    fiber.bytes = kStackBytes;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
  while (block.alive > 0) {
    block.progress = false;
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = block.fibers[order == Order::forward ? i : threads - 1 - i];
      if (fiber.done) continue;
      current = &fiber;
      threadIdx = fiber.thread;
      switch_to(scheduler, fiber);
    }
    if (!block.progress) fail("threads wait for others that never come");
  }
}

}  // namespace

void run(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& body) {
  const unsigned count = threads.x * threads.y * threads.z;
  if (count == 0 || count > 1024) fail("a block has 1 to 1024 threads");
  if (grid.y > 65535 || grid.z > 65535) fail("a grid has at most 65535 blocks along y and z");
  gridDim = grid;
  blockDim = threads;
  block.body = &body;
  while (block.fibers.size() < count) {
    block.fibers.emplace_back();
    block.fibers.back().stack = std::make_unique<char[]>(kStackBytes);
  }
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        block.shared.reset(new unsigned char[shared_bytes]);
        std::memset(block.shared.get(), 0xa5, shared_bytes);  // of what a block finds there, nothing is known
        run_block();
      }
}

void* dynamic_shared() { return block.shared.get(); }

unsigned lane() { return current->number % 32; }

int block_barrier(bool predicate) {
  const unsigned generation = block.generation;
  int& said_true = block.said_true[generation & 1];
  said_true += predicate;
  if (++block.arrived == block.alive) {
    release_block();
  } else {
    while (block.generation == generation) give_way();
  }
  return said_true;
}

const uint64_t* warp_exchange(unsigned mask, uint64_t value) {
  Warp& warp = block.warps[current->number / 32];
  const unsigned generation = warp.generation, bit = 1u << lane();
  if ((mask & bit) == 0) fail("a lane must be in its own mask");
  if ((warp.arrived & ~mask) != 0) fail("lanes that wait together must give the same mask");
  warp.values[generation & 1][lane()] = value;
  warp.arrived |= bit;
  if (warp.arrived == mask) {
    warp.arrived = 0;
    ++warp.generation;
    block.progress = true;
  } else {
    while (warp.generation == generation) give_way();
  }
  return warp.values[generation & 1];
}

namespace {

double from_half(uint64_t bits) {
  const int exponent = bits >> 10 & 31;
  if (exponent == 0) return 0;  // tensor cores may take subnormal numbers for 0
  const double magnitude = std::ldexp(1024 + static_cast<double>(bits & 1023), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

float cut_to_float(double x) {
  const float nearest = static_cast<float>(x);
  return std::fabs(nearest) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

// products[8] + sum
float add_cut(const double* products, float sum) {
  double largest = std::fabs(sum);
  for (int i = 0; i < 8; ++i) largest = std::max(largest, std::fabs(products[i]));
  if (largest == 0) return 0;
  const double unit = std::ldexp(1.0, std::ilogb(largest) - 24);
  double total = std::trunc(sum / unit);
  for (int i = 0; i < 8; ++i) total += std::trunc(products[i] / unit);
  return cut_to_float(total * unit);
}

}  // namespace

void mma_m16n8k16(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&sum)[4]) {
  uint64_t words[3][32];  // rows g, then g + 8, with k and k + 8; columns g with k and k + 8
  const uint64_t mine[3] = {a[0] | uint64_t{a[2]} << 32, a[1] | uint64_t{a[3]} << 32,
                            b0 | uint64_t{b1} << 32};
  for (int i = 0; i < 3; ++i) std::memcpy(words[i], warp_exchange(0xffffffffu, mine[i]), sizeof words[i]);
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned e = 0; e < 4; ++e)
    for (unsigned k8 = 0; k8 < 2; ++k8) {
      double products[8];
      for (unsigned k = 0; k < 8; ++k) {
        const unsigned shift = 32 * k8 + 16 * (k % 2);
        products[k] = from_half(words[e / 2][4 * g + k / 2] >> shift & 0xffff) *
                      from_half(words[2][4 * (2 * t + e % 2) + k / 2] >> shift & 0xffff);
      }
      sum[e] = add_cut(products, sum[e]);
    }
}

}  // namespace host_grid
