// Block Lanczos with full reorthogonalisation and thick restart (Golub & Underwood 1977; Wu & Simon 2000).
#pragma once

#include <algorithm>
#include <limits>

#include "algo/solvers/ritz.hpp"
#include "algo/solvers/snapshot.hpp"

namespace gnfast::solvers {

// Eigenpairs at one end of the symmetric A of the given size, or at both; vectors (count, size) gets the eigenvectors.
//
// Basis Q (orthonormal rows), H = Q A Q^T. Each step: W = A Q_j; C = W Q^T into H; W -= C Q; W = R Q_{j+1}.
// Only the newest block has a part of A Q outside the basis, R Q_{j+1}: a Ritz vector's residual is |R^T y_last|.
template <class B, class T>
class Lanczos {
   public:
    Lanczos(B& backend, const Apply<T>& apply, index size, const Options& options)
        : backend_(backend),
          apply_(apply),
          options_(options),
          blocks_(backend, options.seed),
          size_(size),
          block_(std::min(std::max(options.block, options.start_rows), size)),
          max_basis_(std::min(size, std::max(options.max_basis, options.count + 2 * block_))),
          basis_buffer_(backend.template allocate<T>((max_basis_ + block_) * size)),
          next_buffer_(backend.template allocate<T>(block_ * size)),
          basis_(basis_buffer_.data(), max_basis_ + block_, size),
          h_(max_basis_ + block_, max_basis_ + block_) {}

    Result run(View<T> vectors) {
        if (options_.restore.empty())
            start();
        else
            restore();
        while (true) {
            if (done_ + width_ > max_basis_) restart();
            save(false);
            try {
                step();
            } catch (const interrupted&) {
                const Result best = stopped(vectors, Ended::interrupted);
                if (!options_.keep_results) throw;
                return best;
            }
            const bool everything = done_ == size_;
            result_.converged = everything || settled(ritz_, residuals_, options_, floor(), whole_ && result_.steps < options_.min_steps);
            try {
                report(options_.monitor, options_.stage, double(result_.products), 0, worst_residual(residuals_, options_.count));
            } catch (const interrupted&) {
                const Result best = stopped(vectors, result_.converged ? Ended::tolerance : Ended::interrupted);
                if (!options_.keep_results) throw;
                return best;
            }
            if (result_.converged) return finish(vectors, everything ? Ended::whole_space : Ended::tolerance);
            if (options_.max_products > 0 && result_.products + width_ > options_.max_products) return stopped(vectors, Ended::products);
        }
    }

   private:
    View<const T> known(index rows) const { return View<const T>(basis_.row_range(0, rows)); }
    double floor() const { return apply_.resolution * norm_ * 4; }

    void start() {
        const View<T> first = basis_.row_range(0, block_);
        blocks_.fill_start(options_, first);
        blocks_.orthonormalize_now(known(0), first, 0);
        width_ = block_;
        norm_ = options_.norm;
        whole_ = options_.start == nullptr;
    }

    void step() {
        const View<T> w(next_buffer_.data(), width_, size_);
        apply_(View<const T>(basis_.row_range(done_, width_)), w);
        result_.products += width_;
        ++result_.passes;
        if (whole_) ++result_.steps;
        const View<const T> all = known(done_ + width_);
        const index room = size_ - done_ - width_;
        // All of the step is under way before the host looks at it.
        blocks_.board().clear();
        const View<const T> taken = blocks_.project_out(all, w);
        typename Blocks<B, T>::Passes passes;
        if (room >= width_) passes = blocks_.orthonormalize(all, w);
        blocks_.board().read();
        const Small c = blocks_.taken(taken, width_);
        for (index i = 0; i < width_; ++i)
            for (index j = 0; j < done_ + width_; ++j) {
                if (!std::isfinite(c(i, j))) throw nonfinite_error(nonfinite_product);
                h_(done_ + i, j) = h_(j, done_ + i) = c(i, j);
            }
        const index last = done_;
        done_ += width_;
        ritz_ = rayleigh_ritz(backend_, h_, done_, options_);
        for (const double value : ritz_.values) norm_ = std::max(norm_, std::abs(value));
        Small r;
        if (room >= width_) {
            r = blocks_.settle(all, w, passes, floor());
        } else if (room > 0) {
            // Fewer directions are left than the block has vectors: any orthonormal basis of them will do.
            auto old_buffer = backend_.template allocate<T>(width_ * size_);
            const View<T> old(old_buffer.data(), width_, size_), rest = w.row_range(0, room);
            backend_.copy(View<const T>(w), old);
            for (index i = 0; i < room; ++i) blocks_.fill_random(rest.row_range(i, 1));
            blocks_.project_out(all, rest);
            blocks_.orthonormalize_now(all, rest, 0);
            r = blocks_.inner_now(View<const T>(old), View<const T>(rest));
        }
        width_ = std::min(width_, room);
        residuals_.assign(static_cast<std::size_t>(done_), 0.0);
        for (index i = 0; i < done_ && width_ > 0; ++i) {
            double total = 0;
            for (index q = 0; q < r.cols; ++q) {
                double part = 0;
                for (index p = 0; p < r.rows; ++p) part += r(p, q) * ritz_.vectors(i, last + p);
                total += part * part;
            }
            residuals_[static_cast<std::size_t>(i)] = std::sqrt(total);
        }
        if (width_ > 0) backend_.copy(View<const T>(w.row_range(0, width_)), basis_.row_range(done_, width_));
    }

