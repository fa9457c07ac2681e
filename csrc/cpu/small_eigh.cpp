#include "cpu/small_eigh.hpp"

#include <stdexcept>

#include "cpu/calls.hpp"

namespace gnfast::cpu {

void small_eigh(std::vector<double>& a, index size, std::vector<double>& w) {
    const SingleThreadedBlas guard;
    char job = 'V', uplo = 'L';
    int n = call::to_int(size), info = 0, lwork = -1, liwork = -1, iquery = 0;
    double query = 0;
    w.resize(static_cast<std::size_t>(size));
    Blas<double>::syevd(&job, &uplo, &n, a.data(), &n, w.data(), &query, &lwork, &iquery, &liwork, &info);
    std::vector<double> work(static_cast<std::size_t>(query));
    std::vector<int> iwork(static_cast<std::size_t>(iquery));
    lwork = static_cast<int>(query), liwork = iquery;
    Blas<double>::syevd(&job, &uplo, &n, a.data(), &n, w.data(), work.data(), &lwork, iwork.data(), &liwork, &info);
    if (info != 0) throw std::runtime_error("LAPACK syevd did not converge on a projected matrix; it holds NaN or inf");
}

}  // namespace gnfast::cpu
