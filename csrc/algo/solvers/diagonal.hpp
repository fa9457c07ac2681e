// Diagonals by random signs: the plain mean, and XDiag.
#pragma once

#include "algo/solvers/trace.hpp"

namespace gnfast::solvers {

// Mean and sum of squared deviations of the rows of e (s, size), entry by entry; e is overwritten.
template <class B, class T>
void moments_of_rows(B& backend, View<T> e, View<T> mean, View<T> squares) {
    const std::vector<double> share{1.0 / double(e.rows)}, minus{-1.0}, none{0.0};
    backend.sum_rows(Batch<const T>(View<const T>(e), 1, 0), T(0), Batch<T>(mean, 1, 0));
    backend.combine_rows(none, View<const T>(mean), share, mean);
    auto buffer = backend.template allocate<T>((e.rows + 1) * e.cols);
    const View<T> negative(buffer.data(), 1, e.cols), square(buffer.data() + e.cols, e.rows, e.cols);
    backend.combine_rows(minus, View<const T>(mean), none, negative);
    backend.add_row(Batch<T>(e, 1, 0), Batch<const T>(View<const T>(negative), 1, 0));
    backend.fill(square, T(0));
    backend.add_product(View<const T>(e), View<const T>(e), square);
    backend.sum_rows(Batch<const T>(View<const T>(square), 1, 0), T(0), Batch<T>(squares, 1, 0));
}

// The mean of w o A w over random signs w (Bekas, Kokiopoulou & Saad 2007); (1, size) each, see moments_of_rows. Blocks
// are merged as Chan, Golub & LeVeque (1983) do, so that no large sums are subtracted.
template <class B, class T>
index hutchinson_diagonal(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options, View<T> mean, View<T> squares) {
    const index block = std::min(options.block, options.samples);
    auto buffer = backend.template allocate<T>((3 * block + 3) * size);
    const auto part = [&](index first, index rows) { return View<T>(buffer.data() + first * size, rows, size); };
    const View<T> new_mean = part(3 * block, 1), new_squares = part(3 * block + 1, 1), square = part(3 * block + 2, 1);
    const std::vector<double> one{1.0}, minus{-1.0};
    for (index done = 0; done < options.samples;) {
        const index s = std::min(block, options.samples - done);
        const View<T> w = part(0, s), y = part(block, s), e = part(2 * block, s);
        fill_probes(backend, Probe::signs, options.seed, done, w);
        apply(View<const T>(w), y);
        finite_dots<B, T>(backend, w, y);
        backend.fill(e, T(0));
        backend.add_product(View<const T>(w), View<const T>(y), e);
        if (done == 0) {
            moments_of_rows(backend, e, mean, squares);
        } else {
            moments_of_rows(backend, e, new_mean, new_squares);
            const double total = double(done + s);
            backend.combine_rows(minus, View<const T>(mean), one, new_mean);  // the difference of the means
            backend.fill(square, T(0));
            backend.add_product(View<const T>(new_mean), View<const T>(new_mean), square);
            backend.combine_rows(one, View<const T>(new_squares), one, squares);
            backend.combine_rows(std::vector<double>{double(done) * double(s) / total}, View<const T>(square), one, squares);
            backend.combine_rows(std::vector<double>{double(s) / total}, View<const T>(new_mean), one, mean);
        }
        done += s;
        report(options.monitor, "diagonal", double(done), double(options.samples));
    }
    return options.samples;
}

// XDiag (Epperly, Tropp & Webber 2024). With Q, s_i and C as in Sketch and Z = A Q, u_i = Q^T s_i, v_i = Z^T s_i, estimate i is
// diag(Q^T Z) - u_i o v_i + w_i o (I - P_i) A w_i, and (I - P_i) A w_i = (s_i . C_i) u_i since A w_i = Q^T C_i.
// Returns the number of test vectors; two products each.
template <class B, class T>
index xdiag(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options, View<T> mean, View<T> squares) {
    const index m = std::clamp<index>(options.samples / 2, 1, size);
    Sketch<B, T> sketch(backend, apply, size, Probe::signs, options.seed, true);
    sketch.grow(m, options.block);
    report(options.monitor, "diagonal", double(2 * m), double(2 * m));
    const Small s = excluding(sketch.c);
    const View<T> w = sketch.tests();
    std::vector<double> factors;
    for (index i = 0; i < m; ++i) factors.push_back(dot(s, i, sketch.c, i));
    backend.combine_rows(std::vector<double>(factors.size()), View<const T>(w), factors, w);
    sketch.blocks().combine(-1, s, View<const T>(sketch.image()), 1, w);  // w_i <- (s_i . C_i) w_i - v_i
    auto buffer = backend.template allocate<T>((2 * m + 1) * size);
    const View<T> u(buffer.data(), m, size), e(buffer.data() + m * size, m, size), shared(buffer.data() + 2 * m * size, 1, size);
    sketch.blocks().combine(1, s, View<const T>(sketch.basis()), 0, u);
    backend.fill(e, T(0));
    backend.add_product(View<const T>(u), View<const T>(w), e);
    moments_of_rows(backend, e, mean, squares);
    backend.fill(e, T(0));
    backend.add_product(View<const T>(sketch.basis()), View<const T>(sketch.image()), e);
    backend.sum_rows(Batch<const T>(View<const T>(e), 1, 0), T(0), Batch<T>(shared, 1, 0));
    const std::vector<double> one{1.0};
    backend.combine_rows(one, View<const T>(shared), one, mean);
    return m;
}

}  // namespace gnfast::solvers
