// One source, several instruction sets: every <op>_cpu.cpp is compiled once per set, inside a namespace that
// bears the set's name, and every <op>_cuda.cu inside the namespace `cuda`. The linker keeps only one copy of
// an inline function, and if it kept the AVX-512 copy, older CPUs would stop there. So a kernel file and the
// headers it includes define nothing outside of that namespace, and use no template of the standard library
// that leaves functions behind.
#pragma once

#ifndef RALX_ISA
#if defined(__CUDACC__)
#define RALX_ISA cuda
#else
#define RALX_ISA baseline
#endif
#endif
