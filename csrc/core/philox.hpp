// Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A number is a function of (seed, stream, row, column) alone, so that blocks, threads and devices agree.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/types.hpp"

namespace gnfast::philox {

struct Words {
    std::uint32_t w[4];
};

GNFAST_ALWAYS_INLINE Words generate(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint32_t quad) {
    // The counter holds the position; the stream is folded into the key by an odd constant (golden ratio).
    const std::uint64_t key = seed + 0x9E3779B97F4A7C15ull * stream;
    auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
    auto c0 = quad, c1 = static_cast<std::uint32_t>(row), c2 = static_cast<std::uint32_t>(row >> 32);
    auto c3 = static_cast<std::uint32_t>(stream);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        const auto n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
        const auto n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c0 = n0;
        c1 = static_cast<std::uint32_t>(p1);
        c2 = n2;
        c3 = static_cast<std::uint32_t>(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// (0, 1): the middle of one of 2^32 equal intervals, never 0 or 1.
GNFAST_HD inline double unit(std::uint32_t word) { return (word + 0.5) * 0x1p-32; }

GNFAST_HD inline double between(double low, double high, std::uint32_t word) { return low + (high - low) * unit(word); }

// Number p of the 128 signs of which words are made.
GNFAST_HD inline bool positive(const Words& words, index p) { return (words.w[p / 32] >> (p % 32)) & 1u; }

// The value of a word and a half, word + 1/2, rounded once.
template <class T>
GNFAST_ALWAYS_INLINE T midpoint(std::uint32_t word) {
    // Two halves: processors convert signed integers of 32 bits only.
    return T(static_cast<std::int32_t>(word >> 16)) * T(65536) + (T(static_cast<std::int32_t>(word & 0xffffu)) + T(0.5));
}

// c[0] + c[1] z + ... by Horner's rule.
template <class T, int count>
GNFAST_ALWAYS_INLINE T polynomial(const T (&c)[count], T z) {
    T sum = c[count - 1];
#pragma GCC unroll 16
    for (int i = count - 2; i >= 0; --i) sum = sum * z + c[i];
    return sum;
}

// Series of Taylor, cut where the next term is below half a unit in the last place of T on the interval that is reduced to.
template <class T>
struct Series;

template <>
struct Series<float> {
    using Bits = std::uint32_t;
    static constexpr int mantissa = 23;
    static constexpr Bits one = 0x3f800000u, root_half = 0x3f3504f3u;
    // log((1 + s) / (1 - s)) = 2 s + s z (2/3 + 2/5 z + ...), z = s^2 <= 0.0295
    static GNFAST_ALWAYS_INLINE float logarithm(float z) {
        constexpr float c[] = {2.f / 3, 2.f / 5, 2.f / 7, 2.f / 9};
        return polynomial(c, z);
    }
    // sin t = t + t z (-1/3! + z/5! - ...), cos t = 1 + z (-1/2! + z/4! - ...), z = t^2 <= (pi/4)^2
    static GNFAST_ALWAYS_INLINE float sine(float z) {
        constexpr float c[] = {-1.f / 6, 1.f / 120, -1.f / 5040, 1.f / 362880};
        return polynomial(c, z);
    }
    static GNFAST_ALWAYS_INLINE float cosine(float z) {
        constexpr float c[] = {-1.f / 2, 1.f / 24, -1.f / 720, 1.f / 40320, -1.f / 3628800};
        return polynomial(c, z);
    }
};

template <>
struct Series<double> {
    using Bits = std::uint64_t;
    static constexpr int mantissa = 52;
    static constexpr Bits one = 0x3ff0000000000000u, root_half = 0x3fe6a09e667f3bcdu;
    static GNFAST_ALWAYS_INLINE double logarithm(double z) {
        constexpr double c[] = {2. / 3, 2. / 5, 2. / 7, 2. / 9, 2. / 11, 2. / 13, 2. / 15, 2. / 17, 2. / 19, 2. / 21};
        return polynomial(c, z);
    }
    static GNFAST_ALWAYS_INLINE double sine(double z) {
        constexpr double c[] = {-1. / 6,        1. / 120,        -1. / 5040,         1. / 362880,
                                -1. / 39916800, 1. / 6227020800, -1. / 1307674368e3, 1. / 355687428096e3};
        return polynomial(c, z);
    }
    static GNFAST_ALWAYS_INLINE double cosine(double z) {
        constexpr double c[] = {-1. / 2,       1. / 24,        -1. / 720,         1. / 40320,
                                -1. / 3628800, 1. / 479001600, -1. / 87178291200, 1. / 20922789888e3};
        return polynomial(c, z);
    }
};

template <class T>
GNFAST_ALWAYS_INLINE typename Series<T>::Bits to_bits(T x) {
    typename Series<T>::Bits bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

template <class T>
GNFAST_ALWAYS_INLINE T from_bits(typename Series<T>::Bits bits) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// bit ? a : b and bit ? -a : a for a bit of 0 or 1, in a way that no compiler makes a branch of.
template <class T>
GNFAST_ALWAYS_INLINE T choose(std::uint32_t bit, T a, T b) {
    using Bits = typename Series<T>::Bits;
    const Bits mask = Bits(0) - Bits(bit);
    return from_bits<T>((to_bits(a) & mask) | (to_bits(b) & ~mask));
}
template <class T>
GNFAST_ALWAYS_INLINE T negate_if(std::uint32_t bit, T a) {
    using Bits = typename Series<T>::Bits;
    return from_bits<T>(to_bits(a) ^ (Bits(bit) << (8 * sizeof(T) - 1)));
}

// log u, u = (a + 1/2) / 2^32: u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)). Above sqrt(1/2), f = u - 1 comes from the word's
// complement, so that the digits of numbers next to 1 are not lost.
template <class T>
GNFAST_ALWAYS_INLINE T log_unit(std::uint32_t a) {
    using S = Series<T>;
    using Bits = typename S::Bits;
    constexpr Bits fraction = (Bits(1) << S::mantissa) - 1;
    const T whole = midpoint<T>(a), missing = midpoint<T>(~a);
    const Bits bits = to_bits(whole) + (S::one - S::root_half);
    const T exponent = T(static_cast<std::int32_t>(bits >> S::mantissa) - static_cast<std::int32_t>(S::one >> S::mantissa) - 32);
    const std::uint32_t near_one = (a & ~(a - 0xb504f334u)) >> 31;  // a >= sqrt(1/2) 2^32
    const T f = choose(near_one, missing * T(-0x1p-32), from_bits<T>((bits & fraction) + S::root_half) - T(1));
    const T s = f / (T(2) + f), z = s * s;
    return choose(near_one, T(0), exponent * T(0.693147180559945309417)) + (T(2) * s + s * (z * S::logarithm(z)));
}

// Two standard normals from two words (Box & Muller 1958), in the arithmetic of T, without a branch or a library's function: a loop
// over words becomes vector instructions, and the numbers are the same on every device up to the last digits (a multiply-add rounds
// once where a processor has it, twice where not). Against the exact values of the words: within 4 units in the last place of the radius.
template <class T>
GNFAST_ALWAYS_INLINE void normal_pair(std::uint32_t a, std::uint32_t b, T& x, T& y) {
    using S = Series<T>;
    const T radius = std::sqrt(T(-2) * log_unit<T>(a));
    // The angle is q quarter turns, to the nearest, and (2 r + 1) 2^-33 turns, exactly.
    const std::uint32_t q = (b + 0x20000000u) >> 30;
    const T t = T(static_cast<std::int32_t>(2 * (b - (q << 30)) + 1)) * T(0x1p-32 * 3.14159265358979323846);
    const T z = t * t, sine = t + t * (z * S::sine(z)), cosine = T(1) + z * S::cosine(z);
    x = radius * negate_if((q + 1) >> 1 & 1u, choose(q & 1u, sine, cosine));
    y = radius * negate_if(q >> 1 & 1u, choose(q & 1u, cosine, sine));
}

// Entry (row, column) of the random matrix that (seed, stream) names.
template <class T>
GNFAST_HD inline T normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint64_t column) {
    const Words words = generate(seed, stream, row, static_cast<std::uint32_t>(column / 4));
    const int first = column % 4 < 2 ? 0 : 2;
    T x, y;
    normal_pair(words.w[first], words.w[first + 1], x, y);
    return column % 2 == 0 ? x : y;
}

}  // namespace gnfast::philox