    // Thick restart: wanted Ritz vectors and as many beyond them as keep the convergence going; the newest block follows them.
    void restart() {
        const index keep = std::min(done_ - 1, std::max(options_.count, (max_basis_ - width_) / 2));
        auto kept_buffer = backend_.template allocate<T>((keep + width_) * size_);
        const View<T> kept(kept_buffer.data(), keep, size_), newest(kept_buffer.data() + keep * size_, width_, size_);
        blocks_.combine(1, leading(ritz_.vectors, keep), known(done_), 0, kept);
        backend_.copy(View<const T>(basis_.row_range(done_, width_)), newest);
        backend_.copy(View<const T>(kept.data, keep + width_, size_), basis_.row_range(0, keep + width_));
        std::fill(h_.values.begin(), h_.values.end(), 0.0);
        for (index i = 0; i < keep; ++i) h_(i, i) = ritz_.values[static_cast<std::size_t>(i)];
        done_ = keep;
        whole_ = false;
        ritz_.values.resize(static_cast<std::size_t>(keep));
        ritz_.vectors = Blocks<B, T>::identity(keep);
        residuals_.resize(static_cast<std::size_t>(keep));
    }

    Result stopped(View<T> vectors, Ended ended) {
        if (done_ + width_ > max_basis_ && width_ > 0) restart();
        save(true);
        return finish(vectors, ended);
    }

    Result finish(View<T> vectors, Ended ended) {
        const index available = std::min(options_.count, done_);
        result_.values.assign(ritz_.values.begin(), ritz_.values.begin() + available);
        result_.residuals.assign(residuals_.begin(), residuals_.begin() + available);
        result_.others.assign(ritz_.values.begin() + available, ritz_.values.end());
        result_.ended = ended;
        result_.norm = norm_;
        blocks_.combine(1, leading(ritz_.vectors, available), known(done_), 0, vectors.row_range(0, available));
        return result_;
    }

    void save(bool last) {
        if (!options_.save) return;
        SnapshotWriter out;
        out.vectors(backend_, "basis", known(done_ + width_));
        out.numbers("projected", blocks_.corner(h_, done_));
        out.numbers("residuals", residuals_);
        out.numbers("counters", {double(done_), double(width_), norm_, double(result_.products), double(result_.passes),
                                 double(result_.steps), whole_ ? 1.0 : 0.0, double(blocks_.stream())});
        options_.save(out.parts(), last);
    }

    void restore() {
        const SnapshotReader in(options_.restore);
        const std::vector<double> c = in.numbers("counters", 1, 8);
        done_ = index(c[0]), width_ = index(c[1]), norm_ = c[2];
        result_.products = index(c[3]), result_.passes = index(c[4]), result_.steps = index(c[5]);
        whole_ = c[6] != 0;
        blocks_.set_stream(std::uint64_t(c[7]));
        if (done_ < 0 || width_ < 1 || width_ > block_ || done_ + width_ > max_basis_) throw saved_state_error(foreign_snapshot);
        backend_.from_host(in.vectors<T>("basis", done_ + width_, size_), basis_.row_range(0, done_ + width_));
        blocks_.set_corner(h_, in.numbers("projected", done_, done_), done_);
        residuals_ = in.numbers("residuals", 1, done_);
        if (done_ > 0) ritz_ = rayleigh_ritz(backend_, h_, done_, options_);
    }

    B& backend_;
    const Apply<T>& apply_;
    const Options& options_;
    Blocks<B, T> blocks_;
    const index size_, block_, max_basis_;
    typename B::template buffer<T> basis_buffer_, next_buffer_;
    View<T> basis_;
    Small h_;
    Ritz ritz_;
    std::vector<double> residuals_;  // of the Ritz values, before the newest block is added
    Result result_;
    index done_ = 0;   // rows of the basis that A has been applied to
    index width_ = 0;  // of the newest block, which follows them
    double norm_ = 0;
    bool whole_ = false;  // the basis is still the Krylov space of a random block
};

template <class B, class T>
Result lanczos(B& backend, const Apply<T>& apply, index size, const Options& options, View<T> vectors) {
    return Lanczos<B, T>(backend, apply, size, options).run(vectors);
}

}  // namespace gnfast::solvers
