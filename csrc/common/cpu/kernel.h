// Declares a CPU kernel in every instruction set it is compiled for, and calls the one that suits this CPU.
#pragma once

namespace ralx {

enum class Isa { baseline, avx2, avx512 };

bool runs_here(Isa isa);
Isa active_isa();  // the widest set of this CPU, unless use_isa() chose another
void use_isa(Isa isa);

// A kernel in all its instruction sets; calling it calls the active one.
template <typename Result, typename... Arguments>
struct Kernel {
  using Function = Result (*)(Arguments...);
  Function baseline, avx2, avx512;

  Result operator()(Arguments... arguments) const {
    const Isa isa = active_isa();
    const Function function = isa == Isa::avx512 ? avx512 : isa == Isa::avx2 ? avx2 : baseline;
    return function(arguments...);
  }
};

template <typename Result, typename... Arguments>
Kernel(Result (*)(Arguments...), Result (*)(Arguments...), Result (*)(Arguments...))
    -> Kernel<Result, Arguments...>;

}  // namespace ralx

// RALX_DECLARE_KERNEL(name, Signature) declares ralx::<set>::name for every set; RALX_KERNEL(name) is the
// Kernel of these functions.
#if defined(__x86_64__)
#define RALX_DECLARE_KERNEL(name, Signature)   \
  namespace ralx::baseline { Signature name; } \
  namespace ralx::avx2 { Signature name; }     \
  namespace ralx::avx512 { Signature name; }
#define RALX_KERNEL(name) \
  ralx::Kernel { &ralx::baseline::name, &ralx::avx2::name, &ralx::avx512::name }
#else
#define RALX_DECLARE_KERNEL(name, Signature) \
  namespace ralx::baseline { Signature name; }
#define RALX_KERNEL(name) \
  ralx::Kernel { &ralx::baseline::name, &ralx::baseline::name, &ralx::baseline::name }
#endif
