// Marks what the processor and a GPU both run.
#pragma once

#ifdef __CUDACC__
#define GNFAST_HD __host__ __device__
#else
#define GNFAST_HD
#endif
// Before short loops inside of loops that are to be vectorised. nvcc unrolls a GPU's loops by itself, and knows no pragma of GCC's.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define GNFAST_UNROLL _Pragma("GCC unroll 16")
#else
#define GNFAST_UNROLL
#endif
// Small formulas that loops are vectorised over: they must vanish into the instruction set of the function that calls them.
#ifdef __GNUC__
#define GNFAST_ALWAYS_INLINE GNFAST_HD inline __attribute__((always_inline))
#else
#define GNFAST_ALWAYS_INLINE GNFAST_HD inline
#endif
