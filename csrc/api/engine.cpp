#include "api/engine.hpp"

#include <stdexcept>

#include "algo/gram.hpp"
#include "algo/linear_dual.hpp"
#include "algo/rows_gram.hpp"
#include "algo/solvers/in_units.hpp"
#include "api/dispatch.hpp"

namespace gnfast::api {
namespace {

using dispatch::B, dispatch::backend, dispatch::view, dispatch::read, dispatch::by_dtype, dispatch::dtype_of, dispatch::as_function,
    dispatch::activation;

// Specs as layers, `width` being what the one before gives.
template <class T>
struct Reader {
    gnfast::Network<B, T>& network;

    std::vector<Layer<T>> read_all(const std::vector<LayerSpec>& specs, index& width) {
        std::vector<Layer<T>> out;
        for (const LayerSpec& spec : specs)
            out.push_back(std::visit([&](const auto& one) -> Layer<T> { return read_one(one, width); }, spec));
        return out;
    }
    static void chain(index& width, index inputs, index outputs) {
        if (width != inputs) throw std::invalid_argument("layers do not chain");
        width = outputs;
    }

    Layer<T> read_one(const DenseSpec& spec, index& width) {
        chain(width, spec.weight.cols, spec.weight.rows);
        return network.dense(read<T>(spec.weight), static_cast<const T*>(spec.bias), T(spec.skip));
    }
    Layer<T> read_one(const ActivationSpec& spec, index&) { return activation(spec.name, spec.slope); }
    Layer<T> read_one(const ConvolutionSpec& spec, index& width) {
        const auto layer =
            network.placed(layers::Convolution<T>{read<T>(spec.weight), static_cast<const T*>(spec.bias), spec.windows, spec.groups, 0});
        if (spec.weight.cols * spec.groups != spec.windows.patch() || spec.weight.rows % spec.groups != 0)
            throw std::invalid_argument("a convolution's weight does not fit its windows");
        chain(width, layer.inputs(), layer.outputs());
        return layer;
    }
    Layer<T> read_one(const PoolSpec& spec, index& width) {
        const layers::Pool<T> layer{spec.max, spec.windows};
        chain(width, layer.inputs(), layer.outputs());
        return layer;
    }
    Layer<T> read_one(const NormSpec& spec, index& width) {
        const NormShape& shape = spec.shape;
        if (shape.channels * shape.inner * shape.repeats() != shape.width || (shape.group && shape.group != shape.channels))
            throw std::invalid_argument("a normalisation's channels do not fit its samples");
        chain(width, shape.width, shape.width);
        const auto at = [](void* values) { return static_cast<const T*>(values); };
        return network.placed(layers::Norm<T>{shape, at(spec.weight), at(spec.bias), spec.eps, spec.inverse, spec.shift, at(spec.gain), 0});
    }
    Layer<T> read_one(const ScaleSpec& spec, index&) { return layers::Scale{spec.factor}; }
    Layer<T> read_one(const ResidualSpec& spec, index& width) {
        layers::Residual<T> block;
        block.scale = spec.scale;
        index through = width, beside = width;
        block.body = read_all(spec.body, through);
        block.shortcut = read_all(spec.shortcut, beside);
        if (through != beside) throw std::invalid_argument("a residual block's body and shortcut do not fit");
        width = through;
        return block;
    }
};

template <class T>
class NetworkOf final : public Network {
   public:
    NetworkOf(index inputs, const std::vector<LayerSpec>& specs) : network(backend(), inputs) {
        index width = inputs;
        for (Layer<T>& layer : Reader<T>{network}.read_all(specs, width)) network.add(std::move(layer));
        if (network.parameters() == 0) throw std::invalid_argument("a network needs at least one layer with parameters");
    }
    DType dtype() const override { return dtype_of<T>; }
    index inputs() const override { return network.inputs(); }
    index outputs() const override { return network.outputs(); }
    index parameters() const override { return network.parameters(); }
    void forward(Array x, Array out) const override {
        std::vector<gnfast::layers::Kept<T>> none;
        Forward<B, T>(backend(), nullptr, x.rows, {})
            .run(network.layers(), read<T>(x), network.account(), none,
                 [&](index first, View<const double> outputs) { backend().copy(outputs, view<T>(out).row_range(first, outputs.rows)); });
    }
    void linearize(Array x, const std::function<void(const Kept&)>& f) const override {
        const ForwardPass<B, T> pass(network, read<T>(x), {}, [](index, View<const double>) {});
        for (const Link<T>& link : network.links())
            for (std::size_t l = link.place; l < link.end; ++l) {
                const View<const T> kept = pass.kept(l);
                f({l == link.place, kept.rows, kept.cols, kept.data});
            }
    }

