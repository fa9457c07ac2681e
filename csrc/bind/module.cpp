#include "bind/register.hpp"
#include "core/errors.hpp"

PYBIND11_MODULE(_core, m) {
    m.doc() = "The compiled core of gnfast; its arguments are checked by the package, not here.";
    pybind11::register_exception<gnfast::memory_limit_error>(m, "MemoryLimitError", PyExc_MemoryError);
    gnfast::bind::register_runtime(m);
    gnfast::bind::register_networks(m);
    gnfast::bind::register_operators(m);
    gnfast::bind::register_solvers(m);
    gnfast::bind::register_estimators(m);
}
