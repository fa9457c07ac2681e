// One-pass randomized Nystrom approximation of a positive semi-definite A (Tropp, Yurtsever, Udell & Cevher 2017;
// Frangella, Tropp & Udell 2023): A ~ Y (W Y^T)^+ Y^T for a random block W and its product Y = A W.
#pragma once

#include <algorithm>
#include <limits>

#include "algo/solvers/options.hpp"
#include "algo/solvers/orthonormalize.hpp"

namespace gnfast::solvers {

constexpr const char* indefinite_sketch = "the operator is not positive semi-definite, which method 'nystrom' needs; use method='lanczos'";

// values: eigenvalues of the approximation, the largest first, `block` of them at most: directions that rounding does not
// tell from zero are left out. vectors (block, size) gets their eigenvectors in its first rows. Residuals take a second pass.
//
// W orthonormal, Y = A W + nu W with nu at the level of rounding, W Y^T = V D V^T, F = D^-1/2 V Y, F F^T = U S U^T:
// A ~ F^T F - nu, eigenvalues S - nu, eigenvectors S^-1/2 U F.
template <class B, class T>
Result nystrom(B& backend, const Apply<T>& apply, index size, const Options& options, View<T> vectors) {
    Blocks<B, T> blocks(backend, options.seed);
    const index s = vectors.rows;
    const double eps = apply.resolution;
    auto buffer = backend.template allocate<T>(2 * s * size);
    const View<T> w(buffer.data(), s, size), y(buffer.data() + s * size, s, size);
    blocks.fill_start(options, w);
    blocks.orthonormalize_now(View<const T>(w.row_range(0, 0)), w, 0);
    apply(View<const T>(w), y);
    Result result;
    result.products = s, result.passes = 1;

    std::vector<double> squares, d;
    backend.row_dots(View<const T>(y), View<const T>(y), squares);
    double total = 0;
    for (const double square : squares) total += square;
    if (!std::isfinite(total)) throw nonfinite_error(nonfinite_product);
    const double nu = std::sqrt(double(size)) * eps * std::sqrt(total);
    Small shift = Blocks<B, T>::identity(s);
    blocks.combine(nu, shift, View<const T>(w), 1, y);

    // Eigenvectors of a small symmetric matrix whose values lie above `cut`, scaled by a power of the values, largest first.
    const auto scaled = [&](const Small& g, double cut, std::vector<double>& kept) {
        std::vector<double> a(g.values.size());
        for (index i = 0; i < g.rows; ++i)
            for (index j = 0; j < g.rows; ++j) a[static_cast<std::size_t>(i * g.rows + j)] = (g(i, j) + g(j, i)) / 2;
        backend.small_eigh(a, g.rows, d);
        if (d.front() < -cut) throw not_positive_definite_error(indefinite_sketch);
        kept.clear();
        for (index i = g.rows; i-- > 0;)
            if (d[static_cast<std::size_t>(i)] > cut) kept.push_back(d[static_cast<std::size_t>(i)]);
        Small out(index(kept.size()), g.rows);
        for (index i = 0; i < out.rows; ++i)
            for (index q = 0; q < g.rows; ++q)
                out(i, q) = a[static_cast<std::size_t>((g.rows - 1 - i) * g.rows + q)] / std::sqrt(kept[static_cast<std::size_t>(i)]);
        return out;
    };
    std::vector<double> kept, values;
    // Y's rounding errors in the small matrix: a product has eps |A| a vector, |A| <= |Y|_F / |W|-ish; s of them.
    const Small first = scaled(blocks.inner_now(View<const T>(w), View<const T>(y)), 4 * double(s) * eps * std::sqrt(total), kept);
    const View<T> f = w.row_range(0, first.rows);  // the random block has served
    blocks.combine(1, first, View<const T>(y), 0, f);
    if (first.rows > 0) {
        const Small gram = blocks.inner_now(View<const T>(f), View<const T>(f));
        double largest = 0;
        for (index i = 0; i < gram.rows; ++i) largest += gram(i, i);
        const Small second = scaled(gram, 4 * double(s) * eps * largest, values);
        blocks.combine(1, second, View<const T>(f), 0, vectors.row_range(0, second.rows));
    }
    for (const double value : values) result.values.push_back(std::max(0.0, value - nu));
    result.residuals.assign(result.values.size(), std::numeric_limits<double>::infinity());
    result.norm = result.values.empty() ? 0 : result.values.front();
    result.ended = Ended::one_pass;
    return result;
}

}  // namespace gnfast::solvers
