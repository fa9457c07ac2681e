#include "bind/arrays.hpp"
#include "bind/register.hpp"
#include "core/errors.hpp"

namespace {

namespace py = pybind11;

// Python's class for an error of the core: the CPU module's, of which there is one for all devices.
template <class Error>
py::object error_class([[maybe_unused]] py::module_& m, const char* name, [[maybe_unused]] PyObject* base) {
#ifdef GNFAST_CUDA_MODULE
    return py::module_::import("gnfast._core").attr(name);
#else
    return py::exception<Error>(m, name, base);
#endif
}

// Never released: errors may be raised to the end.
PyObject *memory_limit = nullptr, *nonfinite = nullptr, *not_positive_definite = nullptr, *saved_state = nullptr;

void register_errors(py::module_& m) {
    memory_limit = error_class<gnfast::memory_limit_error>(m, "MemoryLimitError", PyExc_MemoryError).release().ptr();
    nonfinite = error_class<gnfast::nonfinite_error>(m, "NonFiniteError", PyExc_ValueError).release().ptr();
    not_positive_definite =
        error_class<gnfast::not_positive_definite_error>(m, "NotPositiveDefiniteError", PyExc_ValueError).release().ptr();
    saved_state = error_class<gnfast::saved_state_error>(m, "SavedStateError", PyExc_ValueError).release().ptr();
}

void translate(std::exception_ptr thrown) {
    try {
        if (thrown) std::rethrow_exception(thrown);
    } catch (const gnfast::memory_limit_error& error) {
        PyErr_SetString(memory_limit, error.what());
    } catch (const gnfast::nonfinite_error& error) {
        PyErr_SetString(nonfinite, error.what());
    } catch (const gnfast::not_positive_definite_error& error) {
        PyErr_SetString(not_positive_definite, error.what());
    } catch (const gnfast::saved_state_error& error) {
        PyErr_SetString(saved_state, error.what());
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
    register_errors(m);
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
