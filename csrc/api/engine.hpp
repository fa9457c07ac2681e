// The facade: the library without templates. Precision and device are dispatched here, once, by make_*.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "algo/blocking.hpp"
#include "core/loss.hpp"
#include "core/monitor.hpp"
#include "core/norm.hpp"
#include "core/types.hpp"
#include "core/windows.hpp"

namespace gnfast::solvers {
struct Inner;
}

namespace gnfast::api {

enum class DType { float32, float64 };

// A contiguous row-major matrix of the caller's; its precision is that of the object it is passed to.
struct Array {
    void* data = nullptr;
    index rows = 0;
    index cols = 0;
};

// A linear map; blocks of s vectors are (s, cols) in and (s, rows) out, one vector a row.
class Operator {
   public:
    virtual ~Operator() = default;
    virtual DType dtype() const = 0;
    virtual index rows() const = 0;
    virtual index cols() const = 0;
    virtual void apply(Array in, Array out) = 0;
    // Relative rounding of a product, which may be made in less precision than that of the vectors.
    virtual double resolution() const { return dtype() == DType::float32 ? 0x1p-23 : 0x1p-52; }
    // What an approximate inverse by products shares with the solver that applies it: algo/solvers/options.hpp.
    virtual solvers::Inner* inner() { return nullptr; }
};

struct LayerSpec;
struct DenseSpec {
    Array weight;
    void* bias;  // nullptr for none
    double skip;
};
struct ActivationSpec {
    std::string name;
    double slope;
};
struct ConvolutionSpec {
    Array weight;  // (out channels, channels / groups * taps)
    void* bias;    // nullptr for none
    Windows windows;
    index groups;
};
struct PoolSpec {
    bool max;
    Windows windows;
};
struct NormSpec {
    NormShape shape;
    void *weight, *bias;  // (channels) or nullptr
    double eps;
    const double *inverse, *shift;  // given statistics as algo/layers/norm.hpp has them, or nullptr
    void* gain;
};
struct ScaleSpec {
    double factor;
};
struct ResidualSpec {
    std::vector<LayerSpec> body, shortcut;
    double scale;
};
struct LayerSpec : std::variant<DenseSpec, ActivationSpec, ConvolutionSpec, PoolSpec, NormSpec, ScaleSpec, ResidualSpec> {
    using std::variant<DenseSpec, ActivationSpec, ConvolutionSpec, PoolSpec, NormSpec, ScaleSpec, ResidualSpec>::variant;
};

class Network {
   public:
    // For each layer of a chain what a product keeps: a dense layer's input, an activation's derivative.
    struct Kept {
        bool dense;
        index rows, cols;
        const void* data;
    };
    virtual ~Network() = default;
    virtual DType dtype() const = 0;
    virtual index inputs() const = 0;
    virtual index outputs() const = 0;
    virtual index parameters() const = 0;
    virtual void forward(Array x, Array out) const = 0;
    // f is called once for each layer, with memory that lives until it returns.
    virtual void linearize(Array x, const std::function<void(const Kept&)>& f) const = 0;
};

class Gram;

class GaussNewton : public Operator {
   public:
    virtual void jvp(Array v, Array u) = 0;
    virtual void vjp(Array u, Array v) = 0;
    virtual const ProductPlan& plan() const = 0;
    virtual Method method_for(index vectors) const = 0;
    virtual bool couples_samples() const = 0;
    virtual void diagonal(Array out) = 0;  // (1, p)
    // See algo/jacobian/moments.hpp; in float64.
    struct Moments {
        index offset;
        Array inputs, outputs;
    };
    virtual void kronecker_factors(const std::vector<Moments>& all) = 0;
    virtual std::unique_ptr<Gram> gram(bool reduced, Part part) = 0;
    virtual index samples() const = 0;
    virtual index outputs() const = 0;
};

// Either dual: a symmetric operator whose vectors can be taken to parameters and back, with its wide-limit preconditioner's block.
class Dual : public Operator {
   public:
    virtual void lift(Array v, Array out) = 0;
    virtual void restrict_to_dual(Array v, Array out) = 0;  // the adjoint of lift
    virtual void mean_over_outputs(Array out) = 0;
};

class Gram : public Dual {
   public:
    virtual void form(Array out, const Monitor& monitor) = 0;
    virtual std::vector<double> diagonal() = 0;
};

class LinearDual : public Dual {
   public:
    virtual void factors(Array p, Array r) const = 0;  // (L k, k) and (L r, r)
};

// sum_l P_l (x) R_l from its factors.
class KroneckerSum : public Operator {
   public:
    virtual void mean_over_outputs(Array out) = 0;
};

// inputs: numbers of a sample.
std::unique_ptr<Network> make_network(DType dtype, index inputs, const std::vector<LayerSpec>& layers);
// The network, x and given must outlive the operator; scale multiplies the sum over samples. given: see algo/output_hessian.hpp.
std::unique_ptr<GaussNewton> make_gauss_newton(const Network& network, Array x, Loss loss, Array given, double scale, Method method,
                                               double memory_limit);
// Of the parameters from `first` up to `last`: all, or those of one layer.
std::unique_ptr<Gram> make_gram(GaussNewton& gauss_newton, bool reduced, index first, index last);
// range (r, inputs [+ 1]): see algo/linear_dual.hpp.
std::unique_ptr<LinearDual> make_linear_dual(const Network& network, Array range, bool affine);
// p (L k, k) and r (L r, r), one factor above another, copied.
std::unique_ptr<KroneckerSum> make_kronecker_sum(DType dtype, Array p, Array r);
// A symmetric matrix given by its lower triangle, borrowed.
std::unique_ptr<Operator> make_stored(DType dtype, Array lower);
// (L L^T)^-1 for a Cholesky factor, borrowed. Vectors are `copies` vectors of the factor's size one after another, or,
// interleaved, one beside another.
std::unique_ptr<Operator> make_cholesky_inverse(DType dtype, Array lower, index copies, bool interleaved);

// Vectors in float64, products by an operator in float32, borrowed.
std::unique_ptr<Operator> make_widened(Operator& op);

// See algo/solvers/in_units.hpp.
class InUnits : public Operator {
   public:
    virtual int exponent() const = 0;
    virtual void settle(double at_least) = 0;
};
std::unique_ptr<InUnits> make_in_units(Operator& op);  // borrowed

// Between two of the module's arrays of one size.
void copy(DType dtype, Array from, Array to);
// Lower triangle of a, in place; 0, or the pivot (from 1) at which a turned out not to be positive definite.
index cholesky(DType dtype, Array a);
void fill_normal(DType dtype, Array out, std::uint64_t seed, std::uint64_t stream, double scale);
void fill_uniform(DType dtype, Array out, std::uint64_t seed, std::uint64_t stream, double low, double high);

}  // namespace gnfast::api
