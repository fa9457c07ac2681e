// BLAS and LAPACK routines by plain loops, in Fortran's calling convention, so that the backend runs without a library.
#pragma once

#include <cmath>
#include <vector>

#include "check.hpp"
#include "cpu/blas.hpp"

namespace gnfast::test {

template <class T>
struct Naive {
    static T& at(T* a, int lda, int i, int j) { return a[static_cast<std::ptrdiff_t>(j) * lda + i]; }

    static void gemm(char* ta, char* tb, int* m, int* n, int* k, T* alpha, T* a, int* lda, T* b, int* ldb, T* beta, T* c, int* ldc) {
        for (int j = 0; j < *n; ++j)
            for (int i = 0; i < *m; ++i) {
                T total = 0;
                for (int q = 0; q < *k; ++q)
                    total += (*ta == 'N' ? at(a, *lda, i, q) : at(a, *lda, q, i)) * (*tb == 'N' ? at(b, *ldb, q, j) : at(b, *ldb, j, q));
                T& out = at(c, *ldc, i, j);
                out = *alpha * total + (*beta == T(0) ? T(0) : *beta * out);
            }
    }

    // Upper triangle, from the left: the only case that is used.
    static void symm(char* side, char* uplo, int* m, int* n, T* alpha, T* a, int* lda, T* b, int* ldb, T* beta, T* c, int* ldc) {
        CHECK(*side == 'L' && *uplo == 'U');
        for (int j = 0; j < *n; ++j)
            for (int i = 0; i < *m; ++i) {
                T total = 0;
                for (int q = 0; q < *m; ++q) total += at(a, *lda, std::min(i, q), std::max(i, q)) * at(b, *ldb, q, j);
                T& out = at(c, *ldc, i, j);
                out = *alpha * total + (*beta == T(0) ? T(0) : *beta * out);
            }
    }

    // Upper triangular, from the left, diagonal not of ones: U x = b or U^T x = b.
    static void trsm(char* side, char* uplo, char* trans, char* diag, int* m, int* n, T* alpha, T* a, int* lda, T* b, int* ldb) {
        CHECK(*side == 'L' && *uplo == 'U' && *diag == 'N' && *alpha == T(1));
        for (int j = 0; j < *n; ++j)
            for (int step = 0; step < *m; ++step) {
                const int i = *trans == 'N' ? *m - 1 - step : step;
                T total = at(b, *ldb, i, j);
                if (*trans == 'N')
                    for (int q = i + 1; q < *m; ++q) total -= at(a, *lda, i, q) * at(b, *ldb, q, j);
                else
                    for (int q = 0; q < i; ++q) total -= at(a, *lda, q, i) * at(b, *ldb, q, j);
                at(b, *ldb, i, j) = total / at(a, *lda, i, i);
            }
    }

    // Upper triangle of c = alpha a^T a + beta c.
    static void syrk(char* uplo, char* trans, int* n, int* k, T* alpha, T* a, int* lda, T* beta, T* c, int* ldc) {
        CHECK(*uplo == 'U' && *trans == 'T');
        for (int j = 0; j < *n; ++j)
            for (int i = 0; i <= j; ++i) {
                T total = 0;
                for (int q = 0; q < *k; ++q) total += at(a, *lda, q, i) * at(a, *lda, q, j);
                T& out = at(c, *ldc, i, j);
                out = *alpha * total + (*beta == T(0) ? T(0) : *beta * out);
            }
    }

    // A = U^T U; info is the first pivot, from 1, that is not positive.
    static void potrf(char* uplo, int* n, T* a, int* lda, int* info) {
        CHECK(*uplo == 'U');
        for (int j = 0; j < *n; ++j)
            for (int i = 0; i <= j; ++i) {
                T total = at(a, *lda, i, j);
                for (int q = 0; q < i; ++q) total -= at(a, *lda, q, i) * at(a, *lda, q, j);
                if (i == j && !(total > T(0))) {
                    *info = j + 1;
                    return;
                }
                at(a, *lda, i, j) = i == j ? std::sqrt(total) : total / at(a, *lda, i, i);
            }
        *info = 0;
    }

