#include "bind/arrays.hpp"

#include <string>

namespace gnfast::bind {

Facts facts_of(const py::array& a) {
    const bool single = py::isinstance<py::array_t<float>>(a);
    if (!single && !py::isinstance<py::array_t<double>>(a))
        throw py::type_error("an array passed to the core is neither float32 nor float64");
    return {single ? api::DType::float32 : api::DType::float64,
            {a.shape(), a.shape() + a.ndim()},
            (a.flags() & py::array::c_style) != 0,
            a.writeable(),
            const_cast<void*>(a.data())};
}

api::Array checked(const Facts& facts, api::DType dtype, index rows, index cols, bool writable) {
    if (facts.dtype != dtype) throw py::type_error("an array passed to the core has another precision than its operator");
    if (facts.shape.size() != 2 || !facts.contiguous) throw py::value_error("an array passed to the core is not a C-contiguous matrix");
    const index height = facts.shape[0], width = facts.shape[1];
    if ((rows >= 0 && height != rows) || (cols >= 0 && width != cols))
        throw py::value_error("an array of shape (" + std::to_string(height) + ", " + std::to_string(width) +
                              ") was passed to the core where (" + std::to_string(rows) + ", " + std::to_string(cols) + ") fits");
    if (writable && !facts.writable) throw py::value_error("an output passed to the core is read-only");
    return {facts.data, height, width};
}

#ifndef GNFAST_CUDA_MODULE
array new_array(api::DType dtype, index rows, index cols) {
    if (dtype == api::DType::float32) return py::array_t<float>({rows, cols});
    return py::array_t<double>({rows, cols});
}
#endif

}  // namespace gnfast::bind
