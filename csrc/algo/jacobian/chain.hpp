// The Jacobian of a chain of dense layers and activations: two tangents in turn, and rows before each dense layer in place of its own.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "algo/jacobian/linearized.hpp"
#include "algo/jacobian/moments.hpp"

namespace gnfast {

template <class B, class T>
class Chain {
   public:
    using Backend = B;
    using Value = T;
    using At = Linearized<B, T>;
    using Buffer = typename B::template buffer<T>;

    static ProductPlan plan(const Network<B, T>& network, index n, index r, Method wish, double limit) {
        return blocking::plan_product(network, n, r, wish, limit);
    }
    static bool rows_pay(const ProductPlan& plan, index s) { return blocking::factored_pays(plan, s); }

    explicit Chain(Linearized<B, T>& at) : at_(at), links_(at.network().links()), width_(at.network().max_width()), work_(at.backend()) {}

    Linearized<B, T>& at() { return at_; }
    const std::vector<Link<T>>& links() const { return links_; }

    // J v at the samples i, ..., i + n - 1, (s, n, outputs), for the rows of v (s, p), p the part's parameters; here until the next call.
    // T_l = T_{l-1} W_l^T + A_{l-1} dW_l^T, then T_l *= D_l.
    Batch<T> jvp(View<const T> v, index i, index n, Part part) {
        const index s = v.rows;
        reserve(s, n);
        std::size_t now = 1;
        Batch<T> t = tangent(now, s, n, 0);
        bool moved = false;  // before the part's first dense layer the input does not move
        for (const Link<T>& link : links_) {
            const bool own = part.holds(link.dense->offset);
            if (!own && !moved) continue;
            now = 1 - now;
            const Batch<T> next = tangent(now, s, n, link.dense->outputs());
            if (own) part.within(*link.dense).direction(work_, at_.pass().kept(link.place, i, n), v, next);
            if (moved) link.dense->push(work_, {}, Batch<const T>(t), next, own ? T(1) : T(0));
            t = next;
            moved = true;
            for (std::size_t l = link.place + 1; l < link.end; ++l) backend().multiply_rows(t, at_.pass().kept(l).row_range(i, n));
        }
        return t;
    }

    // Room for cotangents (s, n, outputs), to be given to vjp.
    Batch<T> cotangents(index s, index n) {
        reserve(s, n);
        return tangent(0, s, n, at_.outputs());
    }

    // out = beta out + J^T g, g being what jvp or cotangents returned last.
    // dW_l += g_l^T A_{l-1}, g_{l-1} = (g_l W_l) * D_{l-1}; g lies in one of the two tangents.
    void vjp(Batch<T> g, index i, T beta, View<T> out, Part part) {
        const index s = out.rows, n = g.first.rows;
        std::size_t now = g.first.data == tangents_[0].data() ? 0 : 1, first = 0;
        while (!part.holds(links_[first].dense->offset)) ++first;
        for (std::size_t q = links_.size(); q-- > first;) {
            const Link<T>& link = links_[q];
            for (std::size_t l = link.end; --l > link.place;) backend().multiply_rows(g, at_.pass().kept(l).row_range(i, n));
            if (part.holds(link.dense->offset))
                part.within(*link.dense).gradient(work_, at_.pass().kept(link.place, i, n), Batch<const T>(g), beta, out);
            if (q == first) return;
            now = 1 - now;
            const Batch<T> below = tangent(now, s, n, link.dense->inputs());
            link.dense->pull(work_, {}, Batch<const T>(g), below);
            g = below;
        }
    }

    // Rows sqrt(scale) R^T J before each dense layer. The reduced ones are kept: products and the Gram share them.
    std::shared_ptr<const BackwardRows<B, T>> rows(bool reduced) {
        const index r = at_.rank(reduced);
        const bool same = r == at_.rank(true);
        const std::lock_guard guard(lock_);
        if (same && rows_) return rows_;
        auto made = std::make_shared<const BackwardRows<B, T>>(at_.pass(), at_.factor(reduced), r);
        if (same) rows_ = made;
        return made;
    }

    // out = G v. With the rows B_l kept no product with a weight is left: u = sum_l B_l . (A_{l-1} dW_l^T), then
    // dW_l = (sum_c u_c B_{l,c})^T A_{l-1}. 4 n p + 4 n r sum(m_l) flops a vector.
    void apply_by_rows(View<const T> v, View<T> out) {
        const auto backward = rows(true);
        const index r = backward->per_sample();
        if (at_.plan().packed) return apply_packed(*backward, v, out);
        at_.for_blocks(v.rows, [&](index j, index s, index i, index n) {
            reserve(s, n);
            if (projections_.size() < s * n * r) projections_ = backend().template allocate<T>(s * n * r);
            const View<T> flat(projections_.data(), s, n * r);
            const Batch<T> u(View<T>(projections_.data(), n, r), s, n * r);
            backend().fill(flat, T(0));
            for (std::size_t q = 0; q < links_.size(); ++q) {
                const Batch<T> t = padded_tangent(s, n, links_[q].dense->outputs());
                links_[q].dense->direction(work_, at_.pass().kept(links_[q].place, i, n), v.row_range(j, s), t);
                backend().contract_out(backward->rows(q).row_range(i * r, n * r), r, Batch<const T>(t), u);
            }
            at_.check_finite(View<const T>(flat));
            for (std::size_t q = 0; q < links_.size(); ++q) {
                const Batch<T> t = padded_tangent(s, n, links_[q].dense->outputs());
                backend().contract_in(backward->rows(q).row_range(i * r, n * r), r, Batch<const T>(u), t);
                links_[q].dense->gradient(work_, at_.pass().kept(links_[q].place, i, n), Batch<const T>(t), i == 0 ? T(0) : T(1),
                                          out.row_range(j, s));
            }
        });
    }

