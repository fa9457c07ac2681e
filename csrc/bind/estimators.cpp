#include "api/estimators.hpp"

#include <pybind11/stl.h>

#include "bind/arrays.hpp"
#include "bind/ended.hpp"
#include "bind/register.hpp"

namespace gnfast::bind {
namespace {

py::array matrix(const solvers::Small& a) {
    py::array_t<double> out({a.rows, a.cols});
    std::copy(a.values.begin(), a.values.end(), out.mutable_data());
    return out;
}

solvers::EstimatorOptions estimator_options(index samples, index max_products, double tol, index block, std::uint64_t seed,
                                            const py::object& progress) {
    return {samples, max_products, tol, block, seed, monitor_of(progress)};
}

solvers::QuadratureOptions quadrature_options(index probes, index steps, index block, bool reorthogonalize, index first, std::uint64_t seed,
                                              const py::object& progress) {
    return {probes, steps, block, reorthogonalize, first, seed, monitor_of(progress)};
}

api::TraceMethod trace_method(const std::string& name) {
    if (name == "hutchinson") return api::TraceMethod::hutchinson;
    if (name == "hutch++") return api::TraceMethod::hutch_plus_plus;
    if (name == "xtrace") return api::TraceMethod::xtrace;
    throw py::value_error("method '" + name + "' is not known to the core");
}

}  // namespace

void register_estimators(py::module_& m) {
    using namespace py::literals;
    m.def(
        "trace",
        [](api::Operator& op, const std::string& method, index samples, index max_products, double tol, index block, std::uint64_t seed,
           const py::object& progress) {
            const auto options = estimator_options(samples, max_products, tol, block, seed, progress);
            const api::TraceMethod how = trace_method(method);
            solvers::Estimate found;
            {
                const py::gil_scoped_release release;
                found = api::trace(op, how, options);
            }
            return py::make_tuple(found.value, found.error, found.products, found.converged);
        },
        "op"_a, "method"_a, "samples"_a, "max_products"_a, "tol"_a, "block"_a, "seed"_a, "progress"_a);
    m.def(
        "diagonal",
        [](api::Operator& op, const std::string& method, index samples, index max_products, double tol, index block, std::uint64_t seed,
           const py::object& progress, const array& mean, const array& squares, const array& without) {
            const auto options = estimator_options(samples, max_products, tol, block, seed, progress);
            const api::Array first = output(mean, op.dtype(), 1, op.rows()), second = output(squares, op.dtype(), 1, op.rows()),
                             third = output(without, op.dtype(), 1, op.rows());
            solvers::DiagonalResult found;
            {
                const py::gil_scoped_release release;
                found = method == "xdiag" ? api::xdiag(op, options, first, second, third)
                                          : api::hutchinson_diagonal(op, options, first, second);
            }
            return py::make_tuple(found.count, solvers::student(found.count), found.products, found.converged);
        },
        "op"_a, "method"_a, "samples"_a, "max_products"_a, "tol"_a, "block"_a, "seed"_a, "progress"_a, "mean"_a, "squares"_a, "without"_a);
    m.def(
        "lanczos_quadrature",
        [](api::Operator& op, index probes, index steps, index block, bool reorthogonalize, std::uint64_t seed, const py::object& progress,
           index first) {
            const auto options = quadrature_options(probes, steps, block, reorthogonalize, first, seed, progress);
            solvers::Quadrature found;
            {
                const py::gil_scoped_release release;
                found = api::lanczos_quadrature(op, options);
            }
            return py::make_tuple(matrix(found.nodes), matrix(found.weights), matrix(found.coarse_nodes), matrix(found.coarse_weights),
                                  matrix(found.residuals), found.products);
        },
        "op"_a, "probes"_a, "steps"_a, "block"_a, "reorthogonalize"_a, "seed"_a, "progress"_a, "first"_a = 0);
    m.def(
        "chebyshev_moments",
        [](api::Operator& op, double centre, double half, index probes, index moments, index block, std::uint64_t seed,
           const py::object& progress) {
            const auto options = quadrature_options(probes, moments, block, false, 0, seed, progress);
            solvers::Small found;
            {
                const py::gil_scoped_release release;
                found = api::chebyshev_moments(op, centre, half, options);
            }
            return matrix(found);
        },
        "op"_a, "centre"_a, "half"_a, "probes"_a, "moments"_a, "block"_a, "seed"_a, "progress"_a);
    m.def(
        "nystrom_factors",
        [](api::Operator& op, std::uint64_t seed, const array& vectors) {
            const api::Array out = output(vectors, op.dtype(), -1, op.rows());
            const py::gil_scoped_release release;
            return api::nystrom_factors(op, seed, out);
        },
        "op"_a, "seed"_a, "vectors"_a);
    m.def(
        "low_rank_update",
        [](const array& vectors, std::vector<double> factors) {
            if (index(factors.size()) != rows_of(vectors)) throw py::value_error("a low-rank update needs one factor a vector");
            return api::make_low_rank_update(dtype_of(vectors), input(vectors, dtype_of(vectors), -1, -1), std::move(factors));
        },
        py::keep_alive<0, 1>());
    using solvers::SolveResult;
    py::class_<SolveResult>(m, "SolveResult", py::module_local())
        .def_readonly("residuals", &SolveResult::residuals)
        .def_readonly("iterations", &SolveResult::iterations)
        .def_readonly("products", &SolveResult::products)
        .def_readonly("converged", &SolveResult::converged)
        .def_property_readonly("ended", [](const SolveResult& self) { return python_ended(self.ended); })
        .def_property_readonly("reason", [](const SolveResult& self) { return solvers::reason(self.ended); });
    m.def(
        "solve",
        [](api::Operator& op, api::Operator* preconditioner, double damping, double tol, index max_iterations, const py::object& progress,
           const array& b, const array& x, bool from_zero) {
            const solvers::SolveOptions options{damping, tol, max_iterations, monitor_of(progress), from_zero};
            const api::Array in = input(b, op.dtype(), -1, op.rows()), out = output(x, op.dtype(), in.rows, op.rows());
            const py::gil_scoped_release release;
            return api::solve(op, preconditioner, options, in, out);
        },
        "op"_a, "preconditioner"_a.none(true), "damping"_a, "tol"_a, "max_iterations"_a, "progress"_a, "b"_a, "x"_a, "from_zero"_a);
}

}  // namespace gnfast::bind
