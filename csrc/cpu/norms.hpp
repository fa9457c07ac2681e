// Normalisation on the threads: statistics, their derivative, and steps by channels. Sums are in double and in an order of their own,
// so that results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/norm.hpp"
#include "cpu/threads.hpp"

namespace gnfast::cpu::norms {

// f(task) for tasks that take about `cost` steps each.
template <class F>
void for_tasks(index tasks, index cost, F&& f) {
    constexpr index least = 16384;  // steps that are worth a thread
    parallel_ranges(tasks, std::max<index>(1, least / std::max<index>(1, cost)), [&](index first, index count) {
        for (index i = first; i < first + count; ++i) f(i);
    });
}

// f(member, first channel, channels) for all members, channels in blocks that read at least a cache line of a sample.
template <class F>
void for_channels(index members, index n, const NormShape& shape, F&& f) {
    const index block = std::max<index>(1, 64 / shape.inner), blocks = ceil_div(shape.channels, block);
    for_tasks(members * blocks, n * shape.repeats() * block * shape.inner, [&](index task) {
        const index first = task % blocks * block;
        f(task / blocks, first, std::min(block, shape.channels - first));
    });
}

template <class T>
double sum(const T* x, index size) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (index q = 0; q < size; ++q) total += double(x[q]);
    return total;
}

template <class T>
double dot(const T* x, const T* y, index size) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (index q = 0; q < size; ++q) total += double(x[q]) * double(y[q]);
    return total;
}

template <class T>
double squares(const T* x, double mean, index size) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (index q = 0; q < size; ++q) total += (double(x[q]) - mean) * (double(x[q]) - mean);
    return total;
}

// normalized = (x - mean) / sqrt(variance + eps), inverse = 1 / sqrt(variance + eps): (1, channels), or (n, groups) where groups are
// within samples.
template <class T>
void normalize(View<const T> x, const NormShape& shape, double eps, View<T> normalized, View<T> inverse) {
    const auto standardize = [](const T* in, double mean, double factor, index size, T* out) {
        for (index q = 0; q < size; ++q) out[q] = norm::standardize(in[q], mean, factor);
    };
    if (shape.group) {
        for_tasks(x.rows * shape.groups(), 4 * shape.group, [&](index task) {
            const index i = task / shape.groups(), at = task % shape.groups();
            const T* in = x.row(i) + at * shape.group;
            const double mean = sum(in, shape.group) / double(shape.group);
            const double factor = norm::inverse_deviation(squares(in, mean, shape.group), double(shape.group), mean, eps);
            standardize(in, mean, factor, shape.group, normalized.row(i) + at * shape.group);
            inverse.row(i)[at] = T(factor);
        });
        return;
    }
    const double size = double(x.rows * shape.inner);
    for_channels(1, x.rows, shape, [&](index, index first, index count) {
        std::vector<double> mean(static_cast<std::size_t>(count)), factor(static_cast<std::size_t>(count));
        const auto for_lines = [&](auto&& f) {
            for (index i = 0; i < x.rows; ++i)
                for (index c = 0; c < count; ++c) f(i, (first + c) * shape.inner, static_cast<std::size_t>(c));
        };
        for_lines([&](index i, index at, std::size_t c) { mean[c] += sum(x.row(i) + at, shape.inner); });
        for (double& value : mean) value /= size;
        for_lines([&](index i, index at, std::size_t c) { factor[c] += squares(x.row(i) + at, mean[c], shape.inner); });
        for (index c = 0; c < count; ++c) {
            double& value = factor[static_cast<std::size_t>(c)];
            value = norm::inverse_deviation(value, size, mean[static_cast<std::size_t>(c)], eps);
            inverse.row(0)[first + c] = T(value);
        }
        for_lines(
            [&](index i, index at, std::size_t c) { standardize(x.row(i) + at, mean[c], factor[c], shape.inner, normalized.row(i) + at); });
    });
}

