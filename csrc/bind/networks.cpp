#include <pybind11/stl.h>

#include "bind/arrays.hpp"
#include "bind/register.hpp"

namespace gnfast::bind {
namespace {

std::unique_ptr<api::Network> make_network(const py::list& layers) {
    std::vector<api::LayerSpec> specs;
    std::optional<api::DType> dtype;
    for (const py::handle& item : layers) {
        const auto layer = py::cast<py::tuple>(item);
        const auto kind = py::cast<std::string>(layer[0]);
        if (kind == "dense") {
            const auto weight = py::cast<py::array>(layer[1]);
            if (!dtype) dtype = dtype_of(weight);
            void* bias = nullptr;
            if (!layer[2].is_none()) {
                const auto vector = py::cast<py::array>(layer[2]);
                if (dtype_of(vector) != *dtype || vector.ndim() != 1 || vector.shape(0) != weight.shape(0) ||
                    !(vector.flags() & py::array::c_style))
                    throw py::value_error("a bias passed to the core does not fit its weight");
                bias = const_cast<void*>(vector.data());
            }
            specs.emplace_back(api::DenseSpec{input(weight, *dtype, -1, -1), bias, py::cast<double>(layer[3])});
        } else if (py::cast<std::string>(layer[1]) != "identity") {
            specs.emplace_back(api::ActivationSpec{py::cast<std::string>(layer[1]), py::cast<double>(layer[2])});
        }
    }
    if (!dtype) throw py::value_error("a network needs at least one dense layer");
    return api::make_network(*dtype, specs);
}

}  // namespace

void register_networks(py::module_& m) {
    py::class_<api::Network>(m, "Network")
        .def(py::init(&make_network), py::keep_alive<1, 2>())
        .def_property_readonly("parameters", &api::Network::parameters)
        .def("forward",
             [](const api::Network& self, const py::array& x, const py::array& out) {
                 const api::Array in = input(x, self.dtype(), -1, self.inputs());
                 const api::Array target = output(out, self.dtype(), in.rows, self.outputs());
                 const py::gil_scoped_release release;
                 self.forward(in, target);
             })
        // (inputs, derivatives): per dense layer its input, and the derivative of the activations behind it or None.
        .def("linearize", [](const api::Network& self, const py::array& x) {
            const api::Array in = input(x, self.dtype(), -1, self.inputs());
            py::list inputs, derivatives;
            const std::size_t size = self.dtype() == api::DType::float32 ? 4 : 8;
            self.linearize(in, [&](const api::Network::Kept& layer) {
                py::object copy = new_array(self.dtype(), layer.rows, layer.cols);
                std::memcpy(const_cast<void*>(py::cast<py::array>(copy).data()), layer.data, size * std::size_t(layer.rows * layer.cols));
                if (layer.dense) {
                    inputs.append(copy);
                    derivatives.append(py::none());
                } else if (!inputs.empty()) {
                    py::object before = derivatives[derivatives.size() - 1];
                    derivatives[derivatives.size() - 1] = before.is_none() ? copy : before * copy;
                }
            });
            return py::make_tuple(inputs, derivatives);
        });
}

}  // namespace gnfast::bind