    // out (1, p). diag G at weight (o, i) is sum over samples and outputs of (b_ic,o a_i,i)^2, so that a layer's share is one product
    // (sum_c B_c o B_c)^T (A o A), 2 n fan_in fan_out flops, whatever the number of outputs; a bias has a = 1.
    void diagonal(View<T> out) {
        const auto backward = rows(true);
        const index r = backward->per_sample(), n = at_.samples();
        constexpr index samples = 512;  // the squares of so many at a time
        for (std::size_t q = 0; q < links_.size(); ++q) {
            const layers::Dense<T>& dense = *links_[q].dense;
            const index m = dense.outputs(), d = dense.inputs(), most = std::min(n, samples);
            auto buffer = backend().template allocate<T>(most * (m + d));
            const View<T> weight(out.data + dense.offset, m, d), bias(out.data + dense.offset + m * d, 1, m);
            for (index i = 0; i < n; i += most) {
                const index count = std::min(most, n - i);
                const View<T> outer(buffer.data(), count, m), inner(buffer.data() + most * m, count, d);
                const View<const T> a = at_.pass().kept(links_[q].place).row_range(i, count),
                                    b = backward->rows(q).row_range(i * r, count * r);
                backend().fill(outer, T(0)), backend().fill(inner, T(0));
                for (index c = 0; c < r; ++c) {
                    const View<const T> one(b.row(c), count, m, r * b.stride);
                    backend().add_product(one, one, outer);
                }
                backend().add_product(a, a, inner);
                const T beta = i == 0 ? T(0) : T(1);
                backend().gemm(Op::transpose, Op::none, T(1), View<const T>(outer), View<const T>(inner), beta, weight);
                if (dense.bias) backend().sum_rows(Batch<const T>(View<const T>(outer), 1, 0), beta, Batch<T>(bias, 1, 0));
            }
        }
    }

    // Adds the inputs' moments over the samples, and the outputs' over the rows sqrt(scale) R_i^T J: no row of the Jacobian is made.
    // 2 n fan_in^2 + 2 n r fan_out^2 flops a layer, after the pass backward.
    void add_moments(std::span<const Moments> all) {
        const auto backward = rows(true);
        for (std::size_t q = 0; q < links_.size(); ++q)
            if (const Moments* one = find(all, links_[q].dense->offset)) {
                links_[q].dense->add_input_moment(work_, at_.pass().kept(links_[q].place, 0, at_.samples()), one->inputs);
                links_[q].dense->add_output_moment(work_, Batch<const T>(backward->rows(q), 1, 0), one->outputs);
            }
    }

   private:
    B& backend() const { return at_.backend(); }

    // Two tangents, used in turn, kept between calls.
    void reserve(index s, index n) {
        const index size = s * (n * width_ + padding);
        for (Buffer& buffer : tangents_)
            if (buffer.size() < size) buffer = backend().template allocate<T>(size);
    }
    Batch<T> tangent(std::size_t which, index s, index n, index width) {
        return {View<T>(tangents_[which].data(), n, width), s, n * width};
    }
    // The contractions read several vectors side by side: a step that is a power of two would put them all in one set of the cache.
    Batch<T> padded_tangent(index s, index n, index width) { return {View<T>(tangents_[0].data(), n, width), s, n * width + padding}; }

    void apply_packed(const BackwardRows<B, T>& backward, View<const T> v, View<T> out) {
        const auto guard = at_.hold_workspace();
        if (!packed_) {
            std::vector<FactoredTerm<T>> terms;
            for (std::size_t q = 0; q < links_.size(); ++q)
                terms.push_back(
                    {at_.pass().kept(links_[q].place), backward.rows(q), links_[q].dense->offset, links_[q].dense->bias != nullptr});
            packed_ = typename B::template factored<T>(std::span<const FactoredTerm<T>>(terms), backward.per_sample());
        }
        const index block = at_.plan().vector_block;
        for (index j = 0; j < v.rows; j += block) {
            const index s = std::min(block, v.rows - j);
            if (!packed_.product(v.row_range(j, s), out.row_range(j, s))) throw nonfinite_error(at_.not_finite);
        }
    }

    static constexpr index padding = 64 / sizeof(T);  // one cache line

    Linearized<B, T>& at_;
    const std::vector<Link<T>> links_;
    const index width_;
    Workspace<B, T> work_;
    Buffer projections_;
    typename B::template factored<T> packed_;
    Buffer tangents_[2];
    std::shared_ptr<const BackwardRows<B, T>> rows_;
    std::mutex lock_;
};

}  // namespace gnfast
