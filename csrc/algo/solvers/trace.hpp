// Traces by random probes: Hutchinson, Hutch++ and XTrace, each with an error of its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

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
    return {mean.value(), std::max(mean.error(), 4 * double(std::numeric_limits<T>::epsilon()) * mean.scale()), target, converged};
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
    blocks.orthonormalize(none, q, 4 * double(std::numeric_limits<T>::epsilon()) * std::sqrt(largest));
    apply(View<const T>(q), z);
    double found = 0, scale = 0;
    for (const double value : finite_dots<B, T>(backend, q, z)) found += value, scale += std::abs(value);
    Mean rest;
    const index limit = std::max<index>(1, std::max(options.samples, options.max_products) - 2 * k);
    index target = std::max<index>(1, options.samples - 2 * k);
    // Other probes than those that made Q.
    const auto project = [&](View<T> w) { blocks.project_out(View<const T>(q), w); };
    while (true) {
        add_quadratic_forms(backend, apply, size, options, k + rest.count(), k + target, project, rest);
        if (options.tol <= 0 || meets(found + rest.value(), rest.error(), options.tol) || target >= limit) break;
        target = next_count(target, found + rest.value(), rest.error(), options.tol, limit);
    }
    const double value = found + rest.value();
    const bool converged = options.tol <= 0 || meets(value, rest.error(), options.tol);
    const double rounding = 4 * double(std::numeric_limits<T>::epsilon()) * (scale + rest.scale());
    return {value, std::max(rest.error(), rounding), 2 * k + target, converged};
}

// Test vectors W (m, size) with A W = C Q, Q orthonormal rows, and what leaving one of them out needs: H = Q A Q^T and W Q^T.
template <class B, class T>
class Sketch {
   public:
    // keep_image: A Q stays, which is one more block of vectors.
    Sketch(B& backend, const Apply<T>& apply, index size, Probe kind, std::uint64_t seed, bool keep_image)
        : backend_(backend), apply_(apply), size_(size), kind_(kind), seed_(seed), keep_image_(keep_image), blocks_(backend, seed) {}

    index count() const { return count_; }
    View<T> tests() const { return {tests_.data(), count_, size_}; }
    View<T> basis() const { return {basis_.data(), count_, size_}; }
    View<T> image() const { return {image_.data(), count_, size_}; }  // A Q

    // Adds test vectors until there are m; 2 products each.
    void grow(index m, index block) {
        reserve(m);
        while (count_ < m) add(std::min(block, m - count_));
    }

    Small c, h, w;              // (m, m)
    std::vector<double> forms;  // w^T A w of each test vector
    double scale = 0;           // the largest of |A w|
    Blocks<B, T>& blocks() { return blocks_; }

   private:
    void add(index s) {
        const index old = count_;
        const View<T> test(tests_.data() + old * size_, s, size_), q(basis_.data() + old * size_, s, size_);
        if (!keep_image_ && image_.size() < s * size_) image_ = backend_.template allocate<T>(s * size_);
        const View<T> z(image_.data() + (keep_image_ ? old * size_ : 0), s, size_);
        fill_probes(backend_, kind_, seed_, old, test);
        apply_(View<const T>(test), q);
        for (const double form : finite_dots<B, T>(backend_, test, q)) forms.push_back(form);
        for (const double square : finite_dots<B, T>(backend_, q, q)) scale = std::max(scale, std::sqrt(square));
        const View<const T> known(basis_.data(), old, size_);
        const Small before = blocks_.project_out(known, q);
        const Small within = blocks_.orthonormalize(known, q, 4 * double(std::numeric_limits<T>::epsilon()) * scale);
        apply_(View<const T>(q), z);
        finite_dots<B, T>(backend_, q, z);
        count_ += s;
        const Small images = blocks_.inner(View<const T>(z), View<const T>(basis()));
        resize(c), resize(h), resize(w);
        for (index i = 0; i < s; ++i) {
            for (index j = 0; j < old; ++j) c(old + i, j) = before(i, j);
            for (index j = 0; j < s; ++j) c(old + i, old + j) = within(i, j);
            for (index j = 0; j < old + s; ++j) h(old + i, j) = h(j, old + i) = images(i, j);
        }
        w = blocks_.inner(View<const T>(tests()), View<const T>(basis()));
    }

