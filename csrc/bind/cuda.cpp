// What only a GPU's module has: arrays on the device, and what Python hands over once (cuBLAS, CuPy's memory) or before a call (the
// stream).
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "bind/arrays.hpp"
#include "bind/register.hpp"
#include "cuda/buffer.hpp"
#include "cuda/cublas.hpp"
#include "cuda/precision.hpp"
#include "cuda/runtime.hpp"

namespace gnfast::bind {
namespace {

// Python objects that the core holds may be let go without the GIL, and after Python's end, when nothing must be done any more.
std::shared_ptr<py::function> shared(const py::function& f) {
    return {new py::function(f), [](py::function* held) {
                if (!Py_IsInitialized()) return;
                const py::gil_scoped_acquire gil;
                delete held;
            }};
}

void set_allocator(const py::function& allocate, const py::function& release) {
    cuda::set_allocator({[f = shared(allocate)](std::size_t bytes) {
                             const py::gil_scoped_acquire gil;
                             return reinterpret_cast<void*>(py::cast<std::uintptr_t>((*f)(bytes)));
                         },
                         [f = shared(release)](void* block) {
                             if (!Py_IsInitialized()) return;
                             const py::gil_scoped_acquire gil;
                             const py::error_scope pending;  // memory may be released while an error is on its way
                             try {
                                 (*f)(reinterpret_cast<std::uintptr_t>(block));
                             } catch (py::error_already_set& error) {
                                 error.discard_as_unraisable("release of device memory");
                             }
                         }});
}

py::object* array_factory = nullptr;  // never released

cuda::Precision precision_of(const std::string& name) {
    if (name == "highest") return cuda::Precision::highest;
    if (name == "high") return cuda::Precision::high;
    if (name == "medium") return cuda::Precision::medium;
    throw py::value_error("precision '" + name + "' is not known to the core");
}

}  // namespace

Facts facts_of(const DeviceArray& a) {
    const auto interface = py::cast<py::dict>(a.attr("__cuda_array_interface__"));
    const auto type = py::cast<std::string>(interface["typestr"]);
    if (type != "<f4" && type != "<f8") throw py::type_error("an array passed to the core is neither float32 nor float64");
    const auto shape = py::cast<py::tuple>(interface["shape"]);
    const auto data = py::cast<py::tuple>(interface["data"]);
    const bool strided = interface.contains("strides") && !interface["strides"].is_none();
    Facts facts{type == "<f4" ? api::DType::float32 : api::DType::float64,
                {},
                true,
                !py::cast<bool>(data[1]),
                reinterpret_cast<void*>(py::cast<std::uintptr_t>(data[0]))};
    for (const py::handle& length : shape) facts.shape.push_back(py::cast<index>(length));
    index expected = facts.dtype == api::DType::float32 ? 4 : 8, size = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
        // The stride of a single row is never used.
        if (strided && facts.shape[i] > 1 && py::cast<index>(py::cast<py::tuple>(interface["strides"])[i]) != expected)
            facts.contiguous = false;
        expected *= facts.shape[i], size *= facts.shape[i];
    }
    if (size == 0) return facts;
    const int device = cuda::device_of(facts.data), here = cuda::current_device();
    if (device != here)
        throw py::value_error("an array passed to the core lies on " + (device < 0 ? "the host" : "device " + std::to_string(device)) +
                              " but the core works on device " + std::to_string(here));
    return facts;
}

array new_array(api::DType dtype, index rows, index cols) {
    if (!array_factory) throw std::runtime_error("the core has no way to make arrays on the device; call set_array_factory first");
    return py::cast<array>((*array_factory)(py::make_tuple(rows, cols), dtype == api::DType::float32 ? "float32" : "float64"));
}

void add_cuda_info(py::dict& info) {
    const std::string version = cuda::cublas_version();
    info["cublas"] = version.empty() ? py::object(py::none()) : py::object(py::str(version));
#ifdef GNFAST_CUDA_EMULATION
    info["emulated"] = true;
#else
    info["emulated"] = false;
#endif
}

void register_cuda(py::module_& m) {
    m.def("set_cublas", [](const std::optional<std::string>& path) { return cuda::load_cublas(path.value_or("")); });
    m.def("set_allocator", &set_allocator);
    m.def("set_array_factory", [](const py::function& make) {
        if (!array_factory) array_factory = new py::object();
        *array_factory = make;
    });
    m.def("set_stream", [](std::uintptr_t handle) { cuda::set_stream({reinterpret_cast<void*>(handle)}); });
    m.def("synchronize", &cuda::synchronize, py::call_guard<py::gil_scoped_release>());
    m.def("device_count", &cuda::device_count);
    m.def("get_device", &cuda::current_device);
    m.def("set_device", &cuda::set_device);
    m.def("memory_info", [] {
        const cuda::MemoryInfo info = cuda::memory_info();
        return py::make_tuple(info.free, info.total);
    });
    m.def("set_precision", [](const std::string& name) { cuda::set_precision(precision_of(name)); });
}

}  // namespace gnfast::bind
