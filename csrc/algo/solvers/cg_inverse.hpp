// An approximate inverse by conjugate gradients, for a solver that takes one as its preconditioner.
#pragma once

#include <algorithm>

#include "algo/solvers/cg.hpp"

namespace gnfast::solvers {

// out = x with |v - (A + damping I) x| <= tol |v| for each row v of a block, from x = 0. Where the products that are left are too few
// for that, x is what conjugate gradients have by then; where there are none, what the preconditioner gives.
template <class B, class T>
class CgInverse {
   public:
    // precondition may be empty; max_iterations, of each block.
    CgInverse(B& backend, Apply<T> apply, Apply<T> precondition, index size, double damping, double tol, index max_iterations)
        : backend_(backend), apply_(std::move(apply)), precondition_(std::move(precondition)), size_(size) {
        options_.damping = damping, options_.tol = tol, options_.max_iterations = max_iterations;
        options_.rough = true;
        options_.monitor = [this](const char* stage, double done, double total, double residual) {
            report(inner_.monitor, stage, done, total, residual);
        };
        counted_ = [this](View<const T> in, View<T> out) {
            apply_(in, out);
            if (inner_.products) *inner_.products += in.rows;
            if (inner_.passes) ++*inner_.passes;
        };
        counted_.resolution = apply_.resolution;
    }
    CgInverse(const CgInverse&) = delete;
    CgInverse& operator=(const CgInverse&) = delete;

    Inner& inner() { return inner_; }

    void operator()(View<const T> in, View<T> out) {
        SolveOptions options = options_;
        if (inner_.limit > 0 && inner_.products)
            options.max_iterations = std::min(options.max_iterations, (inner_.limit - *inner_.products) / in.rows);
        if (options.max_iterations > 0)
            BlockCg<B, T>(backend_, counted_, precondition_, size_, options).run(in, out);
        else if (precondition_)
            precondition_(in, out);
        else
            backend_.copy(in, out);
    }

   private:
    B& backend_;
    Apply<T> apply_, precondition_, counted_;
    index size_;
    SolveOptions options_;
    Inner inner_;
};

}  // namespace gnfast::solvers
