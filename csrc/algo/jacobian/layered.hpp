// The Jacobian of a network of any layers, and its rows, at blocks of samples: walks through the layers.
#pragma once

#include <algorithm>
#include <mutex>
#include <span>
#include <type_traits>
#include <utility>

#include "algo/jacobian/linearized.hpp"
#include "algo/jacobian/moments.hpp"
#include "algo/jacobian/row_groups.hpp"
#include "algo/walk.hpp"

namespace gnfast {

template <class B, class T>
class Layered {
   public:
    using Backend = B;
    using Value = T;
    using At = Linearized<B, T>;
    using Buffer = typename B::template buffer<T>;

    static ProductPlan plan(const Network<B, T>& network, index n, index r, Method wish, double limit) {
        return blocking::plan_general(network, n, r, wish, limit);
    }
    static bool rows_pay(const ProductPlan& plan, index s) { return blocking::stored_pays(plan, s); }

    explicit Layered(Linearized<B, T>& at) : at_(at), work_(at.backend(), at.plan().patches) {}

    Linearized<B, T>& at() { return at_; }

    // J v at the samples i, ..., i + n - 1, (s, n, outputs), for the rows of v (s, p), p the part's parameters; here until the next call.
    Batch<T> jvp(View<const T> v, index i, index n, Part part) {
        current_ = {};
        current_ = walk(part).push(layers(), at_.pass().kept(i, n), v, n, {});
        return current_.batch;
    }

    // Room for cotangents (s, n, outputs), to be given to vjp.
    Batch<T> cotangents(index s, index n) {
        current_ = {};
        current_ = walk({}).make(s, n, at_.outputs());
        return current_.batch;
    }

    // out = beta out + J^T g, g being what jvp or cotangents returned last.
    void vjp(Batch<T> g, index i, T beta, View<T> out, Part part) {
        walk(part).pull(
            layers(), at_.pass().kept(i, g.first.rows), std::move(current_), false,
            [&](const auto& layer, const layers::Kept<T>& kept, Batch<const T> behind) { layer.gradient(work_, kept, behind, beta, out); });
        current_ = {};
    }

    // out (count r, p): the rows factor_i J_i of the samples i = first, ..., first + count - 1, factor (samples r, outputs), p the part's
    // parameters. r cotangents are pulled back from each sample.
    void rows(View<const T> factor, index r, index first, index count, View<T> out, Part part) {
        at_.pass();
        const auto guard = at_.hold_workspace();
        if (at_.network().couples_samples()) return coupled_rows(factor, r, first * r, out, part);
        pull_factor(factor, r, first, count, part, [&](index i, index c, const auto& layer, const layers::Kept<T>& kept, Batch<const T> g) {
            const Batch<T> target(View<T>(out.row(i * r + c), g.first.rows, out.cols, r * out.stride), g.count, out.stride);
            layer.sample_gradients(work_, kept, g, target);
        });
    }

    // All rows sqrt(scale) R^T J (n r, p), reduced, where products are made with them, else nothing.
    View<const T> stored_rows() {
        if (at_.plan().method != Method::stored) return {};
        const index n = at_.samples(), r = at_.rank(true), p = at_.network().parameters();
        const std::lock_guard guard(lock_);
        if (stored_.size() == 0) {
            Buffer made = at_.backend().template allocate<T>(n * r * p);
            const Buffer start = at_.factor(true);
            rows(View<const T>(start.data(), n * r, at_.outputs()), r, 0, n, View<T>(made.data(), n * r, p), {});
            stored_ = std::move(made);
        }
        return {stored_.data(), n * r, p};
    }

    // out = G v: u = v (R^T J)^T, then u R^T J: 4 n r p flops a vector, however often the network uses a parameter.
    void apply_by_rows(View<const T> v, View<T> out) {
        const View<const T> all = stored_rows();
        Buffer memory = at_.backend().template allocate<T>(v.rows * all.rows);
        const View<T> u(memory.data(), v.rows, all.rows);
        at_.backend().gemm(Op::none, Op::transpose, T(1), v, all, T(0), u);
        at_.check_finite(View<const T>(u));
        at_.backend().gemm(Op::none, Op::none, T(1), View<const T>(u), all, T(0), out);
    }

