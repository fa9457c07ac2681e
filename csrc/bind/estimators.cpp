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

solvers::SolveOptions solve_options(double damping, double tol, index max_iterations, bool from_zero, const py::object& progress) {
    return {damping, tol, max_iterations, monitor_of(progress), from_zero};
}

api::TraceMethod trace_method(const std::string& name) {
    if (name == "hutchinson") return api::TraceMethod::hutchinson;
    if (name == "hutch++") return api::TraceMethod::hutch_plus_plus;
    if (name == "xtrace") return api::TraceMethod::xtrace;
    throw py::value_error("method '" + name + "' is not known to the core");
}

void register_options(py::module_& m) {
    using namespace py::literals;
    py::class_<solvers::EstimatorOptions>(m, "EstimatorOptions", py::module_local())
        .def(py::init(&estimator_options), py::kw_only(), "samples"_a, "max_products"_a, "tol"_a, "block"_a, "seed"_a,
             "progress"_a = py::none());
    py::class_<solvers::QuadratureOptions>(m, "QuadratureOptions", py::module_local())
        .def(py::init(&quadrature_options), py::kw_only(), "probes"_a, "steps"_a, "block"_a, "reorthogonalize"_a = false, "first"_a = 0,
             "seed"_a, "progress"_a = py::none());
    py::class_<solvers::SolveOptions>(m, "SolveOptions", py::module_local())
        .def(py::init(&solve_options), py::kw_only(), "damping"_a, "tol"_a, "max_iterations"_a, "from_zero"_a, "progress"_a = py::none());
}

void register_results(py::module_& m) {
    using solvers::DiagonalResult, solvers::Estimate, solvers::Quadrature, solvers::SolveResult;
    py::class_<Estimate>(m, "Estimate", py::module_local())
        .def_readonly("value", &Estimate::value)
        .def_readonly("error", &Estimate::error)
        .def_readonly("products", &Estimate::products)
        .def_readonly("converged", &Estimate::converged);
    py::class_<DiagonalResult>(m, "DiagonalResult", py::module_local())
        .def_readonly("count", &DiagonalResult::count)
        .def_property_readonly("student", [](const DiagonalResult& self) { return solvers::student(self.count); })
        .def_readonly("products", &DiagonalResult::products)
        .def_readonly("converged", &DiagonalResult::converged);
    py::class_<Quadrature>(m, "Quadrature", py::module_local())
        .def_property_readonly("nodes", [](const Quadrature& self) { return matrix(self.nodes); })
        .def_property_readonly("weights", [](const Quadrature& self) { return matrix(self.weights); })
        .def_property_readonly("coarse_nodes", [](const Quadrature& self) { return matrix(self.coarse_nodes); })
        .def_property_readonly("coarse_weights", [](const Quadrature& self) { return matrix(self.coarse_weights); })
        .def_property_readonly("residuals", [](const Quadrature& self) { return matrix(self.residuals); })
        .def_readonly("products", &Quadrature::products);
    py::class_<SolveResult>(m, "SolveResult", py::module_local())
        .def_readonly("residuals", &SolveResult::residuals)
        .def_readonly("iterations", &SolveResult::iterations)
        .def_readonly("products", &SolveResult::products)
        .def_readonly("converged", &SolveResult::converged)
        .def_property_readonly("ended", [](const SolveResult& self) { return python_ended(self.ended); })
        .def_property_readonly("reason", [](const SolveResult& self) { return solvers::reason(self.ended); });
}

}  // namespace

void register_estimators(py::module_& m) {
    using namespace py::literals;
    register_options(m);
    register_results(m);
    m.def(
        "trace",
        [](api::Operator& op, const std::string& method, const solvers::EstimatorOptions& options) {
            const api::TraceMethod how = trace_method(method);
            const py::gil_scoped_release release;
            return api::trace(op, how, options);
        },
        "op"_a, "method"_a, "options"_a);
    m.def(
        "diagonal",
        [](api::Operator& op, const std::string& method, const array& mean, const array& squares, const array& without,
           const solvers::EstimatorOptions& options) {
            const api::Array first = output(mean, op.dtype(), 1, op.rows()), second = output(squares, op.dtype(), 1, op.rows()),
                             third = output(without, op.dtype(), 1, op.rows());
            const py::gil_scoped_release release;
            return method == "xdiag" ? api::xdiag(op, options, first, second, third) : api::hutchinson_diagonal(op, options, first, second);
        },
        "op"_a, "method"_a, "mean"_a, "squares"_a, "without"_a, "options"_a);
    m.def("lanczos_quadrature", &api::lanczos_quadrature, py::call_guard<py::gil_scoped_release>(), "op"_a, "options"_a);
    m.def(
        "chebyshev_moments",
        [](api::Operator& op, double centre, double half, const solvers::QuadratureOptions& options) {
            solvers::Small found;
            {
                const py::gil_scoped_release release;
                found = api::chebyshev_moments(op, centre, half, options);
            }
            return matrix(found);
        },
        "op"_a, "centre"_a, "half"_a, "options"_a);
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
    m.def(
        "solve",
        [](api::Operator& op, api::Operator* preconditioner, const array& b, const array& x, const solvers::SolveOptions& options) {
            const api::Array in = input(b, op.dtype(), -1, op.rows()), out = output(x, op.dtype(), in.rows, op.rows());
            const py::gil_scoped_release release;
            return api::solve(op, preconditioner, options, in, out);
        },
        "op"_a, "preconditioner"_a.none(true), "b"_a, "x"_a, "options"_a);
}

}  // namespace gnfast::bind
