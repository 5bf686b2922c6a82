#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ralx::RALX_ISA {

// While a PlainFloats lives, its thread keeps subnormal numbers and rounds to nearest, whatever the thread
// did before. After torch.set_flush_denormal(True) a thread takes subnormal numbers for 0, and so does every
// thread that it starts, but no thread that was running already. Without PlainFloats a result would depend on
// that setting, and on which thread computes the result. Each thread of a kernel makes a PlainFloats before
// its first number.
class PlainFloats {
 public:
  PlainFloats() : before_(state()) { set_state(kPlain); }
  ~PlainFloats() { set_state(before_); }
  PlainFloats(const PlainFloats&) = delete;
  PlainFloats& operator=(const PlainFloats&) = delete;

 private:
  // No number may be computed on the wrong side of the change. All numbers come from memory, so that the
  // clobber "memory" keeps their computation on its side.
#if defined(__x86_64__)
  using State = uint32_t;
  static constexpr State kPlain = 0x1f80;  // no floating-point exception stops the program
  static State state() {
    State now;
    asm volatile("stmxcsr %0" : "=m"(now)::"memory");
    return now;
  }
  static void set_state(State state) { asm volatile("ldmxcsr %0" ::"m"(state) : "memory"); }
#elif defined(__aarch64__)
  using State = uint64_t;
  static constexpr State kPlain = 0;
  static State state() {
    State now;
    asm volatile("mrs %0, fpcr" : "=r"(now)::"memory");
    return now;
  }
  static void set_state(State state) { asm volatile("msr fpcr, %0" ::"r"(state) : "memory"); }
#else
  using State = int;
  static constexpr State kPlain = 0;
  static State state() { return kPlain; }
  static void set_state(State) {}
#endif

  const State before_;
};

}  // namespace ralx::RALX_ISA