    void resize(Small& a) const {
        Small larger(count_, count_);
        for (index i = 0; i < a.rows; ++i)
            for (index j = 0; j < a.cols; ++j) larger(i, j) = a(i, j);
        a = larger;
    }

    void reserve(index m) {
        for (auto* buffer : {&tests_, &basis_, &image_}) {
            if (buffer->size() >= m * size_ || (buffer == &image_ && !keep_image_)) continue;
            auto larger = backend_.template allocate<T>(m * size_);
            if (count_ > 0) backend_.copy(View<const T>(buffer->data(), count_, size_), View<T>(larger.data(), count_, size_));
            *buffer = std::move(larger);
        }
    }

    using Buffer = typename B::template buffer<T>;
    B& backend_;
    const Apply<T>& apply_;
    index size_, count_ = 0;
    Probe kind_;
    std::uint64_t seed_;
    bool keep_image_;
    Blocks<B, T> blocks_;
    Buffer tests_, basis_, image_;
};

// XTrace (Epperly, Tropp & Webber 2024). With P_i the projector on what all test vectors but w_i have spanned, P_i = Q^T (I - s_i s_i^T) Q,
// each of tr P_i A P_i + alpha_i mu_i^T A mu_i, mu_i = (I - P_i) w_i, alpha_i = (size - m + 1) / |mu_i|^2, is unbiased; the value is
// their mean and the error their standard error as if they were independent, as the authors have it.
template <class B, class T>
Mean xtrace_samples(const Sketch<B, T>& sketch, index size) {
    const index m = sketch.count();
    const Small s = excluding(sketch.c);
    double whole = 0;
    for (index i = 0; i < m; ++i) whole += sketch.h(i, i);
    Mean mean;
    std::vector<double> x(static_cast<std::size_t>(m)), hx(static_cast<std::size_t>(m));
    for (index i = 0; i < m; ++i) {
        const double along = dot(s, i, sketch.w, i);
        double shs = 0, xhx = 0, cx = 0, xx = 0;
        for (index q = 0; q < m; ++q) x[static_cast<std::size_t>(q)] = sketch.w(i, q) - along * s(i, q);
        for (index q = 0; q < m; ++q) {
            double hs = 0, hxq = 0;
            for (index p = 0; p < m; ++p) hs += sketch.h(q, p) * s(i, p), hxq += sketch.h(q, p) * x[static_cast<std::size_t>(p)];
            const double xq = x[static_cast<std::size_t>(q)];
            shs += s(i, q) * hs, xhx += xq * hxq, cx += sketch.c(i, q) * xq, xx += xq * xq;
        }
        // |mu|^2 = |w|^2 - |P w|^2, which is rounding alone where all of w is in the span.
        const double left = double(size) - xx, floor = 100 * double(std::numeric_limits<T>::epsilon()) * double(size);
        const double form = sketch.forms[static_cast<std::size_t>(i)] - 2 * cx + xhx;
        mean.add(whole - shs + (left > floor ? double(size - m + 1) / left * form : 0));
    }
    return mean;
}

template <class B, class T>
Estimate xtrace(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options) {
    const auto tests = [&](index products) { return std::clamp<index>(products / 2, 1, size); };
    const index limit = tests(std::max(options.samples, options.max_products));
    index target = tests(options.samples);
    Sketch<B, T> sketch(backend, apply, size, Probe::sphere, options.seed, false);
    Mean mean;
    while (true) {
        sketch.grow(target, options.block);
        mean = xtrace_samples(sketch, size);
        report(options.monitor, "trace", double(2 * target), double(2 * target));
        if (options.tol <= 0 || meets(mean.value(), mean.error(), options.tol) || target >= limit) break;
        // The error falls faster than 1 / sqrt(count) where the spectrum decays: twice as many is never far too many.
        target = std::min(limit, 2 * target);
    }
    const bool converged = options.tol <= 0 || meets(mean.value(), mean.error(), options.tol);
    return {mean.value(), std::max(mean.error(), 4 * double(std::numeric_limits<T>::epsilon()) * mean.scale()), 2 * target, converged};
}

}  // namespace gnfast::solvers
