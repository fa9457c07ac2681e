// The Gram (NTK) dual K = (scale) R^T J J^T R: formed by tiles, or applied from its two small factors a layer.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "algo/gauss_newton.hpp"
#include "core/monitor.hpp"

namespace gnfast {

template <class B, class T>
class Gram<Chain<B, T>> {
   public:
    // reduced: without the null direction that softmax is known to have, (k - 1) rows a sample. J is that in the part's parameters.
    Gram(GaussNewton<Chain<B, T>>& gauss_newton, bool reduced, Part part)
        : owner_(gauss_newton), part_(part), rows_(gauss_newton.jacobian().rows(reduced)), r_(rows_->per_sample()), work_(backend()) {}

    index size() const { return owner_.samples() * r_; }

    // The lower triangle of out (n r, n r).
    void form(View<T> out, const Monitor& monitor) {
        std::vector<GramTerm<T>> terms;
        for_dense([&](std::size_t q, const layers::Dense<T>& dense) {
            terms.push_back({owner_.pass().kept(link(q).place), rows_->rows(q), dense.bias != nullptr});
        });
        const auto factor = share_factors(terms);
        const index n = owner_.samples(), per = B::gram_tile_samples(n, r_);
        // Several rows of tiles a call: enough tiles that no thread waits long for the last one, and still a report every so often.
        const index step = per * std::max<index>(5, ceil_div(n, per * 16));
        for (index first = 0; first < n; first += step) {
            const index last = std::min(n, first + step);
            backend().gram_lower(std::span<const GramTerm<T>>(terms), r_, out, first, last);
            report(monitor, "forming the Gram matrix", double(last) * double(last), double(n) * double(n));
        }
    }

    // out = K v for each row of v (s, n r), K never stored: per layer C = u . B_l, T = (A A^T + bias) C, u += T . B_l.
    // 2 n^2 m_l + 4 n r m_l flops a vector and layer, or 4 n p_l in place of the first where the inputs are few: T = A (A^T C).
    void apply(View<const T> v, View<T> out) {
        const index n = owner_.samples(), width = owner_.network().max_width();
        const std::lock_guard guard(lock_);
        make_input_grams();
        index parameters = 0;
        for_dense([&](std::size_t, const layers::Dense<T>& dense) {
            if (few_inputs(dense)) parameters = std::max(parameters, dense.parameters());
        });
        const index per_vector = 2 * n * width + parameters;
        const index block = std::max<index>(1, std::min(v.rows, index(B::block_bytes) / (per_vector * index(sizeof(T)))));
        if (workspace_.size() < block * per_vector) workspace_ = backend().template allocate<T>(block * per_vector);
        for (index j = 0; j < v.rows; j += block) {
            const index s = std::min(block, v.rows - j);
            const View<T> target = out.row_range(j, s);
            const Batch<const T> u(View<const T>(v.row(j), n, r_), s, v.stride);
            const Batch<T> result(View<T>(target.data, n, r_), s, target.stride);
            backend().fill(target, T(0));
            std::size_t at = 0;
            for_dense([&](std::size_t q, const layers::Dense<T>& dense) {
                const index m = dense.outputs();
                const Batch<T> c(View<T>(workspace_.data(), n, m), s, n * m);
                const Batch<T> t(View<T>(workspace_.data() + s * n * m, n, m), s, n * m);
                backend().contract_in(rows_->rows(q), r_, u, c);
                if (few_inputs(dense)) {
                    layers::Dense<T> alone = dense;
                    alone.offset = 0;
                    const View<T> w(workspace_.data() + 2 * s * n * width, s, dense.parameters());
                    alone.gradient(work_, owner_.pass().kept(link(q).place, 0, n), Batch<const T>(c), T(0), w);
                    alone.direction(work_, owner_.pass().kept(link(q).place, 0, n), View<const T>(w), t);
                } else {
                    const View<const T> gram(input_grams_[at++].data(), n, n);
                    backend().gemm_batch(Op::none, Op::none, T(1), Batch<const T>(gram, s, 0), Batch<const T>(c), T(0), t);
                }
                backend().contract_out(rows_->rows(q), r_, Batch<const T>(t), result);
            });
        }
    }

    // out (n, n) = (1/r) sum_c K[(i,c),(j,c)]: the sample factor of the wide-limit preconditioner I (x) Kbar, exact
    // and without K: per layer (A A^T + bias) o (1/r) sum_c B_c B_c^T.
    void mean_over_outputs(View<T> out) {
        const index n = owner_.samples();
        const std::lock_guard guard(lock_);
        make_input_grams();
        auto buffer = backend().template allocate<T>(2 * n * n);
        const View<T> rows_gram(buffer.data(), n, n), other(buffer.data() + n * n, n, n);
        backend().fill(out, T(0));
        std::size_t at = 0;
        for_dense([&](std::size_t q, const layers::Dense<T>& dense) {
            // (n r, m) read as (n, r m): the inner product over outputs and units at once.
            const View<const T> flat(rows_->rows(q).data, n, r_ * dense.outputs());
            backend().gemm(Op::none, Op::transpose, T(1) / T(r_), flat, flat, T(0), rows_gram);
            if (few_inputs(dense)) make_input_gram(q, dense, other);
            const T* gram = few_inputs(dense) ? other.data : input_grams_[at++].data();
            backend().add_product(View<const T>(gram, n, n), View<const T>(rows_gram), out);
        });
    }

