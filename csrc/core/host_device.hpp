// Marks what the processor and a GPU both run.
#pragma once

#ifdef __CUDACC__
#define GNFAST_HD __host__ __device__
#else
#define GNFAST_HD
#endif
// Small formulas that loops are vectorised over: they must vanish into the instruction set of the function that calls them.
#ifdef __GNUC__
#define GNFAST_ALWAYS_INLINE GNFAST_HD inline __attribute__((always_inline))
#else
#define GNFAST_ALWAYS_INLINE GNFAST_HD inline
#endif
