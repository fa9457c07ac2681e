// The scalar formulas of the library, host and device: each is written here and nowhere else.
//
// Values and derivatives of activations have a few ulp of relative error as far as they are normal numbers (but for the neighbourhoods of
// their zeros inside), and limits at infinite arguments. So a tail is never a difference of numbers near 1, exp takes arguments that are
// exact to more digits than the type has, and factors that would fall below the normal numbers before their product does are square roots.
#pragma once

#include <cmath>

#include "core/host_device.hpp"

namespace gnfast::pointwise {

// A constant to twice the digits of T: the nearest number, and what is missing.
template <class T>
struct Constant {
    T nearest, missing;
    GNFAST_HD constexpr Constant(double first, double second)
        : nearest(T(first)), missing(T((first - static_cast<double>(T(first))) + second)) {}
};

// high + low of twice the digits of T.
template <class T>
struct Twofold {
    T high, low;
    GNFAST_HD static Twofold product(T a, T b) { return {a * b, std::fma(a, b, -(a * b))}; }
    GNFAST_HD static Twofold product(Twofold a, T b) {
        const Twofold p = product(a.high, b);
        return {p.high, p.low + a.low * b};
    }
    GNFAST_HD static Twofold product(Constant<T> c, Twofold a) {
        const Twofold p = product(c.nearest, a.high);
        return {p.high, p.low + (c.nearest * a.low + c.missing * a.high)};
    }
};

// From -limit to limit; NaN stays.
template <class T>
GNFAST_HD T clamped(T z, T limit) {
    return z > limit ? limit : z < -limit ? -limit : z;
}

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
        value = z > T(0) ? z : slope == 0 && z <= T(0) ? T(0) : z * T(slope);
    }
};

struct Tanh {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        if (std::abs(z) < T(0.5)) {
            value = std::tanh(z);
            derivative = T(1) - value * value;
            return;
        }
        const T u = std::exp(-std::abs(z)), e = u * u, sech = T(2) * u / (T(1) + e);
        value = std::copysign((T(1) - e) / (T(1) + e), z);
        derivative = sech * sech;
    }
};

// sigmoid(|z|) and the roots of what the two ends have: sigmoid(-|z|) = tail^2, and sigmoid(z) sigmoid(-z) = slope^2.
template <class T>
struct LogisticRoots {
    T head, tail, slope;
    // root: exp(-|z| / 2)
    GNFAST_HD explicit LogisticRoots(T root) : head(T(1) / (T(1) + root * root)), tail(root * std::sqrt(head)), slope(root * head) {}
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

// The root of the sigmoid's derivative, which underflows at twice the z.
template <class T>
GNFAST_HD T sigmoid_root(T z) {
    const T e = std::exp(-std::abs(z) / T(2));
    return e / (T(1) + e * e);
}

// GELU by the normal distribution function, z Phi(z): PyTorch's approximate="none".
struct Gelu {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        const T x = clamped(z, T(40));  // Phi(-40) is 0 in double
        // erfc(y + dy) = erfc(y) (1 - dy 2/sqrt(pi) exp(-y^2) / erfc(y)), the last factor between y + sqrt(y^2 + 4/pi) and y + sqrt(y^2 +
        // 2)
        const auto y = Twofold<T>::product(Constant<T>(0.7071067811865476, -4.833646656726457e-17), {-x, T(0)});
        const T missing = y.high > T(0) ? y.low * (y.high + std::sqrt(y.high * y.high + T(1.6))) : T(0);
        const T cdf = T(0.5) * std::erfc(y.high) * (T(1) - missing);
        // exp(-x^2 / 2) as a square: 1 - square.low / 2 is exp of what x^2 misses
        const auto square = Twofold<T>::product(x, x);
        const T root = std::exp(T(-0.25) * square.high);
        const T scale = T(0.39894228040143267794) * (T(1) - T(0.5) * square.low);
        value = z < T(0) ? x * cdf : z * cdf;
        derivative = cdf + x * scale * root * root;
    }
};

// GELU by tanh, z sigmoid(2 u) with u = sqrt(2/pi) (z + 0.044715 z^3): PyTorch's approximate="tanh".
struct GeluTanh {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        const T x = clamped(z, T(40)), size = std::abs(x);  // exp(-2 u(40)) is 0 in double
        const Constant<T> first(1.5957691216057308, -9.96930880911092e-17), third(0.07135481627260025, -6.175149918155315e-19);
        const auto a = Twofold<T>::product(first, {size, T(0)});
        const auto b = Twofold<T>::product(third, Twofold<T>::product(Twofold<T>::product(size, size), size));
        // The two terms of -2 u / 2 in exp by themselves: their sum would be rounded.
        const LogisticRoots<T> at(std::exp(T(-0.5) * a.high) * std::exp(T(-0.5) * b.high) * (T(1) - T(0.5) * (a.low + b.low)));
        const T slope = first.nearest + T(3) * third.nearest * x * x;
        value = z < T(0) ? x * at.tail * at.tail : z * at.head;
        derivative = (x < T(0) ? at.tail * at.tail : at.head) + x * slope * at.slope * at.slope;
    }
};

// z sigmoid(z)
struct Silu {
    template <class T>
    GNFAST_HD void operator()(T z, T& value, T& derivative) const {
        const T x = clamped(z, T(1600));  // exp(-800) is 0 in double
        const LogisticRoots<T> at(std::exp(T(-0.5) * std::abs(x)));
        value = z < T(0) ? x * at.tail * at.tail : z * at.head;
        derivative = (x < T(0) ? at.tail * at.tail : at.head) + x * at.slope * at.slope;
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
