#include "api/ensemble.hpp"

#include <pybind11/stl.h>

#include "bind/arrays.hpp"
#include "bind/register.hpp"

namespace gnfast::bind {

void register_ensemble(py::module_& m) {
    using namespace py::literals;
    m.def(
        "sample_network",
        [](const py::array& x, const py::array& gram, const std::string& activation, double slope, std::vector<index> widths,
           std::vector<double> variances, std::vector<double> skips, bool orthogonal, bool bias, const std::string& loss, double scale,
           std::uint64_t seed, std::uint64_t sample, index tile, const py::array& k, const py::array& outputs, const py::object& progress) {
            const api::DType dtype = api::DType::float64;
            if (widths.empty() || variances.size() != widths.size() || skips.size() != widths.size() || tile < 0 || tile % 4 != 0)
                throw py::value_error("a law passed to the core has not one width, variance and skip a layer");
            const NetworkLaw law{seed, std::move(widths), std::move(variances), std::move(skips), orthogonal, bias, loss_of(loss), scale,
                                 tile};
            const api::Array in = input(x, dtype, -1, -1), inputs_gram = input(gram, dtype, in.rows, in.rows);
            const index size = in.rows * loss::factor_rank(law.loss, law.widths.back(), true);
            const api::Array out = output(k, dtype, size, size), values = output(outputs, dtype, in.rows, law.widths.back());
            const Monitor monitor = monitor_of(progress);
            const py::gil_scoped_release release;
            api::sample_network(law, activation, slope, in, inputs_gram, sample, out, values, monitor);
        },
        "x"_a, "gram"_a, "activation"_a, "slope"_a, "widths"_a, "variances"_a, "skips"_a, "orthogonal"_a, "bias"_a, "loss"_a, "scale"_a,
        "seed"_a, "sample"_a, "tile"_a, "k"_a, "outputs"_a, "progress"_a);
}

}  // namespace gnfast::bind
