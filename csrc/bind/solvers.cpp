#include "api/solvers.hpp"

#include <pybind11/stl.h>

#include "bind/arrays.hpp"
#include "bind/register.hpp"

namespace gnfast::bind {
namespace {

py::dict as_dict(const solvers::Result& result) {
    py::dict out;
    out["values"] = result.values;
    out["residuals"] = result.residuals;
    out["others"] = result.others;
    out["products"] = result.products;
    out["passes"] = result.passes;
    out["steps"] = result.steps;
    out["norm"] = result.norm;
    out["converged"] = result.converged;
    out["reason"] = result.reason;
    return out;
}

// A part of a solver's state as a NumPy array that lives as long as the call that hands it out.
py::array as_array(const solvers::Part& part, api::DType dtype) {
    const std::vector<py::ssize_t> shape{part.rows, part.cols};
    const py::capsule borrowed(&part, [](void*) {});
    if (part.is_double) return py::array_t<double>(shape, static_cast<const double*>(part.data), borrowed);
    if (dtype == api::DType::float32) return py::array_t<float>(shape, static_cast<const float*>(part.data), borrowed);
    return py::array_t<double>(shape, static_cast<const double*>(part.data), borrowed);
}

// What all solvers are asked in the same way; `more` holds what is seldom given.
struct Request {
    solvers::Options options;
    py::list kept;  // arrays that the options point to

    Request(const api::Operator& op, const array& vectors, bool largest, index block, index max_basis, index max_products, double tol,
            double norm, std::uint64_t seed, const py::object& progress, const py::kwargs& more) {
        options.count = rows_of(vectors);
        options.largest = largest;
        options.block = block;
        options.max_basis = max_basis;
        options.max_products = max_products;
        options.tol = tol;
        options.norm = norm;
        options.seed = seed;
        options.monitor = monitor_of(progress);
        options.stage = largest ? "largest eigenvalues" : "smallest eigenvalues";
        for (const auto& [key, value] : more) {
            const auto name = py::cast<std::string>(key);
            if (value.is_none()) continue;
            if (name == "both")
                options.both = py::cast<bool>(value);
            else if (name == "min_steps")
                options.min_steps = py::cast<index>(value);
            else if (name == "bars")
                options.bars = py::cast<std::vector<double>>(value);
            else if (name == "keep")
                options.keep_results = py::cast<bool>(value);
            else if (name == "start")
                set_start(op, py::cast<array>(value));
            else if (name == "restore")
                set_restore(op, py::cast<py::dict>(value));
            else if (name == "save")
                set_save(op, py::cast<py::function>(value));
            else
                throw py::type_error("a solver of the core takes no '" + name + "'");
        }
        if (options.both) options.stage = "eigenvalues of both ends";
    }

   private:
    void set_start(const api::Operator& op, const array& start) {
        const api::Array rows = input(start, op.dtype(), -1, op.rows());
        options.start = rows.data, options.start_rows = rows.rows;
        kept.append(start);
    }

    void set_restore(const api::Operator& op, const py::dict& parts) {
        for (const auto& [key, value] : parts) {
            const auto part = py::cast<py::array>(value);
            const api::DType dtype = dtype_of(part);
            if (dtype != op.dtype() && dtype != api::DType::float64) throw py::type_error("the saved state has another precision");
            const api::Array rows = input(part, dtype, -1, -1);
            options.restore.push_back({py::cast<std::string>(key), rows.data, rows.rows, rows.cols, dtype == api::DType::float64});
            kept.append(part);
        }
    }

    void set_save(const api::Operator& op, const py::function& save) {
        options.save = [save, dtype = op.dtype()](const solvers::Snapshot& parts, bool last) {
            const py::gil_scoped_acquire gil;
            py::dict state;
            for (const solvers::Part& part : parts) state[part.name.c_str()] = as_array(part, dtype);
            interruptible([&] { save(state, last); });
        };
    }
};

template <class F>
py::dict run(F&& f) {
    solvers::Result result;
    {
        const py::gil_scoped_release release;
        result = f();
    }
    return as_dict(result);
}

}  // namespace

void register_solvers(py::module_& m) {
    using namespace py::literals;
    m.def(
        "lanczos",
        [](api::Operator& op, const array& vectors, bool largest, index block, index max_basis, index max_products, double tol, double norm,
           std::uint64_t seed, const py::object& progress, const py::kwargs& more) {
            const api::Array out = output(vectors, op.dtype(), -1, op.rows());
            const Request request(op, vectors, largest, block, max_basis, max_products, tol, norm, seed, progress, more);
            return run([&] { return api::lanczos(op, request.options, out); });
        },
        "op"_a, "vectors"_a, "largest"_a, "block"_a, "max_basis"_a, "max_products"_a, "tol"_a, "norm"_a, "seed"_a, "progress"_a);
    m.def("ritz_errors", &api::ritz_errors, "values"_a, "residuals"_a);
    m.def(
        "asymmetry",
        [](const array& a) {
            const api::DType dtype = dtype_of(a);
            const api::Array matrix = input(a, dtype, -1, rows_of(a));
            const py::gil_scoped_release release;
            const Asymmetry found = api::asymmetry(dtype, matrix);
            return std::make_tuple(found.scale, found.difference, found.finite);
        },
        "a"_a);
    m.def(
        "davidson",
        [](api::Operator& op, api::Operator* preconditioner, const array& vectors, index block, index max_basis, index max_products,
           double tol, double norm, std::uint64_t seed, const py::object& progress, bool largest, const py::kwargs& more) {
            const api::Array out = output(vectors, op.dtype(), -1, op.rows());
            const Request request(op, vectors, largest, block, max_basis, max_products, tol, norm, seed, progress, more);
            return run([&] { return api::davidson(op, preconditioner, request.options, out); });
        },
        "op"_a, "preconditioner"_a.none(true), "vectors"_a, "block"_a, "max_basis"_a, "max_products"_a, "tol"_a, "norm"_a, "seed"_a,
        "progress"_a, "largest"_a = false);
    m.def("cg_inverse", &api::make_cg_inverse, py::keep_alive<0, 1>(), py::keep_alive<0, 2>(), "op"_a, "preconditioner"_a.none(true),
          "damping"_a, "tol"_a, "max_iterations"_a);
    m.def(
        "nystrom",
        [](api::Operator& op, const array& vectors, std::uint64_t seed, const py::object& progress, const py::kwargs& more) {
            const api::Array out = output(vectors, op.dtype(), -1, op.rows());
            const Request request(op, vectors, true, rows_of(vectors), 0, 0, 0, 0, seed, progress, more);
            return run([&] { return api::nystrom(op, request.options, out); });
        },
        "op"_a, "vectors"_a, "seed"_a, "progress"_a);
}

}  // namespace gnfast::bind