    gnfast::Network<B, T> network;
};

template <class J>
class GramOf final : public Gram {
    using T = typename J::Value;

   public:
    GramOf(gnfast::GaussNewton<J>& owner, bool reduced, Part part) : self_(owner, reduced, part) {}
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return self_.size(); }
    index cols() const override { return self_.size(); }
    double resolution() const override { return backend().template resolution<T>(); }
    void apply(Array in, Array out) override { self_.apply(read<T>(in), view<T>(out)); }
    void lift(Array v, Array out) override { self_.lift(read<T>(v), view<T>(out)); }
    void mean_over_outputs(Array out) override { self_.mean_over_outputs(view<T>(out)); }
    void form(Array out, const Monitor& monitor) override { self_.form(view<T>(out), monitor); }
    std::vector<double> diagonal() override { return self_.diagonal(); }
    void restrict_to_dual(Array v, Array out) override { self_.restrict_to_dual(read<T>(v), view<T>(out)); }

   private:
    gnfast::Gram<J> self_;
};

template <class J>
class GaussNewtonOf final : public GaussNewton {
    using T = typename J::Value;

   public:
    GaussNewtonOf(const gnfast::Network<B, T>& network, Array x, Loss loss, Array given, double scale, Method method, double limit)
        : self_(network, read<T>(x), loss, read<T>(given), T(scale), method, limit) {}
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return self_.network().parameters(); }
    index cols() const override { return rows(); }
    void apply(Array in, Array out) override { self_.apply(read<T>(in), view<T>(out)); }
    void jvp(Array v, Array u) override { self_.jvp(read<T>(v), view<T>(u)); }
    void vjp(Array u, Array v) override { self_.vjp(read<T>(u), view<T>(v)); }
    const ProductPlan& plan() const override { return self_.plan(); }
    Method method_for(index vectors) const override { return self_.method_for(vectors); }
    double resolution() const override { return backend().template resolution<T>(); }
    bool couples_samples() const override { return self_.network().couples_samples(); }
    index samples() const override { return self_.samples(); }
    index outputs() const override { return self_.outputs(); }
    void diagonal(Array out) override { self_.diagonal(view<T>(out)); }
    void kronecker_factors(const std::vector<Moments>& all) override {
        std::vector<gnfast::Moments> views;
        for (const Moments& one : all) views.push_back({one.offset, view<double>(one.inputs), view<double>(one.outputs)});
        self_.moments(views);
    }
    std::unique_ptr<Gram> gram(bool reduced, Part part) override { return std::make_unique<GramOf<J>>(self_, reduced, part); }

   private:
    gnfast::GaussNewton<J> self_;
};

template <class T>
class LinearDualOf final : public LinearDual {
   public:
    LinearDualOf(const NetworkOf<T>& net, Array range, bool affine) : self_(net.network, read<T>(range), affine) {}
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return self_.sum().size(); }
    index cols() const override { return self_.sum().size(); }
    double resolution() const override { return backend().template resolution<T>(); }
    void apply(Array in, Array out) override { self_.sum().apply(read<T>(in), view<T>(out)); }
    void lift(Array v, Array out) override { self_.lift(read<T>(v), view<T>(out)); }
    void restrict_to_dual(Array v, Array out) override { self_.restrict_to_dual(read<T>(v), view<T>(out)); }
    void mean_over_outputs(Array out) override { self_.sum().mean_over_outputs(view<T>(out)); }
    void factors(Array p, Array r) const override {
        const gnfast::KroneckerSum<B, T>& sum = self_.sum();
        const index k = sum.outputs(), n = sum.range();
        for (index l = 0; l < sum.terms(); ++l) {
            backend().copy(sum.p(l), view<T>(p).row_range(l * k, k));
            backend().copy(sum.r(l), view<T>(r).row_range(l * n, n));
        }
    }

   private:
    gnfast::LinearDual<B, T> self_;
};

