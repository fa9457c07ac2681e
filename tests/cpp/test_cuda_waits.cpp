// How often the host waits for an emulated GPU within a step of each solver: the table of docs/decisions/0017-cuda.md.
#include <functional>
#include <map>
#include <string>

#include "algo/solvers/cg.hpp"
#include "algo/solvers/davidson.hpp"
#include "algo/solvers/diagonal.hpp"
#include "algo/solvers/lanczos.hpp"
#include "algo/solvers/quadrature.hpp"
#include "algo/solvers/trace.hpp"
#include "algo/solvers/xtrace.hpp"
#include "emulation/arena.hpp"
#include "worlds.hpp"

namespace {

using namespace gnfast;
using B = cuda::CudaBackend;
using test::World;

constexpr index size = 60;

// diag(1, 1/2, 1/3, ...): its products wait for nobody.
struct Problem {
    World<B, double> world;
    solvers::Apply<double> apply;

    Problem() {
        cuda::load_cublas("");
        test::use_naive_blas();
        test::Matrix<double> host(size, size, 0);
        for (index i = 0; i < size; ++i)
            for (index j = 0; j < size; ++j) host(i, j) = i == j ? 1 / double(i + 1) : 0;
        const View<const double> a = world.give(host);
        apply = [this, a](View<const double> in, View<double> out) { world.backend.symm_lower(a, in, out); };
    }
};

// What a step has cost: how often the host waited, and how much it asked of the device.
struct Cost {
    long waits, calls;
    auto operator<=>(const Cost&) const = default;
};
Cost now() { return {emulation::waits(), emulation::calls()}; }

// From one report to the next, which come once a step, and how many steps cost the same.
class Count {
   public:
    Monitor monitor() {
        return [this](const char*, double, double, double) {
            if (reports_++ > 0) ++seen[{now().waits - last_.waits, now().calls - last_.calls}];
            last_ = now();
        };
    }
    std::map<Cost, index> seen;

   private:
    Cost last_{};
    index reports_ = 0;
};

// All steps, or, where restarts and third passes of orthonormalisation come in between, most.
void check_steps(const Count& count, Cost cost, bool all = true) {
    index steps = 0, others = 0;
    std::string found;
    for (const auto& [one, times] : count.seen) {
        (one == cost ? steps : others) += times;
        found.append(" ").append(std::to_string(times)) +=
            " of " + std::to_string(one.waits) + " waits, " + std::to_string(one.calls) + " calls;";
    }
    if (steps < 4 || others > (all ? 0 : steps / 2)) test::fail(__FILE__, __LINE__, "steps:" + found);
}

TEST("cuda_waits: a step of block Lanczos 1, of Davidson 3") {
    Problem on;
    const View<double> out = on.world.room(3, size);
    for (const bool lanczos : {true, false}) {
        Count count;
        solvers::Options wanted;
        wanted.count = 3, wanted.block = 2, wanted.max_basis = 24, wanted.max_products = 60, wanted.tol = 1e-12, wanted.seed = 5;
        wanted.monitor = count.monitor();
        if (lanczos)
            solvers::lanczos<B, double>(on.world.backend, on.apply, size, wanted, out);
        else
            solvers::davidson<B, double>(on.world.backend, on.apply, solvers::Apply<double>(), size, wanted, out);
        check_steps(count, lanczos ? Cost{1, 15} : Cost{3, 27}, false);
    }
}

TEST("cuda_waits: a step of block conjugate gradients 1") {
    Problem on;
    Count count;
    solvers::SolveOptions wanted;
    wanted.damping = 1e-3, wanted.tol = 1e-6, wanted.max_iterations = 8, wanted.monitor = count.monitor();
    const View<double> x = on.world.room(3, size);
    solvers::BlockCg<B, double>(on.world.backend, on.apply, solvers::Apply<double>(), size, wanted).run(on.world.random(3, size, 5), x);
    check_steps(count, {1, 18});
}

TEST("cuda_waits: a step of Lanczos quadrature 1, and of Chebyshev moments 1") {
    Problem on;
    solvers::QuadratureOptions wanted;
    wanted.probes = 3, wanted.block = 3, wanted.steps = 12;
    Count nodes, moments;
    wanted.monitor = nodes.monitor();
    solvers::LanczosQuadrature<B, double>(on.world.backend, on.apply, size, wanted).run();
    check_steps(nodes, {1, 14});
    wanted.monitor = moments.monitor();
    solvers::chebyshev_moments<B, double>(on.world.backend, on.apply, size, 0.5, 0.6, wanted);
    check_steps(moments, {1, 8});
}

TEST("cuda_waits: a block of Hutchinson's probes 1, of XTrace and of XDiag 2") {
    Problem on;
    solvers::EstimatorOptions wanted;
    wanted.samples = 30, wanted.block = 5;
    Count count;
    wanted.monitor = count.monitor();
    solvers::hutchinson<B, double>(on.world.backend, on.apply, size, wanted);
    check_steps(count, {1, 8});
    wanted.monitor = {};
    const View<double> mean = on.world.room(1, size), squares = on.world.room(1, size), without = on.world.room(1, size);
    const std::function<void()> runs[] = {
        [&] { solvers::xtrace<B, double>(on.world.backend, on.apply, size, wanted); },
        [&] { solvers::xdiag<B, double>(on.world.backend, on.apply, size, wanted, mean, squares, without); },
    };
    for (const auto& run : runs) {
        long before = emulation::waits(), of_all = 0;
        for (const index blocks : {2, 5}) {
            wanted.samples = 2 * 5 * blocks;  // two products a test vector
            before = emulation::waits();
            run();
            of_all = emulation::waits() - before - of_all;
        }
        CHECK(of_all == 2 * (5 - 2));
    }
}

}  // namespace
