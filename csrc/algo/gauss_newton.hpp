// Products with G = (scale) sum_i J_i^T H_i J_i and with the Jacobian, block of samples by block of vectors.
#pragma once

#include <cmath>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "algo/blocking.hpp"
#include "algo/general.hpp"
#include "algo/network.hpp"
#include "algo/output_hessian.hpp"

namespace gnfast {

template <class B, class T>
class GaussNewton {
   public:
    using Buffer = typename B::template buffer<T>;

    // scale: 1/n for the mean over samples, 1 for the sum. Weights, x and what is given for the loss (see OutputHessian) are borrowed.
    GaussNewton(const Network<B, T>& network, View<const T> x, Loss loss, View<const T> given, T scale, Method method, double memory_limit)
        : network_(network),
          hessian_(network.backend(), loss, given, x.rows, network.outputs(), scale),
          method_(method),
          limit_(memory_limit),
          plan_(network.is_feedforward_dense() ? blocking::plan_product(network, x.rows, hessian_.rank(true), method, memory_limit)
                                               : blocking::plan_general(network, x.rows, hessian_.rank(true), method, memory_limit)),
          x_(x),
          work_(network.backend()) {}

    const Network<B, T>& network() const { return network_; }
    // The forward pass, made at the first product: the linear dual never asks for it.
    const ForwardPass<B, T>& pass() {
        prepare();
        return *pass_;
    }
    const ProductPlan& plan() const { return plan_; }
    // How a block of s vectors is multiplied: few vectors do not always pay for a pass over the backward rows.
    Method method_for(index s) const {
        if (method_ != Method::automatic || plan_.method == Method::usual) return plan_.method;
        const bool pays = plan_.method == Method::stored ? blocking::stored_pays(plan_, s) : blocking::factored_pays(plan_, s);
        return pays ? plan_.method : Method::usual;
    }
    double memory_limit() const { return limit_; }
    index samples() const { return x_.rows; }
    index outputs() const { return network_.outputs(); }
    // Rows of R_i^T, as OutputHessian has them.
    index rank(bool reduced) const { return hessian_.rank(reduced); }

    // The rows sqrt(scale) R_i^T of the loss, (n r, outputs).
    Buffer factor(bool reduced) {
        prepare();
        return hessian_.factor(reduced);
    }

    // Whether H_i = I for all samples.
    bool same_hessians() const { return hessian_.is_identity(); }

    // Rows sqrt(scale) R^T J before each dense layer of a chain. The reduced ones are kept: products and the Gram share them.
    std::shared_ptr<const BackwardRows<B, T>> rows(bool reduced) {
        const index r = hessian_.rank(reduced);
        const bool same = r == hessian_.rank(true);
        const std::lock_guard guard(lock_);
        if (same && rows_) return rows_;
        auto made = std::make_shared<const BackwardRows<B, T>>(pass(), factor(reduced), r);
        if (same) rows_ = made;
        return made;
    }

    // out (count r, p): the rows factor_i J_i of some samples, factor (n r, outputs), for networks of any layers; p the part's parameters.
    void jacobian_rows(View<const T> factor, index r, index first, index count, View<T> out, Part part) {
        prepare();
        const std::lock_guard guard(lock_workspace_);
        general_->rows(factor, r, first, count, out, part);
    }

    // f(layer, kept, g, whether the samples come for the first time, work space) at each layer of a network of any layers, with the rows
    // sqrt(scale) R_i^T of the loss pulled back to behind it, in blocks.
    template <class F>
    void for_cotangents(F&& f) {
        const index r = rank(true);
        const Buffer start = factor(true);
        const std::lock_guard guard(lock_workspace_);
        general_->pull_factor(View<const T>(start.data(), samples() * r, outputs()), r, 0, samples(), {},
                              [&](index, index c, const auto& layer, const layers::Kept<T>& kept, Batch<const T> g) {
                                  f(layer, kept, g, c == 0, general_->work());
                              });
    }
    // All rows sqrt(scale) R^T J (n r, p), reduced, where products are made with them, else nothing.
    View<const T> stored_rows() {
        if (plan_.method != Method::stored) return {};
        const index r = rank(true), p = network_.parameters();
        const std::lock_guard guard(lock_);
        if (stored_.size() == 0) {
            Buffer made = network_.backend().template allocate<T>(samples() * r * p);
            const Buffer start = factor(true);
            jacobian_rows(View<const T>(start.data(), samples() * r, outputs()), r, 0, samples(), View<T>(made.data(), samples() * r, p),
                          {});
            stored_ = std::move(made);
        }
        return {stored_.data(), samples() * r, p};
    }

    // out = G v for each row of v (s, p).
    void apply(View<const T> v, View<T> out) {
        if (method_for(v.rows) == Method::stored) return apply_stored(v, out);
        if (method_for(v.rows) == Method::factored) return apply_factored(v, out);
        for_blocks(v.rows, [&](index j, index s, index i, index n) {
            const Batch<T> u = jvp_block(v.row_range(j, s), i, n, {});
            check_finite(View<const T>(u.first.data, s, n * outputs()));
            hessian_.multiply(i, u);
            vjp_block(u, i, i == 0 ? T(0) : T(1), out.row_range(j, s), {});
        });
    }