template <class T>
class KroneckerSumOf final : public KroneckerSum {
   public:
    KroneckerSumOf(Array p, Array r) : self_(backend(), p.rows / p.cols, p.cols, r.cols) {
        for (index l = 0; l < self_.terms(); ++l) {
            backend().copy(read<T>(p).row_range(l * p.cols, p.cols), self_.p(l));
            backend().copy(read<T>(r).row_range(l * r.cols, r.cols), self_.r(l));
        }
    }
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return self_.size(); }
    index cols() const override { return self_.size(); }
    double resolution() const override { return backend().template resolution<T>(); }
    void apply(Array in, Array out) override { self_.apply(read<T>(in), view<T>(out)); }
    void mean_over_outputs(Array out) override { self_.mean_over_outputs(view<T>(out)); }

   private:
    gnfast::KroneckerSum<B, T> self_;
};

template <class T>
class StoredOf final : public Operator {
   public:
    explicit StoredOf(Array lower) : lower_(read<T>(lower)) {}
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return lower_.rows; }
    index cols() const override { return lower_.rows; }
    void apply(Array in, Array out) override { backend().symm_lower(lower_, read<T>(in), view<T>(out)); }

   private:
    View<const T> lower_;
};

template <class T>
class CholeskyInverseOf final : public Operator {
   public:
    CholeskyInverseOf(Array lower, index copies, bool interleaved)
        : lower_(read<T>(lower)), copies_(copies), interleaved_(interleaved && copies > 1) {}
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return lower_.rows * copies_; }
    index cols() const override { return rows(); }
    void apply(Array in, Array out) override {
        const index s = in.rows, n = lower_.rows;
        const View<T> flat(static_cast<T*>(out.data), s * copies_, n);
        if (!interleaved_) {
            backend().copy(View<const T>(static_cast<const T*>(in.data), s * copies_, n), flat);
            return backend().cholesky_solve(lower_, flat);
        }
        auto buffer = backend().template allocate<T>(s * n * copies_);
        const View<T> apart(buffer.data(), s * copies_, n);
        const index step = n * copies_;
        backend().transpose(Batch<const T>(View<const T>(static_cast<const T*>(in.data), n, copies_), s, step),
                            Batch<T>(View<T>(buffer.data(), copies_, n), s, step));
        backend().cholesky_solve(lower_, apart);
        backend().transpose(Batch<const T>(View<const T>(buffer.data(), copies_, n), s, step),
                            Batch<T>(View<T>(static_cast<T*>(out.data), n, copies_), s, step));
    }

   private:
    View<const T> lower_;
    index copies_;
    bool interleaved_;
};

class Widened final : public Operator {
   public:
    explicit Widened(Operator& op) : op_(op) {}
    DType dtype() const override { return DType::float64; }
    index rows() const override { return op_.rows(); }
    index cols() const override { return op_.cols(); }
    double resolution() const override { return op_.resolution(); }
    void apply(Array in, Array out) override {
        auto buffer = backend().template allocate<float>(in.rows * in.cols + out.rows * out.cols);
        const View<float> from(buffer.data(), in.rows, in.cols), to(buffer.data() + in.rows * in.cols, out.rows, out.cols);
        backend().copy(read<double>(in), from);
        op_.apply({from.data, from.rows, from.cols}, {to.data, to.rows, to.cols});
        backend().copy(View<const float>(to), view<double>(out));
    }

   private:
    Operator& op_;
};

template <class T>
class InUnitsOf final : public InUnits {
   public:
    explicit InUnitsOf(Operator& op) : op_(op), self_(backend(), as_function<T>(op), op.rows()) {}
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return op_.rows(); }
    index cols() const override { return op_.cols(); }
    double resolution() const override { return op_.resolution(); }
    void apply(Array in, Array out) override { self_(read<T>(in), view<T>(out)); }
    int exponent() const override { return self_.exponent(); }
    void settle(double at_least) override { self_.settle(at_least); }

   private:
    Operator& op_;
    solvers::InUnits<B, T> self_;
};

}  // namespace