    // diag K: sum over layers of (|a_i|^2 + bias) |b_ic|^2, summed in double; 2 n r sum(m_l) flops, no product with K.
    std::vector<double> diagonal() {
        std::vector<double> out(static_cast<std::size_t>(size())), inputs, rows;
        for_dense([&](std::size_t q, const layers::Dense<T>& dense) {
            backend().row_dots(owner_.pass().kept(link(q).place), owner_.pass().kept(link(q).place), inputs);
            backend().row_dots(rows_->rows(q), rows_->rows(q), rows);
            for (std::size_t at = 0; at < out.size(); ++at)
                out[at] += (inputs[at / static_cast<std::size_t>(r_)] + (dense.bias ? 1 : 0)) * rows[at];
        });
        return out;
    }

    // out = J^T R v for each row: an eigenvector of K taken to parameters (not normalised).
    void lift(View<const T> v, View<T> out) {
        const index n = owner_.samples();
        for (index j = 0; j < v.rows; ++j) {
            const Batch<const T> u(View<const T>(v.row(j), n, r_), 1, 0);
            for_dense([&](std::size_t q, const layers::Dense<T>& dense) {
                auto buffer = backend().template allocate<T>(n * dense.outputs());
                const Batch<T> t(View<T>(buffer.data(), n, dense.outputs()), 1, 0);
                backend().contract_in(rows_->rows(q), r_, u, t);
                dense.gradient(work_, owner_.pass().kept(link(q).place, 0, n), Batch<const T>(t), T(0), out.row_range(j, 1));
            });
        }
    }

    // out = R^T J v for each row v (s, p): the adjoint of lift. 2 n p + 2 n r sum(m_l) flops a vector.
    void restrict_to_dual(View<const T> v, View<T> out) {
        const index n = owner_.samples();
        backend().fill(out, T(0));
        auto buffer = backend().template allocate<T>(n * owner_.network().max_width());
        for (index j = 0; j < v.rows; ++j)
            for_dense([&](std::size_t q, const layers::Dense<T>& dense) {
                const Batch<T> t(View<T>(buffer.data(), n, dense.outputs()), 1, 0), u(View<T>(out.row(j), n, r_), 1, 0);
                dense.direction(work_, owner_.pass().kept(link(q).place, 0, n), v.row_range(j, 1), t);
                backend().contract_out(rows_->rows(q), r_, Batch<const T>(t), u);
            });
    }

   private:
    B& backend() const { return owner_.backend(); }

    const Link<T>& link(std::size_t q) const { return owner_.jacobian().links()[q]; }
    template <class F>
    void for_dense(F&& f) const {
        for (std::size_t q = 0; q < owner_.jacobian().links().size(); ++q)
            if (const layers::Dense<T>& dense = *link(q).dense; part_.holds(dense.offset)) f(q, part_.within(dense));
    }

    // Where all samples have the Hessian I, the rows behind the last layer are the same for all, and those one layer below differ by the
    // derivatives there. Returns the memory of the factor that these share.
    typename B::template buffer<T> share_factors(std::vector<GramTerm<T>>& terms) const {
        const std::vector<Link<T>>& links = owner_.jacobian().links();
        const Link<T>& last = links.back();
        if (!owner_.same_hessians() || r_ == 1 || last.end > last.place + 1 || terms.size() < links.size()) return {};
        const View<const T> behind = terms.back().rows.row_range(0, r_);
        terms.back().factor = behind;
        if (links.size() < 2 || links[links.size() - 2].place + 2 != last.place) return {};  // one activation between the two
        auto factor = backend().template allocate<T>(r_ * last.dense->inputs());
        const View<T> shared(factor.data(), r_, last.dense->inputs());
        backend().gemm(Op::none, Op::none, T(1), behind, last.dense->weight, T(0), shared);
        terms[terms.size() - 2].factor = shared;
        terms[terms.size() - 2].derivative = owner_.pass().kept(last.place - 1);
        return factor;
    }

    // Whether products take two steps through the inputs rather than their Gram matrix (n, n): fewer flops.
    bool few_inputs(const layers::Dense<T>& dense) const { return 2 * dense.inputs() < owner_.samples(); }

    void make_input_gram(std::size_t q, const layers::Dense<T>& dense, View<T> gram) {
        const View<const T> a = owner_.pass().kept(link(q).place);
        if (dense.bias) backend().fill(gram, T(1));
        backend().gemm(Op::none, Op::transpose, T(1), a, a, dense.bias ? T(1) : T(0), gram);
    }

    void make_input_grams() {
        if (made_) return;
        const index n = owner_.samples();
        double matrices = 2;  // those that mean_over_outputs needs
        for_dense([&](std::size_t, const layers::Dense<T>& dense) { matrices += few_inputs(dense) ? 0 : 1; });
        const double limit = owner_.memory_limit(), rows = BackwardRows<B, T>::bytes(owner_.network(), n, r_);
        const double grams = matrices * double(n) * double(n) * sizeof(T);
        if (limit > 0 && rows + grams > limit)
            throw memory_limit_error("a product with the Gram dual needs " + megabytes(rows + grams) + " (backward rows " +
                                     megabytes(rows) + ") but memory_limit is " + megabytes(limit) +
                                     "; raise memory_limit or pass fewer samples");
        for_dense([&](std::size_t q, const layers::Dense<T>& dense) {
            if (few_inputs(dense)) return;
            input_grams_.push_back(backend().template allocate<T>(n * n));
            make_input_gram(q, dense, View<T>(input_grams_.back().data(), n, n));
        });
        made_ = true;
    }

    GaussNewton<Chain<B, T>>& owner_;
    Part part_;
    std::shared_ptr<const BackwardRows<B, T>> rows_;
    index r_;
    Workspace<B, T> work_;
    std::vector<typename B::template buffer<T>> input_grams_;  // of the layers that have not few inputs
    bool made_ = false;
    typename B::template buffer<T> workspace_;
    std::mutex lock_;  // of the work space: products may come from several threads
};

}  // namespace gnfast