    // u = J v: v (s, p), u (s, n k), no loss and no scale in it. J is that in the part's parameters.
    void jvp(View<const T> v, View<T> u, Part part = {}) {
        for_blocks(v.rows, [&](index j, index s, index i, index n) {
            const Batch<T> block = jvp_block(v.row_range(j, s), i, n, part);
            const index k = outputs();
            for (index q = 0; q < s; ++q) network_.backend().copy(View<const T>(block[q].data, 1, n * k), u.block(j + q, 1, i * k, n * k));
        });
    }

    // out = J^T u.
    void vjp(View<const T> u, View<T> out, Part part = {}) {
        for_blocks(u.rows, [&](index j, index s, index i, index n) {
            const index k = outputs();
            const Batch<T> block = general_ ? general_->cotangents(s, n) : tangent(0, s, n, k);
            for (index q = 0; q < s; ++q) network_.backend().copy(u.block(j + q, 1, i * k, n * k), View<T>(block[q].data, 1, n * k));
            vjp_block(block, i, i == 0 ? T(0) : T(1), out.row_range(j, s), part);
        });
    }

   private:
    // NaN and inf of a vector reach the outputs' tangents, which are much smaller to look through.
    void check_finite(View<const T> u) {
        std::vector<double> squares;
        network_.backend().row_dots(u, u, squares);
        for (const double square : squares)
            if (!std::isfinite(square)) throw nonfinite_error(not_finite);
    }

    void prepare() {
        std::call_once(once_, [&] {
            ForwardRoom room;
            if (plan_.patches > 0) room.patches = plan_.patches;
            if (limit_ > 0) room.bytes = limit_ - plan_.bytes_forward;
            pass_ = std::make_unique<ForwardPass<B, T>>(network_, x_, room,
                                                        [&](index first, View<const double> outputs) { hessian_.prepare(first, outputs); });
            if (!network_.is_feedforward_dense())
                general_ = std::make_unique<General<B, T>>(*pass_, plan_.patches, plan_.sample_block, plan_.vector_block);
        });
    }

    // f(first vector, vectors, first sample, samples); one product at a time uses the work space.
    template <class F>
    void for_blocks(index s, F&& f) {
        prepare();
        const std::lock_guard guard(lock_workspace_);
        if (!general_) reserve(std::min(s, plan_.vector_block), std::min(samples(), plan_.sample_block));
        for (index j = 0; j < s; j += plan_.vector_block)
            for (index i = 0; i < samples(); i += plan_.sample_block)
                f(j, std::min(plan_.vector_block, s - j), i, std::min(plan_.sample_block, samples() - i));
    }

    // Two tangents, used in turn, kept between calls.
    void reserve(index s, index n) {
        const index size = s * (n * network_.max_width() + padding);
        for (Buffer& buffer : tangents_)
            if (buffer.size() < size) buffer = network_.backend().template allocate<T>(size);
    }

    Batch<T> tangent(std::size_t which, index s, index n, index width) {
        return {View<T>(tangents_[which].data(), n, width), s, n * width};
    }

    // The contractions read several vectors side by side: a step that is a power of two would put them all in one set of the cache.
    Batch<T> padded_tangent(index s, index n, index width) { return {View<T>(tangents_[0].data(), n, width), s, n * width + padding}; }

    // T_l = T_{l-1} W_l^T + A_{l-1} dW_l^T, then T_l *= D_l.
    Batch<T> jvp_block(View<const T> v, index i, index n, Part part) {
        if (general_) return general_->jvp(v, i, n, part);
        B& backend = network_.backend();
        const index s = v.rows;
        std::size_t now = 1;
        Batch<T> t = tangent(now, s, n, 0);
        bool moved = false;  // before the part's first dense layer the input does not move
        for (std::size_t l = 0; l < network_.layers().size(); ++l) {
            if (const auto* dense = std::get_if<layers::Dense<T>>(&network_.layers()[l])) {
                const bool own = part.holds(dense->offset);
                if (!own && !moved) continue;
                now = 1 - now;
                const Batch<T> next = tangent(now, s, n, dense->fan_out());
                if (own) part.within(*dense).direction(work_, pass().kept(l, i, n), v, next);
                if (moved) dense->push(work_, {}, Batch<const T>(t), next, own ? T(1) : T(0));
                t = next;
                moved = true;
            } else if (moved) {
                backend.multiply_rows(t, pass().kept(l).row_range(i, n));
            }
        }
        return t;
    }