std::unique_ptr<Network> make_network(DType dtype, index inputs, const std::vector<LayerSpec>& layers) {
    return by_dtype(dtype, [&]<class T>() -> std::unique_ptr<Network> { return std::make_unique<NetworkOf<T>>(inputs, layers); });
}

std::unique_ptr<GaussNewton> make_gauss_newton(const Network& network, Array x, Loss loss, Array given, double scale, Method method,
                                               double memory_limit) {
    if (given.data && (given.cols != network.outputs() || given.rows % x.rows != 0 || (loss != Loss::blocks && given.rows != x.rows)))
        throw std::invalid_argument("what is given for the loss does not fit the samples and outputs");
    return by_dtype(network.dtype(), [&]<class T>() {
        const gnfast::Network<B, T>& self = dynamic_cast<const NetworkOf<T>&>(network).network;
        return by_jacobian(self, [&]<class J>() -> std::unique_ptr<GaussNewton> {
            return std::make_unique<GaussNewtonOf<J>>(self, x, loss, given, scale, method, memory_limit);
        });
    });
}

std::unique_ptr<Gram> make_gram(GaussNewton& gauss_newton, bool reduced, index first, index last) {
    if (first < 0 || first >= last || last > gauss_newton.cols()) throw std::invalid_argument("no such part of the parameters");
    return gauss_newton.gram(reduced, {first, last});
}

std::unique_ptr<LinearDual> make_linear_dual(const Network& network, Array range, bool affine) {
    return by_dtype(network.dtype(), [&]<class T>() -> std::unique_ptr<LinearDual> {
        return std::make_unique<LinearDualOf<T>>(dynamic_cast<const NetworkOf<T>&>(network), range, affine);
    });
}

std::unique_ptr<KroneckerSum> make_kronecker_sum(DType dtype, Array p, Array r) {
    if (p.rows % p.cols != 0 || r.rows % r.cols != 0 || p.rows / p.cols != r.rows / r.cols)
        throw std::invalid_argument("the factors of a sum of Kronecker products do not fit each other");
    return by_dtype(dtype, [&]<class T>() -> std::unique_ptr<KroneckerSum> { return std::make_unique<KroneckerSumOf<T>>(p, r); });
}

std::unique_ptr<Operator> make_stored(DType dtype, Array lower) {
    return by_dtype(dtype, [&]<class T>() -> std::unique_ptr<Operator> { return std::make_unique<StoredOf<T>>(lower); });
}

std::unique_ptr<Operator> make_cholesky_inverse(DType dtype, Array lower, index copies, bool interleaved) {
    return by_dtype(
        dtype, [&]<class T>() -> std::unique_ptr<Operator> { return std::make_unique<CholeskyInverseOf<T>>(lower, copies, interleaved); });
}

std::unique_ptr<Operator> make_widened(Operator& op) {
    if (op.dtype() != DType::float32) throw std::invalid_argument("only an operator in float32 is widened");
    return std::make_unique<Widened>(op);
}

std::unique_ptr<InUnits> make_in_units(Operator& op) {
    return by_dtype(op.dtype(), [&]<class T>() -> std::unique_ptr<InUnits> { return std::make_unique<InUnitsOf<T>>(op); });
}

void copy(DType dtype, Array from, Array to) {
    by_dtype(dtype, [&]<class T>() { backend().copy(read<T>(from), view<T>(to)); });
}

index cholesky(DType dtype, Array a) {
    return by_dtype(dtype, [&]<class T>() { return backend().cholesky(view<T>(a)); });
}

void fill_normal(DType dtype, Array out, std::uint64_t seed, std::uint64_t stream, double scale) {
    by_dtype(dtype, [&]<class T>() { backend().fill_normal(view<T>(out), seed, stream, scale); });
}

void fill_uniform(DType dtype, Array out, std::uint64_t seed, std::uint64_t stream, double low, double high) {
    by_dtype(dtype, [&]<class T>() { backend().fill_uniform(view<T>(out), seed, stream, low, high); });
}

}  // namespace gnfast::api
