// Single BLAS and LAPACK calls on row-major views, on the calling thread: a row-major matrix is a column-major one
// transposed, so that operands change places and triangles change sides.
#pragma once

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "core/types.hpp"
#include "cpu/blas.hpp"

namespace gnfast::cpu::call {

inline int to_int(index value) {
    if (value > std::numeric_limits<int>::max())
        throw std::invalid_argument("a dimension of " + std::to_string(value) + " exceeds BLAS' 32-bit integers; use smaller blocks");
    return static_cast<int>(value);
}

template <class T>
int leading(View<const T> a) {
    return std::max(1, to_int(a.stride));
}

// Row-major out = op(a) op(b) is column-major out^T = op(b)^T op(a)^T: operands change places, flags stay.
template <class T>
void gemm(Op op_a, Op op_b, T alpha, View<const T> a, View<const T> b, T beta, View<T> out) {
    char ta = op_a == Op::none ? 'N' : 'T', tb = op_b == Op::none ? 'N' : 'T';
    int m = to_int(out.rows), n = to_int(out.cols), k = to_int(op_a == Op::none ? a.cols : a.rows);
    int lda = leading(a), ldb = leading(b), ldc = leading(View<const T>(out));
    if (m == 0 || n == 0) return;
    Blas<T>::gemm(&tb, &ta, &n, &m, &k, &alpha, const_cast<T*>(b.data), &ldb, const_cast<T*>(a.data), &lda, &beta, out.data, &ldc);
}

// out += v K; the lower triangle of row-major K is the upper one of column-major K.
template <class T>
void symm(View<const T> lower, View<const T> v, View<T> out) {
    char side = 'L', uplo = 'U';
    int m = to_int(lower.rows), n = to_int(v.rows), lda = leading(lower), ldb = leading(v), ldc = leading(View<const T>(out));
    T one = 1;
    Blas<T>::symm(&side, &uplo, &m, &n, &one, const_cast<T*>(lower.data), &lda, const_cast<T*>(v.data), &ldb, &one, out.data, &ldc);
}

// Lower triangle of out = alpha a a^T + beta out.
template <class T>
void syrk(T alpha, View<const T> a, T beta, View<T> out) {
    char uplo = 'U', trans = 'T';
    int n = to_int(out.rows), k = to_int(a.cols), lda = leading(a), ldc = leading(View<const T>(out));
    Blas<T>::syrk(&uplo, &trans, &n, &k, &alpha, const_cast<T*>(a.data), &lda, &beta, out.data, &ldc);
}

// Rows x of rhs: op transpose solves L y = x (x L^-T), op none solves L^T y = x.
template <class T>
void trsm(Op op, View<const T> lower, View<T> rhs) {
    char side = 'L', uplo = 'U', trans = op == Op::transpose ? 'T' : 'N', diag = 'N';
    int m = to_int(rhs.cols), n = to_int(rhs.rows), lda = leading(lower), ldb = leading(View<const T>(rhs));
    T one = 1;
    Blas<T>::trsm(&side, &uplo, &trans, &diag, &m, &n, &one, const_cast<T*>(lower.data), &lda, rhs.data, &ldb);
}
template <class T>
void trsm(Op op, View<T> lower, View<T> rhs) {
    trsm(op, View<const T>(lower), rhs);
}
template <class T>
void syrk(T alpha, View<T> a, T beta, View<T> out) {
    syrk(alpha, View<const T>(a), beta, out);
}

template <class T>
index potrf(View<T> a) {
    const SingleThreadedBlas guard;
    char uplo = 'U';
    int n = to_int(a.rows), lda = leading(View<const T>(a)), info = 0;
    Blas<T>::potrf(&uplo, &n, a.data, &lda, &info);
    return info;
}

}  // namespace gnfast::cpu::call
