// One function for each part of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace gnfast::bind {

void register_runtime(pybind11::module_& m);
void register_networks(pybind11::module_& m);
void register_operators(pybind11::module_& m);
void register_solvers(pybind11::module_& m);
void register_estimators(pybind11::module_& m);
void register_ensemble(pybind11::module_& m);

#ifdef GNFAST_CUDA_MODULE
void register_cuda(pybind11::module_& m);
void add_cuda_info(pybind11::dict& info);
#endif

}  // namespace gnfast::bind
