#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "bind/arrays.hpp"
#include "bind/register.hpp"

namespace gnfast::bind {
namespace {

// A bias (size,) or None.
void* bias_of(const py::handle& item, api::DType dtype, index size) {
    if (item.is_none()) return nullptr;
    const Facts vector = facts_of(py::cast<array>(item));
    if (vector.dtype != dtype || vector.shape.size() != 1 || vector.shape[0] != size || !vector.contiguous)
        throw py::value_error("a bias passed to the core does not fit its weight");
    return vector.data;
}

// (size, kernel, stride, dilation, before, positions)
Axis axis_of(const py::handle& item) {
    const auto v = py::cast<std::array<index, 6>>(item);
    if (*std::min_element(v.begin(), v.begin() + 4) < 1 || v[4] < 0 || v[5] < 1)
        throw py::value_error("windows passed to the core have no positions");
    return {v[0], v[1], v[2], v[3], v[4], v[5]};
}

// (channels, y, x, circular)
Windows windows_of(const py::handle& item) {
    const auto windows = py::cast<py::tuple>(item);
    return {py::cast<index>(windows[0]), axis_of(windows[1]), axis_of(windows[2]), py::cast<bool>(windows[3])};
}

// Layers as tuples, the name of the kind first; identities are left out.
std::vector<api::LayerSpec> specs_of(const py::handle& layers, api::DType dtype) {
    std::vector<api::LayerSpec> specs;
    for (const py::handle& item : py::cast<py::list>(layers)) {
        const auto layer = py::cast<py::tuple>(item);
        const auto kind = py::cast<std::string>(layer[0]);
        if (kind == "dense") {
            const api::Array weight = input(py::cast<array>(layer[1]), dtype, -1, -1);
            specs.emplace_back(api::DenseSpec{weight, bias_of(layer[2], dtype, weight.rows), py::cast<double>(layer[3])});
        } else if (kind == "convolution") {
            const api::Array weight = input(py::cast<array>(layer[1]), dtype, -1, -1);
            specs.emplace_back(
                api::ConvolutionSpec{weight, bias_of(layer[2], dtype, weight.rows), windows_of(layer[3]), py::cast<index>(layer[4])});
        } else if (kind == "pool") {
            specs.emplace_back(api::PoolSpec{py::cast<bool>(layer[1]), windows_of(layer[2])});
        } else if (kind == "norm") {
            const auto shape = py::cast<std::array<index, 4>>(layer[1]);
            if (*std::min_element(shape.begin(), shape.begin() + 3) < 1 || shape[3] < 0)
                throw py::value_error("a normalisation passed to the core has no values");
            const auto values = [&](std::size_t i) { return bias_of(layer[i], dtype, shape[1]); };
            const auto statistics = [&](std::size_t i) {
                return static_cast<const double*>(bias_of(layer[i], api::DType::float64, shape[1]));
            };
            specs.emplace_back(api::NormSpec{{shape[0], shape[1], shape[2], shape[3]},
                                             values(2),
                                             values(3),
                                             py::cast<double>(layer[4]),
                                             statistics(5),
                                             statistics(6),
                                             values(7)});
        } else if (kind == "scale") {
            specs.emplace_back(api::ScaleSpec{py::cast<double>(layer[1])});
        } else if (kind == "residual") {
            specs.emplace_back(api::ResidualSpec{specs_of(layer[1], dtype), specs_of(layer[2], dtype), py::cast<double>(layer[3])});
        } else if (kind != "activation") {
            throw py::value_error("a layer of kind '" + kind + "' is not known to the core");
        } else if (py::cast<std::string>(layer[1]) != "identity") {
            specs.emplace_back(api::ActivationSpec{py::cast<std::string>(layer[1]), py::cast<double>(layer[2])});
        }
    }
    return specs;
}

std::unique_ptr<api::Network> make_network(const py::list& layers, index inputs, const std::string& dtype) {
    const api::DType kind = dtype == "float32" ? api::DType::float32 : api::DType::float64;
    return api::make_network(kind, inputs, specs_of(layers, kind));
}

}  // namespace

void register_networks(py::module_& m) {
    py::class_<api::Network>(m, "Network", py::module_local())
        .def(py::init(&make_network), py::keep_alive<1, 2>())
        .def_property_readonly("parameters", &api::Network::parameters)
        .def("forward",
             [](const api::Network& self, const array& x, const array& out) {
                 const api::Array in = input(x, self.dtype(), -1, self.inputs());
                 const api::Array target = output(out, self.dtype(), in.rows, self.outputs());
                 const py::gil_scoped_release release;
                 self.forward(in, target);
             })
        // (inputs, derivatives): per dense layer its input, and the derivative of the activations behind it or None.
        .def("linearize", [](const api::Network& self, const array& x) {
            const api::Array in = input(x, self.dtype(), -1, self.inputs());
            py::list inputs, derivatives;
            self.linearize(in, [&](const api::Network::Kept& layer) {
                const array copy = new_array(self.dtype(), layer.rows, layer.cols);
                api::copy(self.dtype(), {const_cast<void*>(layer.data), layer.rows, layer.cols},
                          output(copy, self.dtype(), layer.rows, layer.cols));
                if (layer.dense) {
                    inputs.append(copy);
                    derivatives.append(py::none());
                } else if (!inputs.empty()) {
                    py::object before = derivatives[derivatives.size() - 1];
                    derivatives[derivatives.size() - 1] = before.is_none() ? py::object(copy) : before * copy;
                }
            });
            return py::make_tuple(inputs, derivatives);
        });
}

}  // namespace gnfast::bind
