// The scalar formulas of the library, host and device: each is written here and nowhere else.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define GNFAST_HD __host__ __device__
#else
#define GNFAST_HD
#endif
// Small formulas that loops are vectorised over: they must vanish into the instruction set of the function that calls them.
#ifdef __GNUC__
#define GNFAST_ALWAYS_INLINE GNFAST_HD inline __attribute__((always_inline))
#else
#define GNFAST_ALWAYS_INLINE GNFAST_HD inline
#endif

namespace gnfast::pointwise {

// Each activation maps a pre-activation z to its value and derivative. At a kink the derivative
// is PyTorch's: 0 for relu, the slope for leaky_relu.
struct Identity {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        value = z;
        derivative = T(1);
    }
};

struct LeakyRelu {
    double slope;  // 0 is relu
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        derivative = z > T(0) ? T(1) : T(slope);
        value = z * derivative;
    }
};

struct Tanh {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        value = std::tanh(z);
        derivative = T(1) - value * value;
    }
};

struct Sigmoid {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        // exp of a non-positive number only: no overflow at either end.
        const T e = std::exp(-std::abs(z));
        const T tail = e / (T(1) + e);
        value = z >= T(0) ? T(1) / (T(1) + e) : tail;
        derivative = tail / (T(1) + e);
    }
};

// GELU by the normal distribution function, z Phi(z): PyTorch's approximate="none".
struct Gelu {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        const T cdf = T(0.5) * std::erfc(-z * T(0.70710678118654752440));
        const T pdf = T(0.39894228040143267794) * std::exp(T(-0.5) * z * z);
        value = z * cdf;
        derivative = cdf + z * pdf;
    }
};

// GELU by tanh: PyTorch's approximate="tanh".
struct GeluTanh {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        const T c = T(0.79788456080286535588), a = T(0.044715);
        const T t = std::tanh(c * z * (T(1) + a * z * z));
        const T half = T(0.5) * (T(1) + t), slope = c * (T(1) + T(3) * a * z * z);
        value = z * half;
        derivative = half + T(0.5) * z * (T(1) - t * t) * slope;
    }
};

// z sigmoid(z)
struct Silu {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        T sigmoid, slope;
        Sigmoid{}(z, sigmoid, slope);
        value = z * sigmoid;
        derivative = sigmoid + z * slope;
    }
};

// alpha (exp(z) - 1) for z <= 0; at 0 the derivative is alpha, PyTorch's.
struct Elu {
    double alpha;
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        const T below = z > T(0) ? T(0) : z;  // the branch that is not taken must not overflow
        derivative = z > T(0) ? T(1) : T(alpha) * std::exp(below);
        value = z > T(0) ? z : T(alpha) * std::expm1(below);
    }
};

// log(1 + exp(z)); PyTorch's goes over to z at z = 20, which is the same to all digits of float32 but 2e-9 off in float64.
struct Softplus {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        const T e = std::exp(-std::abs(z));
        const bool linear = z > T(20);
        value = linear ? z : (z > T(0) ? z : T(0)) + std::log1p(e);
        derivative = linear ? T(1) : z >= T(0) ? T(1) / (T(1) + e) : e / (T(1) + e);
    }
};

}  // namespace gnfast::pointwise
