#include "api/solvers.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include "bind/arrays.hpp"
#include "bind/ended.hpp"
#include "bind/register.hpp"

namespace gnfast::bind {
namespace {

// A part of a solver's state as a NumPy array that lives as long as the call that hands it out.
py::array as_array(const solvers::Part& part, api::DType dtype) {
    const std::vector<py::ssize_t> shape{part.rows, part.cols};
    const py::capsule borrowed(&part, [](void*) {});
    if (part.is_double) return py::array_t<double>(shape, static_cast<const double*>(part.data), borrowed);
    if (dtype == api::DType::float32) return py::array_t<float>(shape, static_cast<const float*>(part.data), borrowed);
    return py::array_t<double>(shape, static_cast<const double*>(part.data), borrowed);
}

// What Python asks of a search. Its arrays are taken once there is an operator for them to fit.
struct SearchOptions {
    solvers::Options options;
    py::object progress, start, restore, save;
};

SearchOptions search_options(index block, index max_basis, index max_products, double tol, double norm, std::uint64_t seed,
                             py::object progress, bool largest, bool both, index min_steps, std::vector<double> bars, bool keep,
                             py::object start, py::object restore, py::object save) {
    SearchOptions made{{}, std::move(progress), std::move(start), std::move(restore), std::move(save)};
    solvers::Options& options = made.options;
    options.block = block, options.max_basis = max_basis, options.max_products = max_products;
    options.tol = tol, options.norm = norm, options.seed = seed;
    options.largest = largest, options.both = both;
    options.stage = both ? "eigenvalues of both ends" : largest ? "largest eigenvalues" : "smallest eigenvalues";
    options.min_steps = min_steps, options.bars = std::move(bars), options.keep_results = keep;
    return made;
}

// The core's options for one operator, with the arrays that they point to.
struct Request {
    solvers::Options options;
    py::list kept;

    Request(const api::Operator& op, const array& vectors, const SearchOptions& asked) : options(asked.options) {
        options.count = rows_of(vectors);
        options.monitor = monitor_of(asked.progress);
        if (!asked.start.is_none()) set_start(op, py::cast<array>(asked.start));
        if (!asked.restore.is_none()) set_restore(op, py::cast<py::dict>(asked.restore));
        if (!asked.save.is_none()) set_save(op, py::cast<py::function>(asked.save));
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
            if (dtype != op.dtype() && dtype != api::DType::float64) throw saved_state_error("the saved state has another precision");
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
solvers::Result run(api::Operator& op, const array& vectors, const SearchOptions& asked, F&& search) {
    const api::Array out = output(vectors, op.dtype(), -1, op.rows());
    const Request request(op, vectors, asked);
    const py::gil_scoped_release release;
    return search(request.options, out);
}

}  // namespace

void register_solvers(py::module_& m) {
    using namespace py::literals;
    using solvers::Result;
#ifndef GNFAST_CUDA_MODULE
    py::native_enum<solvers::Ended>(m, "Ended", "enum.Enum", "Why a solver stopped.")
        .value("TOLERANCE", solvers::Ended::tolerance)
        .value("WHOLE_SPACE", solvers::Ended::whole_space)
        .value("ROUNDING", solvers::Ended::rounding)
        .value("PRODUCTS", solvers::Ended::products)
        .value("ITERATIONS", solvers::Ended::iterations)
        .value("STALLED", solvers::Ended::stalled)
        .value("NO_DIRECTION", solvers::Ended::no_direction)
        .value("INTERRUPTED", solvers::Ended::interrupted)
        .value("ONE_PASS", solvers::Ended::one_pass)
        .finalize();
#endif
    py::class_<SearchOptions>(m, "SearchOptions", py::module_local())
        .def(py::init(&search_options), py::kw_only(), "block"_a = 1, "max_basis"_a = 0, "max_products"_a = 0, "tol"_a = 0.0,
             "norm"_a = 0.0, "seed"_a = 0, "progress"_a = py::none(), "largest"_a = true, "both"_a = false, "min_steps"_a = 0,
             "bars"_a = std::vector<double>(), "keep"_a = false, "start"_a = py::none(), "restore"_a = py::none(), "save"_a = py::none());
    py::class_<Result>(m, "SearchResult", py::module_local())
        .def_readonly("values", &Result::values)
        .def_readonly("residuals", &Result::residuals)
        .def_readonly("others", &Result::others)
        .def_readonly("products", &Result::products)
        .def_readonly("passes", &Result::passes)
        .def_readonly("steps", &Result::steps)
        .def_readonly("norm", &Result::norm)
        .def_readonly("converged", &Result::converged)
        .def_property_readonly("ended", [](const Result& self) { return python_ended(self.ended); })
        .def_property_readonly("reason", [](const Result& self) { return solvers::reason(self.ended); });
    m.def(
        "lanczos",
        [](api::Operator& op, const array& vectors, const SearchOptions& asked) {
            return run(op, vectors, asked, [&](const solvers::Options& options, api::Array out) { return api::lanczos(op, options, out); });
        },
        "op"_a, "vectors"_a, "options"_a);
    m.def(
        "davidson",
        [](api::Operator& op, api::Operator* preconditioner, const array& vectors, const SearchOptions& asked) {
            return run(op, vectors, asked,
                       [&](const solvers::Options& options, api::Array out) { return api::davidson(op, preconditioner, options, out); });
        },
        "op"_a, "preconditioner"_a.none(true), "vectors"_a, "options"_a);
    m.def(
        "nystrom",
        [](api::Operator& op, const array& vectors, const SearchOptions& asked) {
            return run(op, vectors, asked, [&](const solvers::Options& options, api::Array out) { return api::nystrom(op, options, out); });
        },
        "op"_a, "vectors"_a, "options"_a);
    m.def("cg_inverse", &api::make_cg_inverse, py::keep_alive<0, 1>(), py::keep_alive<0, 2>(), "op"_a, "preconditioner"_a.none(true),
          "damping"_a, "tol"_a, "max_iterations"_a);
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
}

}  // namespace gnfast::bind