    // dW_l += g_l^T A_{l-1}, g_{l-1} = (g_l W_l) * D_{l-1}; g lies in one of the two tangents.
    void vjp_block(Batch<T> g, index i, T beta, View<T> out, Part part) {
        if (general_) return general_->vjp(i, g.first.rows, beta, out, part);
        B& backend = network_.backend();
        const index s = out.rows, n = g.first.rows;
        std::size_t now = g.first.data == tangents_[0].data() ? 0 : 1;
        std::size_t first_dense = 0;
        while (!touched(network_.layers()[first_dense], part)) ++first_dense;
        for (std::size_t l = network_.layers().size(); l-- > first_dense;) {
            if (const auto* dense = std::get_if<layers::Dense<T>>(&network_.layers()[l])) {
                if (part.holds(dense->offset)) part.within(*dense).gradient(work_, pass().kept(l, i, n), Batch<const T>(g), beta, out);
                if (l == first_dense) return;
                now = 1 - now;
                const Batch<T> below = tangent(now, s, n, dense->fan_in());
                dense->pull(work_, {}, Batch<const T>(g), below);
                g = below;
            } else {
                backend.multiply_rows(g, pass().kept(l).row_range(i, n));
            }
        }
    }

    // With the rows B_l kept no product with a weight is left: u = sum_l B_l . (A_{l-1} dW_l^T), then
    // dW_l = (sum_c u_c B_{l,c})^T A_{l-1}. 4 n p + 4 n r sum(m_l) flops a vector.
    void apply_factored(View<const T> v, View<T> out) {
        const auto backward = rows(true);
        const index r = backward->per_sample();
        B& backend = network_.backend();
        if (plan_.packed) return apply_packed(*backward, v, out);
        for_blocks(v.rows, [&](index j, index s, index i, index n) {
            if (projections_.size() < s * n * r) projections_ = backend.template allocate<T>(s * n * r);
            const View<T> flat(projections_.data(), s, n * r);
            const Batch<T> u(View<T>(projections_.data(), n, r), s, n * r);
            backend.fill(flat, T(0));
            for_dense([&](std::size_t l, const layers::Dense<T>& dense) {
                const Batch<T> t = padded_tangent(s, n, dense.fan_out());
                dense.direction(work_, pass().kept(l, i, n), v.row_range(j, s), t);
                backend.contract_out(backward->rows(l).row_range(i * r, n * r), r, Batch<const T>(t), u);
            });
            check_finite(View<const T>(flat));
            for_dense([&](std::size_t l, const layers::Dense<T>& dense) {
                const Batch<T> t = padded_tangent(s, n, dense.fan_out());
                backend.contract_in(backward->rows(l).row_range(i * r, n * r), r, Batch<const T>(u), t);
                dense.gradient(work_, pass().kept(l, i, n), Batch<const T>(t), i == 0 ? T(0) : T(1), out.row_range(j, s));
            });
        });
    }

    // u = v (R^T J)^T, then out = u R^T J: 4 n r p flops a vector, however often the network uses a parameter.
    void apply_stored(View<const T> v, View<T> out) {
        const View<const T> rows = stored_rows();
        B& backend = network_.backend();
        Buffer memory = backend.template allocate<T>(v.rows * rows.rows);
        const View<T> u(memory.data(), v.rows, rows.rows);
        backend.gemm(Op::none, Op::transpose, T(1), v, rows, T(0), u);
        check_finite(View<const T>(u));
        backend.gemm(Op::none, Op::none, T(1), View<const T>(u), rows, T(0), out);
    }

    void apply_packed(const BackwardRows<B, T>& backward, View<const T> v, View<T> out) {
        const std::lock_guard guard(lock_workspace_);
        if (!packed_) {
            std::vector<FactoredTerm<T>> terms;
            for_dense([&](std::size_t l, const layers::Dense<T>& dense) {
                terms.push_back({pass().kept(l), backward.rows(l), dense.offset, dense.bias != nullptr});
            });
            packed_ = typename B::template factored<T>(std::span<const FactoredTerm<T>>(terms), backward.per_sample());
        }
        for (index j = 0; j < v.rows; j += plan_.vector_block) {
            const index s = std::min(plan_.vector_block, v.rows - j);
            if (!packed_.product(v.row_range(j, s), out.row_range(j, s))) throw nonfinite_error(not_finite);
        }
    }

    template <class F>
    void for_dense(F&& f) const {
        for (std::size_t l = 0; l < network_.layers().size(); ++l)
            if (const auto* dense = std::get_if<layers::Dense<T>>(&network_.layers()[l])) f(l, *dense);
    }

    static constexpr const char* not_finite = "V has NaN or infinite values, or overflows in the product; pass finite vectors";
    static constexpr index padding = 64 / sizeof(T);  // one cache line

    const Network<B, T>& network_;
    OutputHessian<B, T> hessian_;
    Method method_;
    double limit_;
    ProductPlan plan_;
    View<const T> x_;
    Workspace<B, T> work_;
    std::once_flag once_;
    std::unique_ptr<ForwardPass<B, T>> pass_;
    std::unique_ptr<General<B, T>> general_;  // of a network that is no chain
    Buffer projections_, stored_;
    typename B::template factored<T> packed_;
    Buffer tangents_[2];
    std::shared_ptr<const BackwardRows<B, T>> rows_;
    std::mutex lock_, lock_workspace_;
};

}  // namespace gnfast