    // Cyclic Jacobi rotations; eigenvalues ascending, eigenvectors in the columns of a. The query for work space asks for one.
    static void syevd(char*, char*, int* n, T* a, int* lda, T* w, T* work, int* lwork, int* iwork, int* liwork, int* info) {
        *info = 0;
        if (*lwork == -1 || *liwork == -1) {
            *work = 1;
            *iwork = 1;
            return;
        }
        const int size = *n;
        std::vector<T> m(a, a + size * *lda), v(static_cast<std::size_t>(size * size));
        for (int i = 0; i < size; ++i) v[static_cast<std::size_t>(i * size + i)] = 1;
        for (int j = 0; j < size; ++j)  // of the lower triangle
            for (int i = 0; i < j; ++i) at(m.data(), *lda, i, j) = at(m.data(), *lda, j, i);
        for (int sweep = 0; sweep < 30; ++sweep)
            for (int p = 0; p < size; ++p)
                for (int q = p + 1; q < size; ++q) {
                    const T off = at(m.data(), *lda, p, q);
                    if (off == T(0)) continue;
                    const T angle = std::atan2(2 * off, at(m.data(), *lda, q, q) - at(m.data(), *lda, p, p)) / 2;
                    const T c = std::cos(angle), s = std::sin(angle);
                    const auto rotate = [c, s](T& x, T& y) {
                        const T old = x;
                        x = c * old - s * y;
                        y = s * old + c * y;
                    };
                    for (int i = 0; i < size; ++i) rotate(at(m.data(), *lda, i, p), at(m.data(), *lda, i, q));
                    for (int i = 0; i < size; ++i) rotate(at(m.data(), *lda, p, i), at(m.data(), *lda, q, i));
                    for (int i = 0; i < size; ++i) rotate(at(v.data(), size, i, p), at(v.data(), size, i, q));
                }
        std::vector<int> order(static_cast<std::size_t>(size));
        for (int i = 0; i < size; ++i) order[static_cast<std::size_t>(i)] = i;
        std::sort(order.begin(), order.end(), [&](int i, int j) { return at(m.data(), *lda, i, i) < at(m.data(), *lda, j, j); });
        for (int j = 0; j < size; ++j) {
            const int from = order[static_cast<std::size_t>(j)];
            w[j] = at(m.data(), *lda, from, from);
            for (int i = 0; i < size; ++i) at(a, *lda, i, j) = at(v.data(), size, i, from);
        }
    }

    static void syev(char* job, char* uplo, int* n, T* a, int* lda, T* w, T* work, int* lwork, int* info) {
        int one = 1, space = 1;
        syevd(job, uplo, n, a, lda, w, work, lwork, &space, &one, info);
    }

    // As LAPACK's ends on some matrices.
    static void syevd_that_fails(char*, char*, int* n, T* a, int*, T*, T* work, int* lwork, int* iwork, int*, int* info) {
        *work = 1;
        *iwork = 1;
        *info = *lwork == -1 ? 0 : 2 * *n + 1;
        if (*info != 0) std::fill_n(a, *n * *n, T(7));
    }
};

inline void use_naive_blas() {
    const auto set = []<class T>(const std::string& prefix, Naive<T>) {
        const auto one = [&](const char* name, auto* f) { CHECK(cpu::set_routine(prefix + name, reinterpret_cast<void*>(f))); };
        one("gemm", &Naive<T>::gemm);
        one("symm", &Naive<T>::symm);
        one("trsm", &Naive<T>::trsm);
        one("syrk", &Naive<T>::syrk);
        one("potrf", &Naive<T>::potrf);
        one("syevd", &Naive<T>::syevd);
        one("syev", &Naive<T>::syev);
    };
    set("s", Naive<float>());
    set("d", Naive<double>());
}

}  // namespace gnfast::test
