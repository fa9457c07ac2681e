// 64 bits by which bytes are told from what they were before.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/types.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu {

constexpr index checksum_block = index{1} << 20;  // bytes; they decide the result, the number of threads does not

// One to one in h for a given x and in x for a given h: what differs in one word only never gives the same sum.
inline std::uint64_t checksum_step(std::uint64_t h, std::uint64_t x) {
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 32);
}

// Eight chains of words, since one would wait for each of its multiplications.
inline std::uint64_t checksum_of_block(const unsigned char* bytes, index count) {
    constexpr index chains = 8, word = sizeof(std::uint64_t), stride = chains * word;
    std::array<std::uint64_t, chains> h;
    for (index c = 0; c < chains; ++c) h[c] = static_cast<std::uint64_t>(c);
    std::array<std::uint64_t, chains> x;
    index at = 0;
    for (; at + stride <= count; at += stride) {
        std::memcpy(x.data(), bytes + at, stride);
        for (index c = 0; c < chains; ++c) h[c] = checksum_step(h[c], x[c]);
    }
    if (at < count) {
        x.fill(0);
        std::memcpy(x.data(), bytes + at, static_cast<std::size_t>(count - at));
        for (index c = 0; c < chains; ++c) h[c] = checksum_step(h[c], x[c]);
    }
    std::uint64_t sum = static_cast<std::uint64_t>(count);
    for (const std::uint64_t one : h) sum = checksum_step(sum, one);
    return sum;
}

// Changes within eight bytes (aligned from the first one on) always change it, others but with a probability of about 2^-64.
// One pass over the memory, block by block.
inline std::uint64_t checksum(const unsigned char* bytes, index count) {
    if (count <= checksum_block) return checksum_of_block(bytes, count);
    const index blocks = (count + checksum_block - 1) / checksum_block;
    std::vector<std::uint64_t> parts(static_cast<std::size_t>(blocks));
    parallel_for(blocks, [&](index i) {
        const index first = i * checksum_block;
        parts[i] = checksum_of_block(bytes + first, std::min(checksum_block, count - first));
    });
    std::uint64_t sum = static_cast<std::uint64_t>(count);
    for (const std::uint64_t part : parts) sum = checksum_step(sum, part);
    return sum;
}

}  // namespace gnfast::cpu
