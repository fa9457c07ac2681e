// A network at samples, and the loss there: what products with the Jacobian need, whatever the network is made of.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

#include "algo/blocking.hpp"
#include "algo/network.hpp"
#include "algo/output_hessian.hpp"

namespace gnfast {

template <class B, class T>
class Linearized {
   public:
    using Buffer = typename B::template buffer<T>;
    using PlanOf = ProductPlan (&)(const Network<B, T>&, index, index, Method, double);

    // scale: 1/n for the mean over samples, 1 for the sum. Weights, x and what is given for the loss (see OutputHessian) are borrowed.
    Linearized(const Network<B, T>& network, View<const T> x, Loss loss, View<const T> given, T scale, Method method, double memory_limit,
               PlanOf plan_of)
        : network_(network),
          hessian_(network.backend(), loss, given, x.rows, network.outputs(), scale),
          limit_(memory_limit),
          plan_(plan_of(network, x.rows, hessian_.rank(true), method, memory_limit)),
          x_(x) {}

    const Network<B, T>& network() const { return network_; }
    B& backend() const { return network_.backend(); }
    // The forward pass, made at the first product: the linear dual never asks for it.
    const ForwardPass<B, T>& pass() {
        std::call_once(once_, [&] {
            ForwardRoom room;
            if (plan_.patches > 0) room.patches = plan_.patches;
            if (limit_ > 0) room.bytes = limit_ - plan_.bytes_forward;
            pass_ = std::make_unique<ForwardPass<B, T>>(network_, x_, room,
                                                        [&](index first, View<const double> outputs) { hessian_.prepare(first, outputs); });
        });
        return *pass_;
    }
    const ProductPlan& plan() const { return plan_; }
    double memory_limit() const { return limit_; }
    index samples() const { return x_.rows; }
    index outputs() const { return network_.outputs(); }
    // Rows of R_i^T, as OutputHessian has them.
    index rank(bool reduced) const { return hessian_.rank(reduced); }
    // The rows sqrt(scale) R_i^T of the loss, (n r, outputs).
    Buffer factor(bool reduced) {
        pass();
        return hessian_.factor(reduced);
    }
    // Whether H_i = I for all samples.
    bool same_hessians() const { return hessian_.is_identity(); }
    // u_j <- scale H u_j for the samples from `first` on.
    void multiply_hessian(index first, Batch<T> u) { hessian_.multiply(first, u); }

    // f(first vector, vectors, first sample, samples) for all blocks; one product at a time uses the work space.
    template <class F>
    void for_blocks(index s, F&& f) {
        pass();
        const std::lock_guard guard = hold_workspace();
        for (index j = 0; j < s; j += plan_.vector_block)
            for (index i = 0; i < samples(); i += plan_.sample_block)
                f(j, std::min(plan_.vector_block, s - j), i, std::min(plan_.sample_block, samples() - i));
    }
    std::lock_guard<std::mutex> hold_workspace() { return std::lock_guard(lock_workspace_); }

    // NaN and inf of a vector reach the outputs' tangents, which are much smaller to look through.
    void check_finite(View<const T> u) const {
        std::vector<double> squares;
        backend().row_dots(u, u, squares);
        for (const double square : squares)
            if (!std::isfinite(square)) throw nonfinite_error(not_finite);
    }
    static constexpr const char* not_finite = "V has NaN or infinite values, or overflows in the product; pass finite vectors";

   private:
    const Network<B, T>& network_;
    OutputHessian<B, T> hessian_;
    double limit_;
    ProductPlan plan_;
    View<const T> x_;
    std::once_flag once_;
    std::unique_ptr<ForwardPass<B, T>> pass_;
    std::mutex lock_workspace_;
};

}  // namespace gnfast
