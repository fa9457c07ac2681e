#include "bind/arrays.hpp"
#include "bind/register.hpp"
#include "core/errors.hpp"

PYBIND11_MODULE(_core, m) {
    m.doc() = "The compiled core of gnfast; its arguments are checked by the package, not here.";
    pybind11::register_exception<gnfast::memory_limit_error>(m, "MemoryLimitError", PyExc_MemoryError);
    pybind11::register_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (gnfast::bind::PythonInterrupt& stop) {
            stop.error.restore();
        } catch (const gnfast::interrupted&) {
            PyErr_SetNone(PyExc_KeyboardInterrupt);
        }
    });
    gnfast::bind::register_runtime(m);
    gnfast::bind::register_networks(m);
    gnfast::bind::register_operators(m);
    gnfast::bind::register_solvers(m);
    gnfast::bind::register_estimators(m);
    gnfast::bind::register_ensemble(m);
}
