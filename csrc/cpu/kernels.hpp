// Inner loops that BLAS does not have, compiled for several instruction sets and chosen at run time by the loader.
// Every function works on one thread and on contiguous rows.
#pragma once

#include <cstdint>

#include "core/types.hpp"

namespace gnfast::cpu::kernels {

// A small matrix that is read or written entry by entry: (j, c) lies at j * step + c * column.
template <class T>
struct Strided {
    T* data;
    index step;
    index column;
};

// u(j, c) += sum_q rows[c, q] t[j, q]: r rows and s vectors of length m, both `step` apart.
void contract_out(const float* rows, index row_step, index r, index m, const float* t, index t_step, index s, Strided<float> u);
void contract_out(const double* rows, index row_step, index r, index m, const double* t, index t_step, index s, Strided<double> u);

// out[j, q] = beta out[j, q] + sum_c u(j, c) rows[c, q], beta 0 or 1.
void contract_in(const float* rows, index row_step, index r, index m, Strided<const float> u, index s, float beta, float* out,
                 index out_step);
void contract_in(const double* rows, index row_step, index r, index m, Strided<const double> u, index s, double beta, double* out,
                 index out_step);

// Both products of a tile (rows, cols) below the diagonal of a symmetric matrix with s vectors, `step` apart: with their
// parts x that meet its columns, down[j, r] += <tile[r, :], x[j, :]>, and y that meet its rows, across[j, :] += y[j, r] tile[r, :].
void symmetric_tile(const float* tile, index stride, index rows, index cols, const float* x, const float* y, float* down, float* across,
                    index step, index s);
void symmetric_tile(const double* tile, index stride, index rows, index cols, const double* x, const double* y, double* down,
                    double* across, index step, index s);

// k[q] += a[q] b[q]
void multiply_accumulate(const float* a, const float* b, float* k, index count);
void multiply_accumulate(const double* a, const double* b, double* k, index count);

// x[q] *= d[q]
void multiply(const float* d, float* x, index count);
void multiply(const double* d, double* x, index count);

// What was seen of a matrix: the largest |entry|, the largest |entry - its mirror image|, and 0 or, after NaN and infinity, NaN.
template <class T>
struct Extremes {
    T scale = 0, difference = 0, zero = 0;
};

// A tile (rows, cols) of a square matrix and its mirror image (cols, rows), of one stride.
void asymmetry(const float* tile, const float* mirror, index stride, index rows, index cols, Extremes<float>& seen);
void asymmetry(const double* tile, const double* mirror, index stride, index rows, index cols, Extremes<double>& seen);

// One row of a random matrix: N(0, scale^2), from column `first` on, a multiple of 4; or uniform on (low, high).
void normal_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint64_t first, double scale, float* out, index count);
void normal_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint64_t first, double scale, double* out, index count);
void uniform_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double low, double high, float* out, index count);
void uniform_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double low, double high, double* out, index count);
// -1 or 1, one bit a number.
void sign_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, float* out, index count);
void sign_row(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, double* out, index count);

// y[q] = alpha x[q] + beta y[q]; what is multiplied by 0 is not read.
void combine(float alpha, const float* x, float beta, float* y, index count);
void combine(double alpha, const double* x, double beta, double* y, index count);

}  // namespace gnfast::cpu::kernels
