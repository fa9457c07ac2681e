// Factorisations, eigensolvers and estimators on an emulated GPU as on the processor.
#include "algo/solvers/cg.hpp"
#include "algo/solvers/davidson.hpp"
#include "algo/solvers/diagonal.hpp"
#include "algo/solvers/lanczos.hpp"
#include "algo/solvers/nystrom.hpp"
#include "algo/solvers/nystrom_preconditioner.hpp"
#include "algo/solvers/quadrature.hpp"
#include "algo/solvers/trace.hpp"
#include "algo/solvers/xtrace.hpp"
#include "worlds.hpp"

namespace {

using namespace gnfast;
using test::World;

constexpr index size = 41;

// Q diag(1, 1/2, 1/3, ...) Q^T + `more` I, Q a reflection: nothing of it is diagonal.
template <class T>
test::Matrix<T> symmetric(index n, double more = 0) {
    test::Matrix<T> q = test::random<T>(1, n, 50, 0), out(n, n, 0);
    double square = 0;
    for (index i = 0; i < n; ++i) square += double(q(0, i)) * q(0, i);
    const auto reflection = [&](index i, index j) { return (i == j ? 1.0 : 0.0) - 2 * double(q(0, i)) * q(0, j) / square; };
    for (index i = 0; i < n; ++i)
        for (index j = 0; j < n; ++j) {
            double total = i == j ? more : 0;
            for (index e = 0; e < n; ++e) total += reflection(i, e) * reflection(j, e) / double(e + 1);
            out(i, j) = T(total);
        }
    return out;
}

template <class W>
solvers::Apply<typename W::T> stored(W& world, View<const typename W::T> lower) {
    using T = typename W::T;
    return [&world, lower](View<const T> in, View<T> out) { world.backend.symm_lower(lower, in, out); };
}

TEST("cuda_solvers: Cholesky, its solves and the failing pivot, around the width of a block") {
    test::in_both_precisions([](auto& world) {
        using T = typename std::decay_t<decltype(world)>::T;
        for (const index n : {1, 2, 63, 64, 65, 128, 129, 200}) {
            const test::Matrix<T> host = symmetric<T>(n, 0.5);
            const View<T> a = world.room(n, n), rhs = world.room(3, n);
            world.backend.from_host(host.read(), a);
            CHECK(world.backend.cholesky(a) == 0);
            world.tell_lower(a);
            world.backend.copy(world.random(3, n, 51), rhs);
            world.backend.cholesky_solve(View<const T>(a), rhs);
            world.tell(rhs);
            for (const index wrong : {index(0), n / 2, n - 1}) {
                test::Matrix<T> bad = host;
                bad(wrong, wrong) = T(-1);
                world.backend.from_host(bad.read(), a);
                CHECK(world.backend.cholesky(a) == wrong + 1);
            }
        }
    });
}

TEST("cuda_solvers: symmetric products, and how symmetric a matrix is") {
    test::in_both_precisions([](auto& world) {
        using T = typename std::decay_t<decltype(world)>::T;
        for (const index n : {1, 33, 70}) {
            const View<T> out = world.room(n, n);
            world.backend.syrk(world.random(n, 9, 52), out);
            world.tell(out);
            test::Matrix<T> host = symmetric<T>(n);
            host(n - 1, 0) += T(n > 1 ? 0.25 : 0);
            const Asymmetry found = world.backend.asymmetry(world.give(host));
            CHECK(found.finite);
            world.tell(found.scale), world.tell(found.difference);
            for (const T odd : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
                test::Matrix<T> bad = host;
                bad(0, n - 1) = odd;
                CHECK(!world.backend.asymmetry(world.give(bad)).finite);
            }
        }
    });
}

solvers::Options options(bool largest) {
    solvers::Options wanted;
    wanted.count = 3, wanted.largest = largest, wanted.block = 2, wanted.max_basis = 24, wanted.max_products = 4000;
    wanted.tol = 1e-10, wanted.seed = 5;
    return wanted;
}

TEST("cuda_solvers: eigenvalues and residuals of eigenvectors, both ends") {
    test::on_both<double>(1e-8, [](auto& world) {
        const View<const double> a = world.give(symmetric<double>(size));
        const auto apply = stored(world, a);
        using B = typename std::decay_t<decltype(world)>::B;
        const View<double> out = world.room(3, size), image = world.room(3, size);
        const auto tell = [&](const solvers::Result& found) {
            CHECK(found.converged);
            world.tell(found.values);
            world.backend.symm_lower(a, View<const double>(out), image);
            std::vector<double> minus;
            for (const double value : found.values) minus.push_back(-value);
            world.backend.combine_rows(minus, View<const double>(out), std::vector<double>(3, 1.0), image);
            std::vector<double> squares;
            world.backend.row_dots(View<const double>(image), View<const double>(image), squares);
            for (const double square : squares) CHECK(std::sqrt(square) < 1e-4);
        };
        for (const bool largest : {true, false}) {
            tell(solvers::lanczos<B, double>(world.backend, apply, size, options(largest), out));
            tell(solvers::davidson<B, double>(world.backend, apply, solvers::Apply<double>(), size, options(largest), out));
        }
        const View<double> sketch = world.room(size, size);
        solvers::Options wanted = options(true);
        world.tell(solvers::nystrom<B, double>(world.backend, apply, size, wanted, sketch).values);
    });
}

// The state is the host's: what was saved on one device goes on there, and the search ends where it would have.
TEST("cuda_solvers: a search goes on from what it saved") {
    test::on_both<double>(1e-8, [](auto& world) {
        using B = typename std::decay_t<decltype(world)>::B;
        const auto apply = stored(world, world.give(symmetric<double>(size)));
        const View<double> out = world.room(3, size);
        for (const bool lanczos : {true, false}) {
            const auto solve = [&](const solvers::Options& wanted) {
                return lanczos ? solvers::lanczos<B, double>(world.backend, apply, size, wanted, out)
                               : solvers::davidson<B, double>(world.backend, apply, solvers::Apply<double>(), size, wanted, out);
            };
            std::deque<std::vector<double>> memory;
            solvers::Snapshot kept;
            solvers::Options first = options(true);
            first.max_products = 12;
            first.save = [&](const solvers::Snapshot& parts, bool) {
                memory.clear();
                kept = parts;
                for (solvers::Part& part : kept) {
                    const auto* data = static_cast<const double*>(part.data);
                    memory.emplace_back(data, data + part.rows * part.cols);
                    part.data = memory.back().data();
                }
            };
            CHECK(!solve(first).converged);
            solvers::Options second = options(true);
            second.restore = kept;
            const solvers::Result found = solve(second);
            CHECK(found.converged && found.products > 12);
            world.tell(found.values);
        }
    });
}

TEST("cuda_solvers: traces, diagonals and spectral measures") {
    test::on_both<double>(1e-9, [](auto& world) {
        using B = typename std::decay_t<decltype(world)>::B;
        const auto apply = stored(world, world.give(symmetric<double>(size)));
        solvers::EstimatorOptions wanted;
        wanted.samples = 12, wanted.block = 5, wanted.seed = 3;
        for (const auto& found : {solvers::hutchinson<B, double>(world.backend, apply, size, wanted),
                                  solvers::hutch_plus_plus<B, double>(world.backend, apply, size, wanted),
                                  solvers::xtrace<B, double>(world.backend, apply, size, wanted)})
            world.tell(found.value), world.tell(found.error);
        const View<double> mean = world.room(1, size), squares = world.room(1, size), without = world.room(1, size);
        solvers::hutchinson_diagonal<B, double>(world.backend, apply, size, wanted, mean, squares);
        world.tell(mean), world.tell(squares);
        solvers::xdiag<B, double>(world.backend, apply, size, wanted, mean, squares, without);
        world.tell(mean), world.tell(without);
        solvers::QuadratureOptions nodes;
        nodes.probes = 4, nodes.steps = 7, nodes.block = 3;
        const solvers::Quadrature found = solvers::LanczosQuadrature<B, double>(world.backend, apply, size, nodes).run();
        world.tell(found.nodes.values), world.tell(found.weights.values);
        world.tell(solvers::chebyshev_moments<B, double>(world.backend, apply, size, 0.5, 0.6, nodes).values);
    });
}

TEST("cuda_solvers: linear systems, with a preconditioner and without") {
    test::on_both<double>(1e-7, [](auto& world) {
        using B = typename std::decay_t<decltype(world)>::B;
        const auto apply = stored(world, world.give(symmetric<double>(size)));
        const View<double> vectors = world.room(10, size);
        std::vector<double> factors = solvers::nystrom_factors<B, double>(world.backend, apply, size, 4, vectors);
        world.tell(factors);
        const double damping = 0.01, last = factors.back();
        for (double& value : factors) value = (last + damping) / (value + damping) - 1;
        const solvers::Apply<double> inverse = [&](View<const double> in, View<double> out) {
            solvers::apply_low_rank_update<B, double>(world.backend, View<const double>(vectors), factors, in, out);
        };
        for (const auto& precondition : {solvers::Apply<double>(), inverse}) {
            solvers::SolveOptions wanted;
            wanted.damping = damping, wanted.tol = 1e-10, wanted.max_iterations = 200;
            const View<double> x = world.room(3, size);
            const auto found =
                solvers::BlockCg<B, double>(world.backend, apply, precondition, size, wanted).run(world.random(3, size, 53), x);
            CHECK(found.converged);
            world.tell(x);
        }
    });
}

}  // namespace
