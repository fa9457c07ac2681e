#include "bind/arrays.hpp"
#include "bind/register.hpp"
#include "core/errors.hpp"

namespace {

namespace py = pybind11;

#ifdef GNFAST_CUDA_MODULE
// The CPU module's class: there is one for all devices.
py::object memory_limit_class(py::module_&) { return py::module_::import("gnfast._core").attr("MemoryLimitError"); }
#else
py::object memory_limit_class(py::module_& m) {
    return py::exception<gnfast::memory_limit_error>(m, "MemoryLimitError", PyExc_MemoryError);
}
#endif

PyObject* memory_limit = nullptr;  // never released: errors may be raised to the end

void translate(std::exception_ptr thrown) {
    try {
        if (thrown) std::rethrow_exception(thrown);
    } catch (const gnfast::memory_limit_error& error) {
        PyErr_SetString(memory_limit, error.what());
    } catch (gnfast::bind::PythonInterrupt& stop) {
        stop.error.restore();
    } catch (const gnfast::interrupted&) {
        PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
}

}  // namespace

// GNFAST_MODULE: _core, or one of those for GPUs. What is registered with Python is each module's own.
PYBIND11_MODULE(GNFAST_MODULE, m) {
    m.doc() = "A compiled core of gnfast; its arguments are checked by the package, not here.";
    memory_limit = memory_limit_class(m).release().ptr();
    py::register_local_exception_translator(&translate);
    gnfast::bind::register_runtime(m);
    gnfast::bind::register_networks(m);
    gnfast::bind::register_operators(m);
    gnfast::bind::register_solvers(m);
    gnfast::bind::register_estimators(m);
    gnfast::bind::register_ensemble(m);
#ifdef GNFAST_CUDA_MODULE
    gnfast::bind::register_cuda(m);
#endif
}
