// NumPy arrays as the facade's Arrays, with the cheap half of the checks: Python has made the full ones.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>

#include "api/engine.hpp"
#include "core/monitor.hpp"

namespace gnfast::bind {

namespace py = pybind11;

inline api::DType dtype_of(const py::array& a) {
    if (py::isinstance<py::array_t<float>>(a)) return api::DType::float32;
    if (py::isinstance<py::array_t<double>>(a)) return api::DType::float64;
    throw py::type_error("an array passed to the core is neither float32 nor float64");
}

// A C-contiguous (rows, cols) array of this precision; rows or cols -1 accept any number.
inline api::Array view(const py::array& a, api::DType dtype, index rows, index cols, bool writable) {
    if (dtype_of(a) != dtype) throw py::type_error("an array passed to the core has another precision than its operator");
    if (a.ndim() != 2 || !(a.flags() & py::array::c_style))
        throw py::value_error("an array passed to the core is not a C-contiguous matrix");
    if ((rows >= 0 && a.shape(0) != rows) || (cols >= 0 && a.shape(1) != cols))
        throw py::value_error("an array of shape (" + std::to_string(a.shape(0)) + ", " + std::to_string(a.shape(1)) +
                              ") was passed to the core where (" + std::to_string(rows) + ", " + std::to_string(cols) + ") fits");
    if (writable && !a.writeable()) throw py::value_error("an output passed to the core is read-only");
    return {const_cast<void*>(a.data()), a.shape(0), a.shape(1)};
}

inline api::Array input(const py::array& a, api::DType dtype, index rows, index cols) { return view(a, dtype, rows, cols, false); }
inline api::Array output(const py::array& a, api::DType dtype, index rows, index cols) { return view(a, dtype, rows, cols, true); }

inline py::array new_array(api::DType dtype, index rows, index cols) {
    if (dtype == api::DType::float32) return py::array_t<float>({rows, cols});
    return py::array_t<double>({rows, cols});
}

inline Loss loss_of(const std::string& name) {
    if (name == "mse") return Loss::mse;
    if (name == "cross_entropy") return Loss::cross_entropy;
    if (name == "binary_cross_entropy") return Loss::binary_cross_entropy;
    if (name == "poisson") return Loss::poisson;
    if (name == "blocks") return Loss::blocks;
    throw py::value_error("loss '" + name + "' is not known to the core");
}

// KeyboardInterrupt on its way through the core, which may stop for it and still answer; else it arrives as it was raised.
struct PythonInterrupt final : interrupted {
    explicit PythonInterrupt(const py::error_already_set& error_) : error(error_) {}
    py::error_already_set error;
};

// f(), with Python's KeyboardInterrupt turned into the core's.
template <class F>
void interruptible(F&& f) {
    try {
        f();
    } catch (const py::error_already_set& error) {
        if (error.matches(PyExc_KeyboardInterrupt)) throw PythonInterrupt(error);
        throw;
    }
}

// A Python callable (stage, done, total) or None; also what makes Ctrl-C work between two steps. Solvers add a residual.
inline Monitor monitor_of(const py::object& progress) {
    return [progress](const char* stage, double done, double total, double residual) {
        const py::gil_scoped_acquire gil;
        interruptible([&] {
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();
            if (progress.is_none()) return;
            if (std::isnan(residual))
                progress(stage, done, total);
            else
                progress(stage, done, total, residual);
        });
    };
}

}  // namespace gnfast::bind
