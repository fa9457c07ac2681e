// Python's arrays as the facade's Arrays, with the cheap half of the checks: Python has made the full ones. `array` is what this module's
// arguments are: NumPy's, or in a GPU's module anything with __cuda_array_interface__.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <vector>

#include "api/engine.hpp"
#include "core/monitor.hpp"

namespace gnfast::bind {

namespace py = pybind11;

// What the core asks of an array.
struct Facts {
    api::DType dtype;
    std::vector<index> shape;
    bool contiguous;  // C order
    bool writable;
    void* data;
};

Facts facts_of(const py::array& a);

#ifdef GNFAST_CUDA_MODULE
// Anything with __cuda_array_interface__: CuPy's arrays, PyTorch's tensors.
inline bool has_cuda_interface(PyObject* object) { return PyObject_HasAttrString(object, "__cuda_array_interface__") == 1; }

class DeviceArray : public py::object {
   public:
    PYBIND11_OBJECT(DeviceArray, py::object, has_cuda_interface)
    DeviceArray() = default;
};

Facts facts_of(const DeviceArray& a);
using array = DeviceArray;
#else
using array = py::array;
#endif

// An uninitialised C-contiguous matrix in the memory of this module's device.
array new_array(api::DType dtype, index rows, index cols);

// A C-contiguous (rows, cols) array of this precision; rows or cols -1 accept any number.
api::Array checked(const Facts& facts, api::DType dtype, index rows, index cols, bool writable);

// Of arrays of this module's device, or of NumPy's.
template <class A>
api::DType dtype_of(const A& a) {
    return facts_of(a).dtype;
}
template <class A>
index rows_of(const A& a) {
    const Facts facts = facts_of(a);
    return facts.shape.empty() ? 0 : facts.shape[0];
}
template <class A>
api::Array input(const A& a, api::DType dtype, index rows, index cols) {
    return checked(facts_of(a), dtype, rows, cols, false);
}
template <class A>
api::Array output(const A& a, api::DType dtype, index rows, index cols) {
    return checked(facts_of(a), dtype, rows, cols, true);
}

inline Loss loss_of(const std::string& name) {
    for (const Loss one : loss::all)
        if (name == loss::facts(one).name) return one;
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
