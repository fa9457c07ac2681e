// The eigensolvers by themselves, on a diagonal matrix: no Python, and BLAS by plain loops.
#include <algorithm>
#include <cmath>
#include <functional>

#include "algo/solvers/cg_inverse.hpp"
#include "algo/solvers/davidson.hpp"
#include "algo/solvers/lanczos.hpp"
#include "algo/solvers/nystrom.hpp"
#include "check.hpp"
#include "cpu/cpu_backend.hpp"
#include "naive_blas.hpp"

namespace {

using namespace gnfast;
using cpu::CpuBackend;

constexpr index size = 83, count = 3;

// 1, 1/2, 1/3, ...
double eigenvalue(index i) { return 1.0 / double(i + 1); }

solvers::Apply<double> diagonal(index& products) {
    return [&products](View<const double> in, View<double> out) {
        products += in.rows;
        for (index row = 0; row < in.rows; ++row)
            for (index i = 0; i < in.cols; ++i) out.row(row)[i] = eigenvalue(i) * in.row(row)[i];
    };
}

solvers::Options options(bool largest, bool both = false) {
    solvers::Options wanted;
    wanted.count = count;
    wanted.largest = largest;
    wanted.both = both;
    wanted.block = 2;
    wanted.max_basis = 24;
    wanted.max_products = 4000;
    wanted.tol = 1e-10;
    wanted.seed = 5;
    return wanted;
}

using Solve = solvers::Result (*)(CpuBackend&, const solvers::Apply<double>&, const solvers::Options&, View<double>);

solvers::Result by_lanczos(CpuBackend& backend, const solvers::Apply<double>& apply, const solvers::Options& wanted, View<double> out) {
    return solvers::lanczos<CpuBackend, double>(backend, apply, size, wanted, out);
}
solvers::Result by_davidson(CpuBackend& backend, const solvers::Apply<double>& apply, const solvers::Options& wanted, View<double> out) {
    return solvers::davidson<CpuBackend, double>(backend, apply, solvers::Apply<double>(), size, wanted, out);
}
solvers::Result by_inverse(CpuBackend& backend, const solvers::Apply<double>& apply, const solvers::Options& wanted, View<double> out) {
    solvers::CgInverse<CpuBackend, double> inverse(backend, apply, solvers::Apply<double>(), size, 0, 0.1, 200);
    solvers::Apply<double> precondition = [&](View<const double> in, View<double> x) { inverse(in, x); };
    precondition.inner = &inverse.inner();
    return solvers::davidson<CpuBackend, double>(backend, apply, precondition, size, wanted, out);
}

TEST("solvers: values, vectors and products, at each end and at both") {
    test::use_naive_blas();
    CpuBackend backend;
    for (const Solve solve : {&by_lanczos, &by_davidson, &by_inverse})
        for (const int end : {0, 1, 2}) {
            if ((end == 2 && solve != &by_lanczos) || (end != 1 && solve == &by_inverse)) continue;
            index products = 0;
            std::vector<double> rows(count * size);
            const View<double> out(rows.data(), count, size);
            const solvers::Result found = solve(backend, diagonal(products), options(end == 0, end == 2), out);
            CHECK(found.converged);
            CHECK(found.products == products && found.passes <= products);
            // The upper end; the lower; both by turns, the upper first.
            const index at[3][3] = {{0, 1, 2}, {size - 1, size - 2, size - 3}, {0, size - 1, 1}};
            for (index i = 0; i < count; ++i) {
                CHECK_NEAR(found.values[std::size_t(i)], eigenvalue(at[end][i]), 1e-8);
                CHECK_NEAR(std::abs(out.row(i)[at[end][i]]), 1.0, 1e-3);
            }
        }
}

// Rows of a block by what is wrong with them; all of it beside a basis.
template <class T>
void check_orthonormal(const std::vector<std::function<void(View<T>, View<const T>, index)>>& rows) {
    CpuBackend backend;
    solvers::Blocks<CpuBackend, T> blocks(backend, 7);
    const index s = index(rows.size()), known = 5;
    const double eps = double(std::numeric_limits<T>::epsilon());
    std::vector<T> memory(std::size_t((known + s) * size)), before;
    const View<T> basis(memory.data(), known, size), x(memory.data() + known * size, s, size);
    blocks.fill_random(basis), blocks.fill_random(x);
    blocks.orthonormalize_now(View<const T>(basis.row_range(0, 0)), basis, 0);
    for (index i = 0; i < s; ++i) rows[std::size_t(i)](x, View<const T>(basis), i);
    blocks.project_out(View<const T>(basis), x);
    before.assign(x.data, x.data + s * size);
    const solvers::Small back = blocks.orthonormalize_now(View<const T>(basis), x, 4 * eps);
    const auto dot = [&](const T* a, const T* b) {
        double total = 0;
        for (index q = 0; q < size; ++q) total += double(a[q]) * double(b[q]);
        return total;
    };
    for (index i = 0; i < s; ++i) {
        for (index j = 0; j < known + s; ++j) CHECK_NEAR(dot(x.row(i), memory.data() + j * size), j == known + i ? 1.0 : 0.0, 40 * eps);
        for (index q = 0; q < size; ++q) {
            double value = 0;
            for (index j = 0; j < s; ++j) value += back(i, j) * double(x.row(j)[q]);
            CHECK_NEAR(value, before[std::size_t(i * size + q)], 40 * eps);
        }
    }
}

TEST("solvers: rows become orthonormal, and come back, whatever they were") {
    test::use_naive_blas();
    const auto check = []<class T>(T) {
        using View = View<T>;
        using Known = gnfast::View<const T>;
        const auto plain = [](View, Known, index) {};
        const auto zero = [](View x, Known, index i) { std::fill_n(x.row(i), size, T(0)); };
        const auto scaled = [](double by) {
            return [by](View x, Known, index i) {
                for (index q = 0; q < size; ++q) x.row(i)[q] = T(by * x.row(i)[q]);
            };
        };
        // The row before it, up to `off`.
        const auto twin = [](double off) {
            return [off](View x, Known, index i) {
                for (index q = 0; q < size; ++q) x.row(i)[q] = T(double(x.row(i - 1)[q]) + off * double(x.row(i)[q]));
            };
        };
        const auto inside = [](View x, Known known, index i) { std::copy_n(known.row(2), size, x.row(i)); };
        check_orthonormal<T>({plain});
        check_orthonormal<T>({zero});
        check_orthonormal<T>({plain, plain, plain, plain});
        check_orthonormal<T>({plain, twin(0), twin(0)});
        check_orthonormal<T>({zero, plain, inside, plain});
        check_orthonormal<T>({scaled(1e-5), plain, scaled(1e-7), twin(1e-3)});
        check_orthonormal<T>({plain, twin(1e-6), twin(1e-10), zero, inside, twin(1e-14)});
        check_orthonormal<T>({inside, inside, zero, zero});
    };
    check(double()), check(float());
}

TEST("solvers: an interrupt keeps what is known, or leaves, as was asked for") {
    test::use_naive_blas();
    CpuBackend backend;
    for (const Solve solve : {&by_lanczos, &by_davidson}) {
        index products = 0, reports = 0;
        std::vector<double> rows(count * size);
        const View<double> out(rows.data(), count, size);
        solvers::Options wanted = options(true);
        wanted.monitor = [&](const char*, double, double, double residual) {
            CHECK(reports == 0 || residual >= 0);
            if (++reports == 4) throw interrupted();
        };
        wanted.keep_results = true;
        const solvers::Result found = solve(backend, diagonal(products), wanted, out);
        CHECK(!found.converged && found.ended == solvers::Ended::interrupted);
        CHECK(found.passes == 4 && found.values.size() == std::size_t(count));
        wanted.keep_results = false;
        reports = 0;
        bool left = false;
        try {
            solve(backend, diagonal(products), wanted, out);
        } catch (const interrupted&) {
            left = true;
        }
        CHECK(left);
    }
}

TEST("solvers: a state put away is gone on from to the last bit, and one of another search is refused") {
    test::use_naive_blas();
    CpuBackend backend;
    for (const Solve solve : {&by_lanczos, &by_davidson, &by_inverse}) {
        index products = 0;
        std::vector<double> rows(count * size), again(count * size);
        const solvers::Result whole = solve(backend, diagonal(products), options(false), View<double>(rows.data(), count, size));
        std::vector<std::vector<double>> kept;
        solvers::Snapshot parts;
        solvers::Options first = options(false);
        first.max_products = 37;
        first.save = [&](const solvers::Snapshot& state, bool last) {
            if (!last) return;
            kept.reserve(state.size());
            for (const solvers::Part& part : state) {
                const auto* data = static_cast<const double*>(part.data);
                kept.emplace_back(data, data + part.rows * part.cols);
                parts.push_back({part.name, kept.back().data(), part.rows, part.cols, true});
            }
        };
        CHECK(!solve(backend, diagonal(products), first, View<double>(again.data(), count, size)).converged);
        CHECK(!parts.empty());
        solvers::Options second = options(false);
        second.restore = parts;
        const solvers::Result found = solve(backend, diagonal(products), second, View<double>(again.data(), count, size));
        if (solve == &by_inverse) {  // the limit has cut its last system short
            for (index i = 0; i < count; ++i) CHECK_NEAR(found.values[std::size_t(i)], whole.values[std::size_t(i)], 1e-10);
        } else {
            CHECK(found.values == whole.values && found.products == whole.products);
            CHECK(rows == again);
        }
        for (std::size_t p = 0; p < parts.size(); ++p) {
            second.restore = parts;
            second.restore[p].name = "another";
            bool refused = false;
            try {
                solve(backend, diagonal(products), second, View<double>(again.data(), count, size));
            } catch (const saved_state_error&) {
                refused = true;
            }
            CHECK(refused);
        }
    }
}

TEST("solvers: an interrupt inside of an inverse by products keeps what is known, and no more is made than was allowed") {
    test::use_naive_blas();
    CpuBackend backend;
    index products = 0, reports = 0;
    std::vector<double> rows(count * size);
    const View<double> out(rows.data(), count, size);
    solvers::Options wanted = options(false);
    wanted.keep_results = true;
    double last = 0;
    wanted.monitor = [&](const char*, double done, double, double) {
        CHECK(done >= last);  // counts go on through systems and steps
        last = done;
        if (++reports == 60) throw interrupted();
    };
    const solvers::Result found = by_inverse(backend, diagonal(products), wanted, out);
    CHECK(!found.converged && found.ended == solvers::Ended::interrupted);
    CHECK(found.values.size() == std::size_t(count) && found.products == products);
    wanted.monitor = {};
    for (const index limit : {8, 31, 100}) {
        products = 0;
        wanted.max_products = limit;
        const solvers::Result cut = by_inverse(backend, diagonal(products), wanted, out);
        CHECK(!cut.converged && cut.ended == solvers::Ended::products);
        CHECK(cut.products == products && products <= limit);
    }
}

TEST("solvers: a sketch of low rank is exact, and finds no more than there is") {
    test::use_naive_blas();
    CpuBackend backend;
    const solvers::Apply<double> apply = [](View<const double> in, View<double> out) {
        for (index row = 0; row < in.rows; ++row)
            for (index i = 0; i < in.cols; ++i) out.row(row)[i] = i < 4 ? eigenvalue(i) * in.row(row)[i] : 0.0;
    };
    std::vector<double> rows(9 * size);
    const solvers::Result found =
        solvers::nystrom<CpuBackend, double>(backend, apply, size, options(true), View<double>(rows.data(), 9, size));
    CHECK(found.products == 9 && found.passes == 1 && found.values.size() >= 4);
    for (index i = 0; i < index(found.values.size()); ++i) CHECK_NEAR(found.values[std::size_t(i)], i < 4 ? eigenvalue(i) : 0.0, 1e-12);
}

}  // namespace
