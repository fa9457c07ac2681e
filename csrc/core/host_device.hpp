// Marks what the processor and a GPU both run.
#pragma once

#ifdef __CUDACC__
#define GNFAST_HD __host__ __device__
#else
#define GNFAST_HD
#endif
