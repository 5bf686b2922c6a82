#include "common/cpu/kernel.h"

#include <atomic>
#include <stdexcept>

namespace ralx {
namespace {

Isa widest() {
  if (runs_here(Isa::avx512)) return Isa::avx512;
  if (runs_here(Isa::avx2)) return Isa::avx2;
  return Isa::baseline;
}

std::atomic<Isa>& active() {
  static std::atomic<Isa> isa{widest()};
  return isa;
}

}  // namespace

bool runs_here(Isa isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return isa == Isa::baseline;
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }

void use_isa(Isa isa) {
  if (!runs_here(isa)) throw std::invalid_argument("isa must be a set that this CPU has, see runs_here()");
  active().store(isa, std::memory_order_relaxed);
}

}  // namespace ralx
