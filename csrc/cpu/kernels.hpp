// Inner loops that BLAS does not have, compiled for several instruction sets and chosen at run time by the loader.
// Every function works on one thread and on contiguous rows.
#pragma once

#include <cstdint>

#include "core/types.hpp"

namespace gnfast::cpu::kernels {

// u[j * u_step + c] += sum_r rows[c, r] t[j * t_step + r];  rows (r, m), s vectors.
void contract_out(const float* rows, index r, index m, const float* t, index t_step, index s, float* u, index u_step);
void contract_out(const double* rows, index r, index m, const double* t, index t_step, index s, double* u, index u_step);

// out[j * out_step + q] = sum_c u[j * u_step + c] rows[c, q].
void contract_in(const float* rows, index r, index m, const float* u, index u_step, index s, float* out, index out_step);
void contract_in(const double* rows, index r, index m, const double* u, index u_step, index s, double* out, index out_step);

// k[q] += a[q] b[q]
void multiply_accumulate(const float* a, const float* b, float* k, index count);
void multiply_accumulate(const double* a, const double* b, double* k, index count);

// x[q] *= d[q]
void multiply(const float* d, float* x, index count);
void multiply(const double* d, double* x, index count);

// One row of a random matrix: N(0, scale^2), or uniform on (low, high).
void normal_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double scale, float* out, index count);
void normal_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double scale, double* out, index count);
void uniform_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double low, double high, float* out, index count);
void uniform_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double low, double high, double* out, index count);

}  // namespace gnfast::cpu::kernels