// The derivative of normalize times the gain (1, channels), if there is one, which comes first or last:
// out_j = beta out_j + gain inverse P in_j with P t = t - mean(t) - normalized mean(normalized t), a projector; last <-> first is the
// adjoint.
template <class T>
void normalize_derivative(View<const T> normalized, View<const T> inverse, const NormShape& shape, View<const T> gain, bool gain_first,
                          Batch<const T> in, T beta, Batch<T> out) {
    const index n = normalized.rows;
    if (shape.group) {
        const index groups = shape.groups(), size = shape.group;  // every group has the same weights: channels = group
        for_tasks(in.count * n * groups, 4 * size, [&](index task) {
            const index j = task / (n * groups), i = task / groups % n, at = task % groups;
            const T *t = in[j].row(i) + at * size, *x = normalized.row(i) + at * size;
            T* to = out[j].row(i) + at * size;
            const T *before = gain_first ? gain.data : nullptr, *after = gain_first ? nullptr : gain.data;
            double mean = 0, slope = 0;
            for (index q = 0; q < size; ++q) {
                const double value = before ? double(before[q]) * double(t[q]) : double(t[q]);
                mean += value;
                slope += value * double(x[q]);
            }
            mean /= double(size), slope /= double(size);
            const double factor = double(inverse.row(i)[at]);
            for (index q = 0; q < size; ++q) {
                const double moved = before ? double(before[q]) * double(t[q]) : double(t[q]);
                const double value = norm::project(moved, mean, x[q], slope);
                norm::assign(to[q], beta, T((after ? double(after[q]) * factor : factor) * value));
            }
        });
        return;
    }
    const double size = double(n * shape.inner);
    for_channels(in.count, n, shape, [&](index j, index first, index count) {
        std::vector<double> mean(static_cast<std::size_t>(count)), slope(static_cast<std::size_t>(count));
        for (index i = 0; i < n; ++i)
            for (index c = 0; c < count; ++c) {
                const index at = (first + c) * shape.inner;
                mean[static_cast<std::size_t>(c)] += sum(in[j].row(i) + at, shape.inner) / size;
                slope[static_cast<std::size_t>(c)] += dot(in[j].row(i) + at, normalized.row(i) + at, shape.inner) / size;
            }
        for (index i = 0; i < n; ++i)
            for (index c = 0; c < count; ++c) {
                const index at = (first + c) * shape.inner;
                const double m = mean[static_cast<std::size_t>(c)], b = slope[static_cast<std::size_t>(c)];
                const double factor = double(inverse.row(0)[first + c]) * (gain.data ? double(gain.data[first + c]) : 1.0);
                const T *t = in[j].row(i) + at, *x = normalized.row(i) + at;
                T* to = out[j].row(i) + at;
                for (index q = 0; q < shape.inner; ++q) norm::assign(to[q], beta, T(factor * norm::project(double(t[q]), m, x[q], b)));
            }
    });
}

// out_j = beta out_j + gain_j x_j + shift_j by channels; x without data counts as 0, a gain without data as 1, a shift without data as 0.
template <class T>
void affine_channels(Batch<const T> x, Batch<const T> gain, Batch<const T> shift, const NormShape& shape, T beta, Batch<T> out) {
    const index n = out.first.rows, lines = shape.width / shape.inner;
    for_tasks(out.count * n, shape.width, [&](index task) {
        const index j = task / n, i = task % n;
        const T* in = x.first.data ? x[j].row(i) : nullptr;
        T* to = out[j].row(i);
        for (index line = 0; line < lines; ++line) {
            const index c = line % shape.channels;
            const T a = gain.first.data ? gain[j].data[c] : T(1), b = shift.first.data ? shift[j].data[c] : T(0);
            for (index q = line * shape.inner; q < (line + 1) * shape.inner; ++q) norm::assign(to[q], beta, in ? a * in[q] + b : b);
        }
    });
}

// out_j (1, channels) = beta out_j + the sums of g_j x over the values of a channel and the samples, or, where out_j has a row for each
// sample, over the values alone; x without data counts as 1.
template <class T>
void sum_channels_of(Batch<const T> g, View<const T> x, const NormShape& shape, T beta, Batch<T> out) {
    const index n = g.first.rows;
    const bool apart = out.first.rows == n;
    const auto add = [&](index j, index i, index first, index count, double* totals) {
        for (index r = 0; r < shape.repeats(); ++r)
            for (index c = 0; c < count; ++c) {
                const index at = (r * shape.channels + first + c) * shape.inner;
                const T* in = g[j].row(i) + at;
                totals[c] += x.data ? dot(in, x.row(i) + at, shape.inner) : sum(in, shape.inner);
            }
    };
    for_channels(g.count * (apart ? n : 1), apart ? 1 : n, shape, [&](index member, index first, index count) {
        std::vector<double> totals(static_cast<std::size_t>(count));
        const index j = apart ? member / n : member, row = apart ? member % n : 0;
        for (index i = row; i < (apart ? row + 1 : n); ++i) add(j, i, first, count, totals.data());
        for (index c = 0; c < count; ++c) norm::assign(out[j].row(row)[first + c], beta, T(totals[static_cast<std::size_t>(c)]));
    });
}

}  // namespace gnfast::cpu::norms
