#include <pybind11/stl.h>

#include "bind/arrays.hpp"
#include "bind/register.hpp"

namespace gnfast::bind {
namespace {

py::dict as_dict(const solvers::Result& result) {
    py::dict out;
    out["values"] = result.values;
    out["residuals"] = result.residuals;
    out["products"] = result.products;
    out["converged"] = result.converged;
    out["reason"] = result.reason;
    return out;
}

solvers::Options options_of(const py::array& vectors, bool largest, index block, index max_basis, index max_products, double tol,
                            double norm, std::uint64_t seed, const py::object& progress) {
    solvers::Options options;
    options.count = vectors.shape(0);
    options.largest = largest;
    options.block = block;
    options.max_basis = max_basis;
    options.max_products = max_products;
    options.tol = tol;
    options.norm = norm;
    options.seed = seed;
    options.monitor = monitor_of(progress);
    options.stage = largest ? "largest eigenvalues" : "smallest eigenvalues";
    return options;
}

}  // namespace

void register_solvers(py::module_& m) {
    using namespace py::literals;
    m.def(
        "lanczos",
        [](api::Operator& op, const py::array& vectors, bool largest, index block, index max_basis, index max_products, double tol,
           double norm, std::uint64_t seed, const py::object& progress) {
            const api::Array out = output(vectors, op.dtype(), -1, op.rows());
            const solvers::Options options = options_of(vectors, largest, block, max_basis, max_products, tol, norm, seed, progress);
            solvers::Result result;
            {
                const py::gil_scoped_release release;
                result = api::lanczos(op, options, out);
            }
            return as_dict(result);
        },
        "op"_a, "vectors"_a, "largest"_a, "block"_a, "max_basis"_a, "max_products"_a, "tol"_a, "norm"_a, "seed"_a, "progress"_a);
    m.def(
        "davidson",
        [](api::Operator& op, api::Operator& preconditioner, const py::array& vectors, index block, index max_basis, index max_products,
           double tol, double norm, std::uint64_t seed, const py::object& progress) {
            const api::Array out = output(vectors, op.dtype(), -1, op.rows());
            const solvers::Options options = options_of(vectors, false, block, max_basis, max_products, tol, norm, seed, progress);
            solvers::Result result;
            {
                const py::gil_scoped_release release;
                result = api::davidson(op, preconditioner, options, out);
            }
            return as_dict(result);
        },
        "op"_a, "preconditioner"_a, "vectors"_a, "block"_a, "max_basis"_a, "max_products"_a, "tol"_a, "norm"_a, "seed"_a, "progress"_a);
}

}  // namespace gnfast::bind
