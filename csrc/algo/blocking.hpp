// The one cost and memory model: which product, how many samples and vectors at a time, or a refusal with sizes.
#pragma once

#include <algorithm>
#include <string>

#include "algo/network.hpp"
#include "core/errors.hpp"
#include "core/loss.hpp"

namespace gnfast {

enum class Method { automatic, usual, factored };

struct ProductPlan {
    Method method = Method::usual;
    index sample_block = 1;
    index vector_block = 1;
    double flops_usual = 0;      // per vector
    double flops_factored = 0;   // per vector
    double bytes_forward = 0;    // the kept forward pass
    double bytes_rows = 0;       // the kept backward rows, 0 for the usual product
    double bytes_workspace = 0;  // one block's tangents
};

namespace blocking {

// Tangents of one block should stay in the last-level cache; measured flat between 16 and 64 MiB on 32 MiB of L3.
constexpr double workspace_target = 32.0 * 1024 * 1024;
// Vectors that share one pass over the backward rows.
constexpr index rows_shared_by = 8;
// The contraction with the backward rows runs at about half of GEMM's speed (kernels.cpp on AVX2).
constexpr double contraction_slowdown = 2.0;
// Making the backward rows is one pass of 2 n r sum(m_l m_{l+1}) flops: an eigenvalue needs about this many products.
constexpr double products_expected = 100;

// Flops of one product per vector in the two ways, the contractions' share of the second, and what making the rows costs.
template <class B, class T>
void count_flops(const Network<B, T>& network, index n, index r, ProductPlan& plan, double& making_rows, double& contraction) {
    making_rows = contraction = 0;
    bool first = true;
    for (const auto* d : network.dense()) {
        const double gemm = 2.0 * double(n) * double(d->fan_in()) * double(d->fan_out());
        plan.flops_usual += first ? 2 * gemm : 4 * gemm;
        plan.flops_factored += 2 * gemm;
        contraction += 4.0 * double(n) * double(r) * double(d->fan_out());
        if (!first) making_rows += gemm * double(r);
        first = false;
    }
    plan.flops_factored += contraction;
}

// limit: bytes, 0 for none.
template <class B, class T>
ProductPlan plan_product(const Network<B, T>& network, index n, Loss loss, Method wish, double limit) {
    const index r = loss::factor_rank(loss, network.outputs(), true);
    ProductPlan plan;
    double making_rows, contraction;
    count_flops(network, n, r, plan, making_rows, contraction);
    plan.bytes_forward = ForwardPass<B, T>::bytes(network, n);
    const double rows_bytes = BackwardRows<B, T>::bytes(network, n, r);

    // The least that a product can do with: one sample's tangents for one vector.
    const double per_tangent = (2.0 * double(network.max_width()) + double(network.outputs())) * sizeof(T);
    const auto fits = [&](double extra) { return limit <= 0 || plan.bytes_forward + extra + per_tangent <= limit; };
    if (!fits(0))
        throw memory_limit_error("a Gauss-Newton product over " + std::to_string(n) + " samples needs at least " +
                                 megabytes(plan.bytes_forward + per_tangent) + " (forward pass " + megabytes(plan.bytes_forward) +
                                 ") but memory_limit is " + megabytes(limit) + "; raise memory_limit or pass fewer samples");
    if (wish == Method::factored && !fits(rows_bytes))
        throw memory_limit_error("method=\"factored\" keeps " + megabytes(rows_bytes) + " of backward rows beside " +
                                 megabytes(plan.bytes_forward) + " of forward pass but memory_limit is " + megabytes(limit) +
                                 "; raise memory_limit or use method=\"auto\"");
    const double cost_factored =
        plan.flops_factored + (contraction_slowdown - 1) * contraction + making_rows / products_expected;
    const bool cheaper = cost_factored < plan.flops_usual;
    plan.method = wish != Method::automatic ? wish : cheaper && fits(rows_bytes) ? Method::factored : Method::usual;
    if (plan.method == Method::factored) plan.bytes_rows = rows_bytes;

    double budget = workspace_target;
    if (limit > 0) budget = std::min(budget, limit - plan.bytes_forward - plan.bytes_rows);
    // A sample block long enough for GEMM first, then vectors; at least one of each.
    const double rows_fit = std::max(1.0, budget / per_tangent);
    plan.sample_block = std::max<index>(1, std::min(n, std::max<index>(std::min<index>(n, 256), index(rows_fit) / rows_shared_by)));
    if (double(plan.sample_block) > rows_fit) plan.sample_block = index(rows_fit);
    plan.sample_block = ceil_div(n, ceil_div(n, plan.sample_block));  // equal blocks, no short last one
    plan.vector_block = std::max<index>(1, index(rows_fit) / plan.sample_block);
    plan.bytes_workspace = per_tangent * double(plan.sample_block) * double(plan.vector_block);
    return plan;
}

}  // namespace blocking
}  // namespace gnfast
