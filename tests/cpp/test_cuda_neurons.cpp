// Networks without weights, drawn on an emulated GPU as on the processor.
#include "algo/ensemble.hpp"
#include "worlds.hpp"

namespace {

using namespace gnfast;

// The draws agree but for their last digits in float32.
template <class F>
void compare(F formula, const NetworkLaw& law) {
    const index n = 5, k = law.widths.back(), size = n * loss::factor_rank(law.loss, k, true);
    const test::Matrix<double> x = test::random<double>(n, 3, 70, 0);
    test::Matrix<double> inputs(n, n, 0);
    for (index i = 0; i < n; ++i)
        for (index j = 0; j < n; ++j) inputs(i, j) = x(i, 0) * x(j, 0) + x(i, 1) * x(j, 1) + x(i, 2) * x(j, 2);
    test::on_both<double>(1e-5, [&](auto& world) {
        using B = typename std::decay_t<decltype(world)>::B;
        const Monitor monitor;
        test::Matrix<double> gram(size, size, 0), outputs(n, k, 0);
        NetworkSample<B, F>(world.backend, formula, law, x.read(), inputs.read(), 3, monitor).draw(gram.view(), outputs.view());
        world.tell(gram.values);
        world.tell(outputs.values);
    });
}

TEST("cuda_neurons: the Gram dual of networks without weights is the processor's, tiles, skips, biases and losses included") {
    const std::vector<double> variances{0.4, 0.1, 0.2}, none{0, 0, 0}, skips{0.5, 0.7, 0.3};
    for (const index tile : {index(0), index(12)}) {
        compare(pointwise::LeakyRelu{0.1}, {7, {37, 11, 2}, variances, none, false, false, Loss::mse, 0.2, tile});
        compare(pointwise::Tanh{}, {7, {6, 45, 3}, variances, skips, false, true, Loss::cross_entropy, 0.2, tile});
        compare(pointwise::Gelu{}, {8, {9, 1, 1}, variances, skips, true, false, Loss::mse, 1.0, tile});
    }
}

}  // namespace
