// One end with a preconditioner: block generalized Davidson with locally optimal restarts ("GD+k",
// Stathopoulos & Saad 1998; LOBPCG, Knyazev 2001, is the case of the shortest basis).
#pragma once

#include <algorithm>
#include <limits>

#include "algo/solvers/ritz.hpp"
#include "algo/solvers/snapshot.hpp"

namespace gnfast::solvers {

// Orthonormal coefficients of the `lowest` first Ritz vectors and of those of the step before.
inline Small restart_coefficients(const Ritz& ritz, const Small& before, index done, index lowest) {
    Small all(lowest + before.rows, done);
    std::copy_n(ritz.vectors.values.begin(), lowest * done, all.values.begin());
    index rows = lowest;
    for (index i = 0; i < before.rows && rows + 1 < done; ++i) {
        std::vector<double> v(static_cast<std::size_t>(done), 0.0);
        for (index q = 0; q < before.cols; ++q) v[static_cast<std::size_t>(q)] = before(i, q);
        for (int pass = 0; pass < 2; ++pass)
            for (index j = 0; j < rows; ++j) {
                double dot = 0;
                for (index q = 0; q < done; ++q) dot += v[static_cast<std::size_t>(q)] * all(j, q);
                for (index q = 0; q < done; ++q) v[static_cast<std::size_t>(q)] -= dot * all(j, q);
            }
        double norm = 0;
        for (const double value : v) norm += value * value;
        norm = std::sqrt(norm);
        if (norm < 1e-6) continue;
        for (index q = 0; q < done; ++q) all(rows, q) = v[static_cast<std::size_t>(q)] / norm;
        ++rows;
    }
    return leading(all, rows);
}

// Eigenpairs at one end of the symmetric A; precondition(r, out) applies an approximate inverse of A to a block, or is empty.
//
// Basis Q (orthonormal rows) with A Q kept, H = Q A Q^T. Each step: Ritz vectors X = Y Q, residuals
// R = Y A Q - theta X; the basis grows by N^-1 R of the wanted ones. A restart keeps the best Ritz vectors of this step and of the
// step before, which is what makes the short recurrence nearly as good as the full basis.
template <class B, class T>
class Davidson {
   public:
    Davidson(B& backend, const Apply<T>& apply, const Apply<T>& precondition, index size, const Options& options)
        : backend_(backend),
          apply_(apply),
          precondition_(precondition),
          options_(options),
          blocks_(backend, options.seed),
          size_(size),
          block_(std::min(std::max({options.block, options.count, options.start_rows}), size)),
          max_basis_(std::min(size, std::max(options.max_basis, 3 * block_))),
          kept_blocks_(max_basis_ < 4 * block_ ? 1 : 2),  // room for those, the step before and the new block
          basis_buffer_(backend.template allocate<T>(2 * max_basis_ * size)),
          work_buffer_(backend.template allocate<T>(4 * block_ * size)),
          basis_(basis_buffer_.data(), max_basis_, size),
          image_(basis_buffer_.data() + max_basis_ * size, max_basis_, size),
          work_(work_buffer_.data(), block_, size),
          spare_(work_buffer_.data() + block_ * size, 3 * block_, size),
          h_(max_basis_, max_basis_) {
        if (precondition_.inner) {
            const index limit = options.max_products > 0 ? std::max<index>(1, options.max_products - block_) : 0;
            *precondition_.inner = {&result_.products, &result_.passes, limit, [this](const char*, double, double, double) { tell(); }};
        }
    }
    Davidson(const Davidson&) = delete;
    Davidson& operator=(const Davidson&) = delete;
    ~Davidson() {
        if (precondition_.inner) *precondition_.inner = {};
    }

    Result run(View<T> vectors) {
        if (options_.restore.empty())
            start();
        else
            restore();
        while (true) {
            if (width_ == 0) {
                try {
                    prepare();
                } catch (const interrupted&) {  // of an inverse by products
                    if (!options_.keep_results) throw;
                    width_ = 0;
                    save(true);
                    return finish(vectors, Ended::interrupted);
                }
            }
            save(false);
            try {
                expand();
            } catch (const interrupted&) {
                if (!options_.keep_results) throw;
                return finish(vectors, Ended::interrupted);
            }
            measure();
            const bool everything = done_ == size_;
            result_.converged = everything || settled(ritz_, residuals_, options_, floor(), ++expansions_ < options_.min_steps);
            // Residuals that stop falling near the level of rounding have met it: say so instead of going on for ever. Far from
            // it they may rest for a while; an inverse by products takes few steps, each of many products.
            worst_ = worst_residual(residuals_, options_.count);
            stale_ = worst_ < 0.9 * best_ ? 0 : stale_ + 1;
            best_ = std::min(best_, worst_);
            bool stop = false;
            try {
                tell();
            } catch (const interrupted&) {
                if (!options_.keep_results) throw;
                stop = true;
            }
            if (result_.converged) return finish(vectors, everything ? Ended::whole_space : Ended::tolerance);
            if (stale_ > (worst_ < 1e4 * floor() ? 60 : 600) / (precondition_.inner ? 6 : 1)) {
                result_.converged = worst_ < 16 * floor();  // rounding, and what restarts leave of it in the images: 10 were seen
                return finish(vectors, result_.converged ? Ended::rounding : Ended::stalled);
            }
            const bool spent = options_.max_products > 0 && result_.products + block_ > options_.max_products;
            if (!stop && !spent) continue;
            save(true);
            return finish(vectors, spent ? Ended::products : Ended::interrupted);
        }
    }

