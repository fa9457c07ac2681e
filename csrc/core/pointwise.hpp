// The scalar formulas of the library, host and device: each is written here and nowhere else.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define GNFAST_HD __host__ __device__
#else
#define GNFAST_HD
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

}  // namespace gnfast::pointwise
