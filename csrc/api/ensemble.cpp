#include "api/ensemble.hpp"

#include "api/dispatch.hpp"

namespace gnfast::api {

using dispatch::B, dispatch::backend, dispatch::view, dispatch::read;

void sample_network(const NetworkLaw& law, const std::string& activation, double slope, Array x, Array gram, std::uint64_t sample, Array k,
                    Array outputs, const Monitor& monitor) {
    dispatch::activation(activation, slope).with_formula([&]<class F>(F formula) {
        NetworkSample<B, F>(backend(), formula, law, read<double>(x), read<double>(gram), sample, monitor)
            .draw(view<double>(k), view<double>(outputs));
    });
}

}  // namespace gnfast::api