   private:
    View<const T> known() const { return View<const T>(basis_.row_range(0, done_)); }
    View<const T> images() const { return View<const T>(image_.row_range(0, done_)); }
    double floor() const { return apply_.resolution * norm_ * 4; }
    void tell() { report(options_.monitor, options_.stage, double(result_.products), 0, worst_); }

    // A random start with the preconditioner applied lies near the low end already.
    void start() {
        const View<T> first = spare_.row_range(0, block_);
        blocks_.fill_start(options_, first);
        backend_.copy(View<const T>(first), work_);
        const index given = std::min(options_.start_rows, block_);
        if (precondition_ && given < block_)
            precondition_(View<const T>(first.row_range(given, block_ - given)), work_.row_range(given, block_ - given));
        width_ = block_;
        norm_ = options_.norm;
    }

    // The new directions, in the first rows of `work`, join the basis.
    void expand() {
        const View<T> fresh = work_.row_range(0, width_);
        blocks_.board().clear();
        blocks_.project_out(known(), fresh);
        const auto passes = blocks_.orthonormalize(known(), fresh);
        blocks_.board().read();
        blocks_.settle(known(), fresh, passes, 0);  // before a product is made with them
        blocks_.project_out(known(), fresh);
        backend_.copy(View<const T>(fresh), basis_.row_range(done_, width_));
        const View<T> target = image_.row_range(done_, width_);
        apply_(View<const T>(fresh), target);
        result_.products += width_;
        ++result_.passes;
        const Small c = blocks_.inner_now(View<const T>(target), View<const T>(basis_.row_range(0, done_ + width_)));
        for (index i = 0; i < width_; ++i)
            for (index j = 0; j < done_ + width_; ++j) {
                if (!std::isfinite(c(i, j))) throw nonfinite_error(nonfinite_product);
                h_(done_ + i, j) = h_(j, done_ + i) = c(i, j);
            }
        done_ += width_;
        width_ = 0;
    }

    // Ritz values of the basis; residuals of the wanted ones, in the first rows of `work`.
    void measure() {
        ritz_ = rayleigh_ritz(backend_, h_, done_, options_);
        for (const double value : ritz_.values) norm_ = std::max(norm_, std::abs(value));
        const index lowest = std::min(block_, done_);
        const Small y = leading(ritz_.vectors, lowest);
        const View<T> residual = work_.row_range(0, lowest);
        Small scaled = y;
        for (index i = 0; i < lowest; ++i)
            for (index q = 0; q < done_; ++q) scaled(i, q) *= -ritz_.values[static_cast<std::size_t>(i)];
        blocks_.combine(1, y, images(), 0, residual);
        blocks_.combine(1, scaled, known(), 1, residual);
        backend_.row_dots(View<const T>(residual), View<const T>(residual), residuals_);
        for (double& value : residuals_) value = std::sqrt(value);
    }

    // Residuals of what is within tolerance lead nowhere: the others become the first rows of `work`. Returns their number.
    index open_rows(index lowest) {
        index open = 0;
        for (index i = 0; i < lowest; ++i) {
            if (is_within(ritz_, residuals_, static_cast<std::size_t>(i), options_.tol, floor())) continue;
            if (open < i) backend_.copy(View<const T>(work_.row_range(i, 1)), work_.row_range(open, 1));
            ++open;
        }
        return open;
    }

