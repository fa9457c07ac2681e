// Arrays behind each other in one vector, each with its axes in another order: what layouts of other libraries need.
#pragma once

#include <algorithm>
#include <span>
#include <stdexcept>
#include <vector>

#include "cpu/threads.hpp"

namespace gnfast::cpu {

// An array at `from` in the one vector, of this shape, whose axes in this order are an array at `to` in the other.
struct Permutation {
    index from, to;
    std::vector<index> shape, axes;
};

namespace permuting {

struct Axis {
    index length, in, out;  // strides of both vectors
};

// One array: the axes that are contiguous in either vector (the same one where `fast` is alone), and all others.
struct Plan {
    index from, to;
    Axis rows, columns;  // rows: contiguous in the input; columns: in the output
    std::vector<Axis> others;
    index blocks, tasks;  // of ROWS rows; blocks times what the others have
};

constexpr index ROWS = 64, COLUMNS = 16;  // of a tile: 64 columns' cache lines of float32 stay in L1

inline Plan plan_of(const Permutation& p) {
    const std::size_t n = p.shape.size();
    std::vector<index> in(n, 1);
    for (std::size_t i = n; i-- > 1;) in[i - 1] = in[i] * p.shape[i];
    std::vector<Axis> axes(n);
    index out = 1;
    for (std::size_t i = n; i-- > 0; out *= axes[i].length) {
        const auto axis = static_cast<std::size_t>(p.axes[i]);
        axes[i] = {p.shape[axis], in[axis], out};
    }
    Plan plan{p.from, p.to, {1, 1, 1}, {1, 1, 1}, {}, 1, 1};
    for (const Axis& axis : axes) {
        if (axis.length == 1) continue;
        if (axis.out == 1)
            plan.columns = axis;
        else if (axis.in == 1)
            plan.rows = axis;
        else
            plan.others.push_back(axis);
    }
    plan.blocks = plan.tasks = (plan.rows.length + ROWS - 1) / ROWS;
    for (const Axis& axis : plan.others) plan.tasks *= axis.length;
    return plan;
}

template <class T>
void run(const Plan& plan, index task, const T* in, T* out) {
    const index first = task % plan.blocks * ROWS, last = std::min(first + ROWS, plan.rows.length);
    task /= plan.blocks;
    in += plan.from + first * plan.rows.in;
    out += plan.to + first * plan.rows.out;
    for (const Axis& axis : plan.others) {
        in += task % axis.length * axis.in;
        out += task % axis.length * axis.out;
        task /= axis.length;
    }
    const index count = last - first, columns = plan.columns.length;
    for (index at = 0; at < columns; at += COLUMNS) {
        const index end = std::min(at + COLUMNS, columns);
        for (index a = 0; a < count; ++a)
            for (index b = at; b < end; ++b) out[a * plan.rows.out + b] = in[a * plan.rows.in + b * plan.columns.in];
    }
}

}  // namespace permuting

// Every row of `in`, permuted, is that row of `out`, which does not overlap it. 2 p entries move for each row.
template <class T>
void permute_rows(View<const T> in, View<T> out, std::span<const Permutation> arrays) {
    std::vector<permuting::Plan> plans;
    std::vector<index> ends;  // of each array's tasks within a row
    index tasks = 0;
    for (const Permutation& p : arrays) {
        index size = 1;
        for (const index length : p.shape) size *= length;
        if (p.from < 0 || p.to < 0 || p.from + size > in.cols || p.to + size > out.cols || p.axes.size() != p.shape.size())
            throw std::invalid_argument("a permuted array does not fit its vector");
        plans.push_back(permuting::plan_of(p));
        ends.push_back(tasks += plans.back().tasks);
    }
    parallel_ranges(in.rows * tasks, 16, [&](index first, index count) {
        auto i = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), first % tasks) - ends.begin());
        for (index task = first; task < first + count; ++task) {
            const index row = task / tasks, within = task % tasks;
            if (within == 0) i = 0;
            while (within >= ends[i]) ++i;
            const permuting::Plan& plan = plans[i];
            permuting::run(plan, within - (ends[i] - plan.tasks), in.row(row), out.row(row));
        }
    });
}

}  // namespace gnfast::cpu
