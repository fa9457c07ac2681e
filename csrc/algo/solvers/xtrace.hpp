// XTrace (Epperly, Tropp & Webber 2024): the trace by leaving one test vector out at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "algo/solvers/sketch.hpp"

namespace gnfast::solvers {

// With P_i the projector on what all test vectors but w_i have spanned, P_i = Q^T (I - s_i s_i^T) Q, each of
// tr P_i A P_i + alpha_i mu_i^T A mu_i, mu_i = (I - P_i) w_i, alpha_i = (size - m + 1) / |mu_i|^2, is unbiased; the value is their mean.
// The same without w_j: s_j leaves the projector as well. All of it from the sketch's matrices (m, m), m^3 flops in all.
//
// Its error. Write the mean as a sum of uncorrelated parts, each a function of r of the test vectors (Hoeffding 1948), with the variances
// v_r. The estimates' spread over m, their authors' error, takes each for independent of the others and expects v_r / r at least; the
// jackknife (Efron & Stein 1981), the spread of the m means without one test vector, expects r v_r. The product of the two is at least
// (sum v_r)^2 by Cauchy's inequality, and is that where one r dominates: the root of the two errors' product is taken.
template <class T>
class XTrace {
   public:
    template <class Sketch>
    XTrace(const Sketch& sketch, index size)
        : size_(size), m_(sketch.count()), forms_(sketch.forms), s_(excluding(sketch.c)), ss_(gram(s_, s_)), ws_(gram(sketch.w, s_)) {
        const Small hs = gram(s_, sketch.h), hw = gram(sketch.w, sketch.h);  // rows H s_i and H w_i
        shs_ = gram(s_, hs), whs_ = gram(sketch.w, hs);
        for (index i = 0; i < m_; ++i) {
            whole_ += sketch.h(i, i);
            whw_.push_back(dot(sketch.w, i, hw, i));
            ww_.push_back(dot(sketch.w, i, sketch.w, i));
            cw_.push_back(dot(sketch.c, i, sketch.w, i));
            cs_.push_back(dot(sketch.c, i, s_, i));
        }
    }

    Mean estimates() const {
        Mean mean;
        for (index i = 0; i < m_; ++i) mean.add(estimate(i, i));
        return mean;
    }

    // The value's error, beyond rounding; infinite for a single test vector.
    double error(const Mean& estimates) const {
        if (m_ < 2) return std::numeric_limits<double>::infinity();
        Mean without;
        for (index j = 0; j < m_; ++j) {
            Mean rest;
            for (index i = 0; i < m_; ++i)
                if (i != j) rest.add(estimate(i, j));
            without.add(rest.value());
        }
        // Spread of the means times (m - 1)^2 / m; Mean's error has Student's factor already, which the product has once then.
        const double jackknife = double(m_ - 1) * without.error();
        return std::sqrt(estimates.error() * jackknife);
    }

   private:
    // By test vector i, and without test vector j; i = j leaves out no other.
    double estimate(index i, index j) const {
        const double cosine = i == j ? 0 : ss_(i, j), sine2 = 1 - cosine * cosine;
        // Where s_i and s_j are one direction up to rounding, leaving w_j out leaves nothing more out of the projector.
        const bool both = i != j && sine2 > 1e-12;
        const double wi = ws_(i, i), wj = both ? ws_(i, j) : 0;
        // The projection a s_i + b s_j of w_i on what is left out.
        const double a = both ? (wi - cosine * wj) / sine2 : wi, b = both ? (wj - cosine * wi) / sine2 : 0;
        const auto at = static_cast<std::size_t>(i);
        double out = shs_(i, i), quadratic = whw_[at] - 2 * a * whs_(i, i) + a * a * shs_(i, i), inside = ww_[at] - a * wi - b * wj;
        if (both) {
            out = (shs_(i, i) + shs_(j, j) - 2 * cosine * shs_(i, j)) / sine2;
            quadratic += -2 * b * whs_(i, j) + 2 * a * b * shs_(i, j) + b * b * shs_(j, j);
        }
        // |mu|^2 = |w|^2 - |P w|^2, which is rounding alone where all of w is in the span.
        const double left = double(size_) - inside, floor = 100 * double(std::numeric_limits<T>::epsilon()) * double(size_);
        const double form = forms_[at] - 2 * (cw_[at] - a * cs_[at]) + quadratic;  // s_j is orthogonal to A w_i
        const double spanned = double(m_ - (both ? 2 : 1));
        return whole_ - out + (left > floor ? (double(size_) - spanned) / left * form : 0);
    }

    // a b^T
    static Small gram(const Small& a, const Small& b) {
        Small out(a.rows, b.rows);
        for (index i = 0; i < a.rows; ++i)
            for (index j = 0; j < b.rows; ++j) out(i, j) = dot(a, i, b, j);
        return out;
    }

    index size_, m_;
    std::vector<double> forms_;
    Small s_, ss_, ws_, shs_, whs_;
    std::vector<double> whw_, ww_, cw_, cs_;
    double whole_ = 0;
};

template <class B, class T>
Estimate xtrace(B& backend, const Apply<T>& apply, index size, const EstimatorOptions& options) {
    const auto tests = [&](index products) { return std::clamp<index>(products / 2, 1, size); };
    const index limit = tests(std::max(options.samples, options.max_products));
    index target = tests(options.samples);
    Sketch<B, T> sketch(backend, apply, size, Probe::sphere, options.seed, false);
    while (true) {
        sketch.grow(target, options.block, options.monitor, "trace");
        const XTrace<T> found(sketch, size);
        const Mean mean = found.estimates();
        const double error = std::max(found.error(mean), 4 * apply.resolution * mean.scale());
        const bool met = options.tol <= 0 || meets(mean.value(), error, options.tol);
        if (met || target >= limit) return {mean.value(), error, 2 * target, met};
        // The error falls faster than 1 / sqrt(count) where the spectrum decays: twice as many is never far too many.
        target = std::min(limit, 2 * target);
    }
}

}  // namespace gnfast::solvers
