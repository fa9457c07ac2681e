// Everything that algo/ makes of networks, on an emulated GPU as on the processor.
#include "algo/gram.hpp"
#include "algo/linear_dual.hpp"
#include "algo/rows_gram.hpp"
#include "cuda/precision.hpp"
#include "worlds.hpp"

namespace {

using namespace gnfast;
using test::World;
using Kind = layers::Activation::Kind;

constexpr index samples = 7, inputs = 5, outputs = 3, vectors = 4;

// 5 - 11 - 6 - 3 with biases, two activations that have parameters of their own, and a skip.
template <class W>
Network<typename W::B, typename W::T> chain(W& world) {
    using T = typename W::T;
    Network<typename W::B, T> network(world.backend, inputs);
    network.add(network.dense(world.random(11, inputs, 1, 0.5), world.random(1, 11, 2, 0.1).data, T(0.5)));
    network.add(layers::Activation{Kind::leaky_relu, 0.1});
    network.add(network.dense(world.random(6, 11, 3, 0.5), nullptr, T(0)));
    network.add(layers::Activation{Kind::tanh});
    network.add(network.dense(world.random(outputs, 6, 4, 0.5), world.random(1, outputs, 5, 0.1).data, T(0)));
    return network;
}

template <class W>
Network<typename W::B, typename W::T> linear(W& world) {
    using T = typename W::T;
    Network<typename W::B, T> network(world.backend, inputs);
    network.add(network.dense(world.random(11, inputs, 1, 0.5), world.random(1, 11, 2, 0.1).data, T(0)));
    network.add(network.dense(world.random(6, 11, 3, 0.5), nullptr, T(0)));
    network.add(network.dense(world.random(outputs, 6, 4, 0.5), world.random(1, outputs, 5, 0.1).data, T(0)));
    return network;
}

// Images of 2 x 6 x 5: a grouped convolution with padding, batch normalisation, max pooling of windows that overlap, a residual block with
// layer normalisation and a convolution by one tap, average pooling, a dense layer.
template <class W>
Network<typename W::B, typename W::T> convolutional(W& world, bool batch_norm) {
    using T = typename W::T;
    Network<typename W::B, T> network(world.backend, 60);
    const Windows first{2, {6, 3, 1, 1, 1, 6}, {5, 3, 2, 1, 1, 3}, false};
    network.add(network.placed(layers::Convolution<T>{world.random(4, 9, 11, 0.4), world.random(1, 4, 12, 0.1).data, first, 2, 0}));
    if (batch_norm)
        network.add(network.placed(layers::Norm<T>{
            {4 * 18, 4, 18, 0}, world.random(1, 4, 13).data, world.random(1, 4, 14).data, 1e-3, nullptr, nullptr, nullptr, 0}));
    network.add(layers::Activation{Kind::gelu});
    const Windows pooled{4, {6, 3, 2, 1, 1, 3}, {3, 2, 1, 1, 0, 2}, false};
    network.add(layers::Pool<T>{true, pooled});
    layers::Residual<T> block;
    const Windows point{4, {3, 1, 1, 1, 0, 3}, {2, 1, 1, 1, 0, 2}, false};
    block.body.push_back(network.placed(layers::Norm<T>{
        {4 * 6, 4 * 6, 1, 4 * 6}, world.random(1, 24, 15).data, world.random(1, 24, 16).data, 1e-3, nullptr, nullptr, nullptr, 0}));
    block.body.push_back(network.placed(layers::Convolution<T>{world.random(4, 4, 17, 0.4), nullptr, point, 1, 0}));
    block.body.push_back(layers::Scale{0.7});
    block.scale = 0.9;
    network.add(block);
    network.add(layers::Pool<T>{false, Windows{4, {3, 2, 1, 1, 0, 2}, {2, 2, 1, 1, 0, 1}, false}});
    network.add(network.dense(world.random(outputs, 8, 18, 0.5), world.random(1, outputs, 19, 0.1).data, T(0)));
    return network;
}

template <class W, class N>
void products(W& world, const N& network, index width, Loss loss, Method method, double limit = 0) {
    using T = typename W::T;
    const View<const T> given = loss == Loss::blocks ? world.random(samples * 2, outputs, 21) : View<const T>();
    const index p = network.parameters();
    const View<const T> v = world.random(vectors, p, 22), u = world.random(vectors, samples * outputs, 23);
    const View<T> out = world.room(vectors, p), image = world.room(vectors, samples * outputs), diagonal = world.room(1, p);
    by_jacobian(network, [&]<class J>() {
        GaussNewton<J> product(network, world.random(samples, width, 20), loss, given, T(1) / T(samples), method, limit);
        CHECK(product.method_for(vectors) == method);
        for (int twice = 0; twice < 2; ++twice) product.apply(v, out);  // what is kept between calls serves again
        world.tell(out);
        product.jvp(v, image);
        world.tell(image);
        product.vjp(u, out);
        world.tell(out);
        if (!network.couples_samples()) product.diagonal(diagonal);
        world.tell(diagonal);
    });
}

TEST("cuda_products: chains, by both methods, for every loss, in one block and in many") {
    test::in_both_precisions([](auto& world) {
        const auto network = chain(world);
        for (const Method method : {Method::usual, Method::factored}) {
            for (const Loss loss : {Loss::mse, Loss::cross_entropy, Loss::binary_cross_entropy, Loss::poisson, Loss::blocks})
                products(world, network, inputs, loss, method);
        }
        products(world, network, inputs, Loss::cross_entropy, Method::usual, 370.0 * sizeof(typename std::decay_t<decltype(world)>::T));
    });
}

TEST("cuda_products: networks of all kinds of layers, by both methods") {
    test::in_both_precisions([](auto& world) {
        for (const bool batch_norm : {false, true}) {
            const auto network = convolutional(world, batch_norm);
            products(world, network, 60, Loss::cross_entropy, Method::usual);
            if (!batch_norm) products(world, network, 60, Loss::mse, Method::stored);
        }
    });
}

// Either model's Gram, of all parameters or of some layer's.
template <template <class, class> class J, class W, class N>
void dual(W& world, const N& network, index width, Loss loss, Method method, index last = 0, index first = 0) {
    using T = typename W::T;
    GaussNewton<J<typename W::B, T>> product(network, world.random(samples, width, 20), loss, {}, T(1) / T(samples), method, 0);
    const Part part{first, last > 0 ? last : network.parameters()};
    Gram<J<typename W::B, T>> gram(product, true, part);
    const index size = gram.size(), p = part.last - part.first;
    const View<T> k = world.room(size, size), image = world.room(vectors, size), mean = world.room(samples, samples);
    gram.form(k, Monitor());
    world.tell_lower(k);
    const View<const T> v = world.random(vectors, size, 24), w = world.random(vectors, p, 25);
    gram.apply(v, image);
    world.tell(image);
    world.backend.symm_lower(View<const T>(k), v, image);
    world.tell(image);
    gram.mean_over_outputs(mean);
    world.tell_lower(mean);
    world.tell(gram.diagonal());
    const View<T> lifted = world.room(vectors, p);
    gram.lift(v, lifted);
    world.tell(lifted);
    gram.restrict_to_dual(w, image);
    world.tell(image);
}

TEST("cuda_products: the Gram dual, formed and applied, with shared factors and without") {
    test::in_both_precisions([](auto& world) {
        for (const Loss loss : {Loss::mse, Loss::cross_entropy}) {
            dual<Chain>(world, chain(world), inputs, loss, Method::usual);
            dual<Chain>(world, linear(world), inputs, loss, Method::usual);
            const auto two = chain(world);
            dual<Chain>(world, two, inputs, loss, Method::usual, two.parameters(), two.links()[1].dense->offset);
            dual<Layered>(world, convolutional(world, false), 60, loss, Method::usual);
            dual<Layered>(world, convolutional(world, false), 60, loss, Method::stored);
        }
        dual<Layered>(world, convolutional(world, true), 60, Loss::mse, Method::usual);
    });
}

TEST("cuda_products: the dual of a linear network") {
    test::in_both_precisions([](auto& world) {
        using W = std::decay_t<decltype(world)>;
        using T = typename W::T;
        const auto network = linear(world);
        LinearDual<typename W::B, T> map(network, world.random(4, inputs + 1, 30), true);
        const index size = map.sum().size(), p = network.parameters();
        const View<T> image = world.room(vectors, size), lifted = world.room(vectors, p), mean = world.room(4, 4);
        map.sum().apply(world.random(vectors, size, 31), image);
        world.tell(image);
        map.lift(world.random(vectors, size, 32), lifted);
        world.tell(lifted);
        map.restrict_to_dual(world.random(vectors, p, 33), image);
        world.tell(image);
        map.sum().mean_over_outputs(mean);
        world.tell(mean);
        const auto& factors = map.sum();
        for (index l = 0; l < factors.terms(); ++l) world.tell(View<const T>(factors.p(l))), world.tell(View<const T>(factors.r(l)));
    });
}

TEST("cuda_products: NaN in a vector is an error, as on the processor") {
    test::use_naive_blas();
    cuda::load_cublas("");
    World<cuda::CudaBackend, double> world;
    const auto network = chain(world);
    for (const Method method : {Method::usual, Method::factored}) {
        GaussNewton<Chain<cuda::CudaBackend, double>> product(network, world.random(samples, inputs, 20), Loss::mse, {}, 1.0, method, 0);
        test::Matrix<double> v = test::random<double>(vectors, network.parameters(), 22, 0);
        v(2, 17) = std::numeric_limits<double>::quiet_NaN();
        bool refused = false;
        try {
            product.apply(world.give(v), world.room(vectors, network.parameters()));
        } catch (const nonfinite_error&) {
            refused = true;
        }
        CHECK(refused);
    }
}

// Products of float32 numbers in what was chosen: the errors are as large as the fractions are short, and no larger.
TEST("cuda_products: precision") {
    cuda::load_cublas("");
    World<cuda::CudaBackend, float> world;
    const test::Matrix<float> a = test::random<float>(9, 300, 40, 0), b = test::random<float>(8, 300, 41, 0);
    const View<float> out = world.room(9, 8);
    const auto error = [&] {
        world.backend.gemm(Op::none, Op::transpose, 1.0f, world.give(a), world.give(b), 0.0f, out);
        const test::Matrix<float> found = world.read(out);
        double worst = 0;
        for (index i = 0; i < 9; ++i)
            for (index j = 0; j < 8; ++j) {
                double exact = 0, size = 0;
                for (index q = 0; q < 300; ++q) exact += double(a(i, q)) * b(j, q), size += std::abs(double(a(i, q)) * b(j, q));
                worst = std::max(worst, std::abs(found(i, j) - exact) / size);
            }
        return worst;
    };
    const auto resolution = [&] { return world.backend.resolution<float>(); };
    CHECK(error() < 1e-6 && resolution() == 0x1p-23);
    cuda::set_precision(cuda::Precision::high);
    CHECK(error() > 1e-6 && error() < resolution());
    {
        const auto exact = world.backend.full_precision();
        CHECK(error() < 1e-6 && resolution() == 0x1p-23);
    }
    cuda::set_precision(cuda::Precision::medium);
    CHECK(error() > 1e-5 && error() < resolution());
    CHECK(world.backend.resolution<double>() == 0x1p-52);
    cuda::set_precision(cuda::Precision::highest);
}

}  // namespace