    // out (1, p): diag G, the squared norms of the columns of R^T J.
    void diagonal(View<T> out) {
        RowGroups<Layered> groups(*this, true, {0, at_.network().parameters()});
        const index r = groups.per_sample();
        auto buffer = at_.backend().template allocate<T>(r * out.cols);
        const View<T> squares(buffer.data(), r, out.cols);
        bool first = true;
        groups.for_groups(groups.group(1), [&](index, index count, View<const T> some) {
            for (index i = 0; i < count; ++i) {
                const View<const T> one = some.row_range(i * r, r);
                at_.backend().fill(squares, T(0));
                at_.backend().add_product(one, one, squares);
                at_.backend().sum_rows(Batch<const T>(View<const T>(squares), 1, 0), first ? T(0) : T(1), Batch<T>(out, 1, 0));
                first = false;
            }
        });
    }

    // Adds the inputs' moments over the samples, and the outputs' over the rows sqrt(scale) R_i^T J pulled back to behind each layer, in
    // blocks, for layers with a weight matrix: no row of the Jacobian is made.
    void add_moments(std::span<const Moments> all) {
        const index r = at_.rank(true), n = at_.samples();
        const Buffer start = at_.factor(true);
        const auto guard = at_.hold_workspace();
        pull_factor(View<const T>(start.data(), n * r, at_.outputs()), r, 0, n, {},
                    [&]<class L>(index, index c, const L& layer, const layers::Kept<T>& kept, Batch<const T> g) {
                        if constexpr (L::has_moments) {
                            const Moments* one = find(all, layer.offset);
                            if (!one) return;
                            if (c == 0) layer.add_input_moment(work_, kept, one->inputs);
                            layer.add_output_moment(work_, g, one->outputs);
                        }
                    });
    }

   private:
    const std::vector<Layer<T>>& layers() const { return at_.network().layers(); }
    Walk<B, T> walk(Part part) { return Walk<B, T>(work_, part); }

    // f(i, c, layer, kept, g) with the cotangents g, at each of the part's layers, of the rows R_i^T from number c on of the samples first
    // + i and on: in blocks of both.
    template <class F>
    void pull_factor(View<const T> factor, index r, index first, index count, Part part, F&& f) {
        const index sample_block = at_.plan().sample_block, vector_block = at_.plan().vector_block, k = at_.outputs();
        for (index i = 0; i < count; i += sample_block)
            for (index c = 0; c < r; c += vector_block) {
                const index n = std::min(sample_block, count - i), s = std::min(vector_block, r - c);
                auto g = walk(part).make(s, n, k);
                for (index q = 0; q < s; ++q)
                    at_.backend().copy(View<const T>(factor.row((first + i) * r + c + q), n, k, r * factor.stride), g.batch[q]);
                walk(part).pull(layers(), at_.pass().kept(first + i, n), std::move(g), false,
                                [&](const auto& layer, const layers::Kept<T>& kept, Batch<const T> at) { f(i, c, layer, kept, at); });
            }
    }

    // Where an output depends on all samples: each row is a product of its own over the whole batch.
    void coupled_rows(View<const T> factor, index r, index first, View<T> out, Part part) {
        for (index at = 0; at < out.rows; at += at_.plan().vector_block) {
            const index s = std::min(at_.plan().vector_block, out.rows - at);
            const Batch<T> g = cotangents(s, at_.samples());
            at_.backend().fill(View<T>(g.first.data, s, g.step), T(0));
            for (index q = 0; q < s; ++q) {
                const index row = first + at + q;
                at_.backend().copy(factor.row_range(row, 1), g[q].row_range(row / r, 1));
            }
            vjp(g, 0, T(0), out.row_range(at, s), part);
        }
    }

    Linearized<B, T>& at_;
    Workspace<B, T> work_;
    typename Walk<B, T>::Tangent current_;
    Buffer stored_;
    std::mutex lock_;
};

}  // namespace gnfast