    // The directions of the next step, and a restart where they do not fit.
    void prepare() {
        const index lowest = std::min(block_, done_);
        width_ = std::min(open_rows(lowest), size_ - done_);
        if (width_ == 0) {  // all is within tolerance before `min_steps`
            width_ = 1;
            blocks_.fill_random(work_.row_range(0, width_));
        }
        if (precondition_) {
            const View<T> x = spare_.row_range(0, width_);
            backend_.copy(View<const T>(work_.row_range(0, width_)), x);
            precondition_(View<const T>(x), work_.row_range(0, width_));
        }
        if (done_ + width_ <= max_basis_) {
            before_ = leading(ritz_.vectors, lowest);
            return;
        }
        const index most = std::min(done_ - 1, max_basis_ - width_);
        Small kept = restart_coefficients(ritz_, before_, done_, std::min(kept_blocks_ * block_, most));
        if (kept.rows > most) kept = leading(kept, most);
        const View<T> old(spare_.data, kept.rows, size_);
        for (const View<T>& part : {basis_, image_}) {
            blocks_.combine(1, kept, View<const T>(part.row_range(0, done_)), 0, old);
            backend_.copy(View<const T>(old), part.row_range(0, kept.rows));
        }
        const Small left = Blocks<B, T>::multiply(kept, blocks_.corner(h_, done_));
        std::fill(h_.values.begin(), h_.values.end(), 0.0);
        for (index i = 0; i < kept.rows; ++i)
            for (index j = 0; j < kept.rows; ++j)
                for (index q = 0; q < done_; ++q) h_(i, j) += left(i, q) * kept(j, q);
        done_ = kept.rows;
        // In the new basis the Ritz vectors kept come first.
        const index first = std::min(lowest, done_);
        before_ = leading(Blocks<B, T>::identity(done_), first);
        ritz_.values.resize(static_cast<std::size_t>(std::min(index(ritz_.values.size()), done_)));
        ritz_.vectors = Blocks<B, T>::identity(done_);
    }

    Result finish(View<T> vectors, Ended ended) {
        const index available = std::min({options_.count, index(ritz_.values.size()), index(residuals_.size())});
        result_.values.assign(ritz_.values.begin(), ritz_.values.begin() + available);
        result_.residuals.assign(residuals_.begin(), residuals_.begin() + available);
        result_.others.assign(ritz_.values.begin() + available, ritz_.values.end());
        result_.ended = ended;
        result_.norm = norm_;
        Small y = leading(ritz_.vectors, available);
        blocks_.combine(1, y, View<const T>(basis_.row_range(0, y.cols)), 0, vectors.row_range(0, available));
        return result_;
    }

    void save(bool last) {
        if (!options_.save) return;
        SnapshotWriter out;
        out.vectors(backend_, "basis", known());
        out.vectors(backend_, "image", images());
        out.vectors(backend_, "next", View<const T>(work_.row_range(0, width_)));
        out.numbers("projected", blocks_.corner(h_, done_));
        out.numbers("before", before_);
        out.numbers("residuals", residuals_);
        out.numbers("counters",
                    {double(done_), double(width_), norm_, double(result_.products), double(result_.passes), best_, double(stale_),
                     double(before_.rows), double(before_.cols), double(blocks_.stream()), double(residuals_.size())});
        options_.save(out.parts(), last);
    }

    void restore() {
        const SnapshotReader in(options_.restore);
        const std::vector<double> c = in.numbers("counters", 1, 11);
        done_ = index(c[0]), width_ = index(c[1]), norm_ = c[2];
        result_.products = index(c[3]), result_.passes = index(c[4]);
        best_ = c[5], stale_ = index(c[6]);
        blocks_.set_stream(std::uint64_t(c[9]));
        if (done_ < 0 || width_ < 0 || done_ + width_ < 1 || width_ > block_ || done_ + width_ > max_basis_ || c[7] < 0 || c[8] < 0 ||
            c[8] > double(done_) || c[10] < 0)
            throw saved_state_error(foreign_snapshot);
        backend_.from_host(in.vectors<T>("basis", done_, size_), basis_.row_range(0, done_));
        backend_.from_host(in.vectors<T>("image", done_, size_), image_.row_range(0, done_));
        backend_.from_host(in.vectors<T>("next", width_, size_), work_.row_range(0, width_));
        blocks_.set_corner(h_, in.numbers("projected", done_, done_), done_);
        before_ = Small(index(c[7]), index(c[8]));
        before_.values = in.numbers("before", before_.rows, before_.cols);
        residuals_ = in.numbers("residuals", 1, index(c[10]));
        if (width_ == 0)  // it ended before its next directions were made
            measure();
        else if (done_ > 0)
            ritz_ = rayleigh_ritz(backend_, h_, done_, options_);
    }

    B& backend_;
    const Apply<T>& apply_;
    const Apply<T>& precondition_;
    const Options& options_;
    Blocks<B, T> blocks_;
    const index size_, block_, max_basis_, kept_blocks_;
    typename B::template buffer<T> basis_buffer_, work_buffer_;
    View<T> basis_, image_, work_, spare_;
    Small h_, before_;
    Ritz ritz_;
    std::vector<double> residuals_;
    Result result_;
    index done_ = 0, width_ = 0, stale_ = 0, expansions_ = 0;
    double norm_ = 0, best_ = std::numeric_limits<double>::infinity(), worst_ = unknown_residual;
};

template <class B, class T>
Result davidson(B& backend, const Apply<T>& apply, const Apply<T>& precondition, index size, const Options& options, View<T> vectors) {
    return Davidson<B, T>(backend, apply, precondition, size, options).run(vectors);
}

}  // namespace gnfast::solvers
