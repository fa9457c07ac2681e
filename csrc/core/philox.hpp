// Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A number is a function of (seed, stream, row, column) alone, so that blocks, threads and devices agree.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/types.hpp"

namespace gnfast::philox {

struct Words {
    std::uint32_t w[4];
};

GNFAST_HD inline Words generate(std::uint64_t seed, std::uint64_t stream, std::uint64_t row, std::uint32_t quad) {
    // The counter holds the position; the stream is folded into the key by an odd constant (golden ratio).
    const std::uint64_t key = seed + 0x9E3779B97F4A7C15ull * stream;
    auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
    auto c0 = quad, c1 = static_cast<std::uint32_t>(row), c2 = static_cast<std::uint32_t>(row >> 32);
    auto c3 = static_cast<std::uint32_t>(stream);
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

// Two standard normals from two words (Box & Muller 1958).
GNFAST_HD inline void normal_pair(std::uint32_t a, std::uint32_t b, double& x, double& y) {
    const double radius = std::sqrt(-2.0 * std::log(unit(a)));
    const double angle = 6.283185307179586477 * unit(b);
    x = radius * std::cos(angle);
    y = radius * std::sin(angle);
}

}  // namespace gnfast::philox
