// The loss's Hessians H_i (k, k) in the outputs: products with them and their factors R_i, H_i = R_i R_i^T.
#pragma once

#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/backend.hpp"

namespace gnfast {

template <class B, class T>
class OutputHessian {
   public:
    using Buffer = typename B::template buffer<T>;

    // given, borrowed: roots of weights (n, k) of a loss that has a formula, or nothing; for Loss::blocks the rows sqrt(scale) R_i^T
    // (n q, k).
    OutputHessian(B& backend, Loss loss, View<const T> given, index samples, index outputs, T scale)
        : backend_(backend), loss_(loss), given_(given), samples_(samples), outputs_(outputs), scale_(scale) {}

    // Rows of R_i^T: reduced, without those that are known to be zero or to depend on the others.
    index rank(bool reduced) const {
        return loss_ == Loss::blocks && reduced ? given_.rows / samples_ : loss::factor_rank(loss_, outputs_, reduced);
    }

    bool is_identity() const { return loss_ == Loss::mse && !given_.data; }

    // What products need of the outputs (count, k) of the samples from `first` on: made in double, then rounded.
    void prepare(index first, View<const double> outputs) {
        if (loss_ == Loss::blocks) return;
        if (loss::facts(loss_).kept == loss::Kept::nothing) {
            kept_ = given_;
            return;
        }
        if (!kept_.data) buffer_ = backend_.template allocate<T>(samples_ * outputs_);
        const View<T> all(buffer_.data(), samples_, outputs_), kept = all.row_range(first, outputs.rows);
        auto wide = backend_.template allocate<double>(outputs.rows * outputs_);
        const View<double> made(wide.data(), outputs.rows, outputs_);
        backend_.loss_prepare(loss_, outputs, made);
        backend_.copy(View<const double>(made), kept);
        if (given_.data) backend_.multiply_rows(Batch<T>(kept, 1, 0), given_.row_range(first, outputs.rows));
        if (*loss::facts(loss_).overflow) check_finite(kept);
        kept_ = all;
    }

    // u_j <- scale H u_j for the samples from `first` on; u (s, n, k) contiguous.
    void multiply(index first, Batch<T> u) {
        const index n = u.first.rows;
        if (loss_ != Loss::blocks) return backend_.loss_hessian(loss_, kept_.data ? kept_.row_range(first, n) : kept_, scale_, u);
        const index r = rank(true), size = u.count * n * r;
        if (products_.size() < size) products_ = backend_.template allocate<T>(size);
        const Batch<T> inner(View<T>(products_.data(), n, r), u.count, n * r);
        const View<const T> rows = given_.row_range(first * r, n * r);
        backend_.fill(View<T>(products_.data(), u.count, n * r), T(0));
        backend_.contract_out(rows, r, Batch<const T>(u), inner);
        backend_.contract_in(rows, r, Batch<const T>(inner), u);
    }

    // sqrt(scale) R_i^T for all samples, (n rank(reduced), k).
    Buffer factor(bool reduced) {
        const index r = rank(reduced), width = r * outputs_;
        Buffer out = backend_.template allocate<T>(samples_ * width);
        if (loss_ != Loss::blocks) {
            backend_.loss_factor(loss_, kept_, reduced, scale_, View<T>(out.data(), samples_ * r, outputs_));
            return out;
        }
        const index given = rank(true) * outputs_;
        backend_.fill(View<T>(out.data(), samples_, width), T(0));
        backend_.copy(View<const T>(given_.data, samples_, given), View<T>(out.data(), samples_, given, width));
        return out;
    }

   private:
    void check_finite(View<const T> kept) {
        std::vector<double> squares;
        backend_.row_dots(kept, kept, squares);
        for (const double square : squares)
            if (!(square <= double(std::numeric_limits<T>::max())))
                throw std::invalid_argument(std::string(loss::facts(loss_).overflow) + "; scale the network down");
    }

    B& backend_;
    Loss loss_;
    View<const T> given_, kept_;
    index samples_, outputs_;
    T scale_;
    Buffer buffer_, products_;
};

}  // namespace gnfast
