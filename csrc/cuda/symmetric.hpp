// Stored symmetric matrices on a GPU: products, how symmetric one is, Cholesky factorisation.
#pragma once

#include <algorithm>
#include <vector>

#include "core/backend.hpp"
#include "cuda/buffer.hpp"
#include "cuda/calls.hpp"
#include "cuda/kernels.hpp"
#include "cuda/kernels_symmetric.hpp"
#include "cuda/runtime.hpp"

namespace gnfast::cuda::symmetric {

// out = a a^T, both triangles; rows^2 cols flops.
template <class T>
void product(View<const T> a, View<T> out) {
    call::syrk(T(1), a, T(0), out);
    kernels::mirror_lower(current_stream(), out);
}

// Waits.
template <class T>
Asymmetry asymmetry(View<const T> a) {
    constexpr index rows = kernels::asymmetry_rows;
    const Buffer<double> memory(rows * 3);
    kernels::asymmetry(current_stream(), a, memory.data());
    std::vector<double> seen(std::size_t(rows * 3));
    download(memory.data(), 3, seen.data(), 3, rows, 3, sizeof(double));
    Asymmetry all{0, 0, true};
    for (std::size_t i = 0; i < seen.size(); i += 3) {
        all.scale = std::max(all.scale, seen[i]);
        all.difference = std::max(all.difference, seen[i + 1]);
        all.finite = all.finite && seen[i + 2] == 0;
    }
    return all;
}

// Lower triangle by halves, size^3 / 3 flops, nearly all in large products: A11 = L11 L11^T, L21 = A21 L11^-T, A22 -= L21 L21^T, and so on.
// A pivot that fails is only noted: nobody waits for the blocks before the end.
template <class T>
void factor(View<T> a, index before, index* failed) {
    if (a.rows <= kernels::cholesky_width) return kernels::cholesky_block(current_stream(), a, before, failed);
    const index first = ceil_div(a.rows, 2 * kernels::cholesky_width) * kernels::cholesky_width, rest = a.rows - first;
    const View<T> head = a.block(0, first, 0, first), below = a.block(first, rest, 0, first), tail = a.block(first, rest, first, rest);
    factor(head, before, failed);
    call::trsm(Op::transpose, View<const T>(head), below);
    call::syrk(T(-1), View<const T>(below), T(1), tail);
    factor(tail, before + first, failed);
}

// 0, or the failing pivot from 1. Waits once.
template <class T>
index cholesky(View<T> a) {
    if (a.rows == 0) return 0;
    index found = 0;
    const Buffer<index> failed(1);
    upload(&found, 1, failed.data(), 1, 1, 1, sizeof(index));
    factor(a, 0, failed.data());
    download(failed.data(), 1, &found, 1, 1, 1, sizeof(index));
    return found;
}

}  // namespace gnfast::cuda::symmetric
