#include "cpu/small_eigh.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "cpu/calls.hpp"

namespace gnfast::cpu {

void small_eigh(std::vector<double>& a, index size, std::vector<double>& w) {
    const SingleThreadedBlas guard;
    const std::vector<double> given = a;
    char job = 'V', uplo = 'L';
    int n = call::to_int(size), info = 0, lwork = -1, liwork = -1, iquery = 0;
    double query = 0;
    w.resize(static_cast<std::size_t>(size));
    Blas<double>::syevd(&job, &uplo, &n, a.data(), &n, w.data(), &query, &lwork, &iquery, &liwork, &info);
    std::vector<double> work(static_cast<std::size_t>(query));
    std::vector<int> iwork(static_cast<std::size_t>(iquery));
    lwork = static_cast<int>(query), liwork = iquery;
    Blas<double>::syevd(&job, &uplo, &n, a.data(), &n, w.data(), work.data(), &lwork, iwork.data(), &liwork, &info);
    if (info == 0) return;
    if (!std::all_of(given.begin(), given.end(), [](double x) { return std::isfinite(x); }))
        throw std::runtime_error("a projected matrix holds NaN or inf");
    // Divide and conquer gives up on a few finite matrices, with eigenvalues near rounding among them, that QR iteration solves.
    a = given;
    lwork = std::max(1, 34 * n);
    work.resize(static_cast<std::size_t>(lwork));
    Blas<double>::syev(&job, &uplo, &n, a.data(), &n, w.data(), work.data(), &lwork, &info);
    if (info != 0) throw std::runtime_error("LAPACK's syevd and syev did not converge on a projected matrix");
}

}  // namespace gnfast::cpu
