// Kernels for symmetric matrices, for float and double.
#pragma once

#include "core/types.hpp"
#include "cuda/stream.hpp"

namespace gnfast::cuda::kernels {

// The widest matrix that cholesky_block takes: its lower triangle lies in the shared memory of one block of threads.
constexpr index cholesky_width = 64;

// Lower triangle in place, size^3 / 3 flops. Where a pivot is not positive *failed, on the device, becomes before + its number from 1;
// where *failed is not 0 already nothing is done.
template <class T>
void cholesky_block(Stream stream, View<T> a, index before, index* failed);

// For a square matrix: rows of out, on the device, whose column-wise maxima are the largest |a_ij|, the largest |a_ij - a_ji|, and whether
// there is NaN or infinity (0 or 1). Each number is read once.
constexpr index asymmetry_rows = 256;
template <class T>
void asymmetry(Stream stream, View<const T> a, double* out);  // (asymmetry_rows, 3)

// core/elimination.hpp by one block of threads, in its shared memory where the matrix is small enough, else in `room`, of elimination_room
// numbers on the device.
index elimination_room(index rows);
template <class T>
void orthonormal_factor(Stream stream, double* room, View<const T> gram, double floor, double cut, bool drop, View<T> to, View<double> from,
                        View<double> marks);
template <class T>
void semidefinite_inverse(Stream stream, double* room, View<const T> a, double largest, double rounding, View<T> out, View<double> marks);

}  // namespace gnfast::cuda::kernels
