// Traces by random probes: Hutchinson and Hutch++, each with an error of its own.
#pragma once

#include <algorithm>
#include <cmath>

#include "algo/solvers/probes.hpp"
#include "algo/solvers/small.hpp"

namespace gnfast::solvers {

// Adds w^T A w of the probes [first, last) to `mean`; before(w) may change a block of them beforehand.
template <class B, class T, class F>
void add_quadratic_forms(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options, index first, index last,
                         F&& before, Mean& mean) {
    const index block = std::min(options.block, last - first);
    auto buffer = backend.template allocate<T>(2 * block * size);
    for (index i = first; i < last; i += block) {
        const index s = std::min(block, last - i);
        const View<T> w(buffer.data(), s, size), y(buffer.data() + block * size, s, size);
        fill_probes(backend, Probe::signs, options.seed, i, w);
        before(w);
        apply(View<const T>(w), y);
        for (const double value : finite_dots<B, T>(backend, w, y)) mean.add(value);
        report(options.monitor, "trace", double(i + s), double(last));
    }
}

// Mean of w^T A w over random signs w (Hutchinson 1990); variance 2 (|A|_F^2 - |diag A|^2) a sample.
template <class B, class T>
Estimate hutchinson(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options) {
    Mean mean;
    const index limit = std::max(options.samples, options.max_products);
    index target = options.samples;
    while (true) {
        add_quadratic_forms(backend, apply, size, options, mean.count(), target, [](View<T>) {}, mean);
        if (options.tol <= 0 || meets(mean.value(), mean.error(), options.tol) || target >= limit) break;
        target = next_count(target, mean.value(), mean.error(), options.tol, limit);
    }
    const bool converged = options.tol <= 0 || meets(mean.value(), mean.error(), options.tol);
    return {mean.value(), std::max(mean.error(), 4 * apply.resolution * mean.scale()), target, converged};
}

// Hutch++ (Meyer, Musco, Musco & Woodruff 2021): Q spans A S for a third of the vectors;
// tr A = tr Q A Q^T + tr (I - Q^T Q) A (I - Q^T Q), the first exactly and the second by Hutchinson, whose standard error is the error.
template <class B, class T>
Estimate hutch_plus_plus(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options) {
    Blocks<B, T> blocks(backend, options.seed);
    const index k = std::clamp<index>(options.samples / 3, 1, size);
    auto buffer = backend.template allocate<T>(2 * k * size);
    const View<T> q(buffer.data(), k, size), z(buffer.data() + k * size, k, size);
    fill_probes(backend, Probe::signs, options.seed, 0, z);
    apply(View<const T>(z), q);
    const View<const T> none(buffer.data(), 0, size);
    double largest = 0;
    for (const double square : finite_dots<B, T>(backend, q, q)) largest = std::max(largest, square);
    blocks.orthonormalize_now(none, q, 4 * apply.resolution * std::sqrt(largest));
    apply(View<const T>(q), z);
    double found = 0, scale = 0;
    for (const double value : finite_dots<B, T>(backend, q, z)) found += value, scale += std::abs(value);
    Mean rest;
    const index limit = std::max<index>(1, std::max(options.samples, options.max_products) - 2 * k);
    index target = std::max<index>(1, options.samples - 2 * k);
    // Other probes than those that made Q.
    const auto project = [&](View<T> w) {
        blocks.board().clear();
        blocks.project_out(View<const T>(q), w);
    };
    while (true) {
        add_quadratic_forms(backend, apply, size, options, k + rest.count(), k + target, project, rest);
        if (options.tol <= 0 || meets(found + rest.value(), rest.error(), options.tol) || target >= limit) break;
        target = next_count(target, found + rest.value(), rest.error(), options.tol, limit);
    }
    const double value = found + rest.value();
    const bool converged = options.tol <= 0 || meets(value, rest.error(), options.tol);
    const double rounding = 4 * apply.resolution * (scale + rest.scale());
    return {value, std::max(rest.error(), rounding), 2 * k + target, converged};
}

}  // namespace gnfast::solvers
