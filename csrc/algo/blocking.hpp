// The one cost and memory model: which product, how many samples and vectors at a time, or a refusal with sizes.
#pragma once

#include <algorithm>
#include <string>

#include "algo/network.hpp"
#include "core/errors.hpp"

namespace gnfast {

enum class Method { automatic, usual, factored };

struct ProductPlan {
    Method method = Method::usual;
    bool packed = false;  // the factored product by the backend's own kernels
    index sample_block = 1;
    index vector_block = 1;
    double flops_usual = 0;        // per vector
    double flops_factored = 0;     // per vector
    double flops_contraction = 0;  // the part of these that goes through the backward rows
    double flops_rows = 0;         // making those rows, once
    double bytes_forward = 0;      // the kept forward pass
    double bytes_rows = 0;         // the kept backward rows, packed too where they are; 0 for the usual product
    double bytes_workspace = 0;    // one block's tangents
};

namespace blocking {

// A block's tangent should stay near the last-level cache: 15 vectors of 1 MiB were 6 % slower than 8 on 32 MiB of it.
constexpr double workspace_target = 32.0 * 1024 * 1024;
// Vectors that share one pass over the backward rows.
constexpr index rows_shared_by = 8;
// Rows that a matrix product needs to be near its full rate.
constexpr index gemm_rows = 256;
// The contraction with the backward rows runs slower than GEMM, and each number of them is read twice for a block of vectors,
// which takes as long as so many flops of GEMM, packed or not (fitted to benchmarks/choice.py on two cores of an AVX2 server).
constexpr double contraction_slowdown = 1.7;
constexpr double flops_per_packed_number = 22.0;
constexpr double flops_per_number = 64.0;
// Making the backward rows is one pass of 2 n r sum(m_l m_{l+1}) flops: an eigenvalue needs about this many products, as plan.py has it.
constexpr double products_expected = 200;

template <class B, class T>
void count_flops(const Network<B, T>& network, index n, index r, ProductPlan& plan) {
    bool first = true;
    for (const auto* d : network.dense()) {
        const double gemm = 2.0 * double(n) * double(d->fan_in()) * double(d->fan_out());
        plan.flops_usual += first ? 2 * gemm : 4 * gemm;
        plan.flops_factored += 2 * gemm;
        plan.flops_contraction += 4.0 * double(n) * double(r) * double(d->fan_out());
        if (!first) plan.flops_rows += gemm * double(r);
        first = false;
    }
    plan.flops_factored += plan.flops_contraction;
}

// Whether the factored product is the faster one for blocks of s vectors.
inline bool factored_pays(const ProductPlan& plan, index s) {
    const double read = plan.flops_contraction / 2 * (plan.packed ? flops_per_packed_number : flops_per_number);
    const double cost = plan.flops_factored + (contraction_slowdown - 1) * plan.flops_contraction +
                        read / double(std::min(s, rows_shared_by)) + plan.flops_rows / products_expected;
    return cost < plan.flops_usual;
}

// r: the rank of the loss's Hessian, backward rows per sample; limit: bytes, 0 for none.
template <class B, class T>
ProductPlan plan_product(const Network<B, T>& network, index n, index r, Method wish, double limit) {
    ProductPlan plan;
    count_flops(network, n, r, plan);
    plan.bytes_forward = ForwardPass<B, T>::bytes(network, n);
    const double rows_bytes = BackwardRows<B, T>::bytes(network, n, r);

    // The least that a product can do with: one sample's tangents for one vector.
    const double per_tangent = (2.0 * double(network.max_width()) + double(network.outputs())) * sizeof(T);
    const auto fits = [&](double extra) { return limit <= 0 || plan.bytes_forward + extra + per_tangent <= limit; };
    if (!fits(0))
        throw memory_limit_error("a Gauss-Newton product over " + std::to_string(n) + " samples needs at least " +
                                 megabytes(plan.bytes_forward + per_tangent) + " (forward pass " + megabytes(plan.bytes_forward) +
                                 ") but memory_limit is " + megabytes(limit) + "; raise memory_limit or pass fewer samples");
    using Packed = typename B::template factored<T>;
    double packed = 0;
    for (const auto* d : network.dense()) packed += Packed::bytes(n, d->fan_in(), d->fan_out(), r);
    const double packed_workspace = packed > 0 ? Packed::workspace_bytes(n, r, rows_shared_by) : 0;
    plan.packed = packed > 0 && fits(rows_bytes + packed + packed_workspace);
    if (wish == Method::factored && !fits(rows_bytes))
        throw memory_limit_error("method=\"factored\" keeps " + megabytes(rows_bytes) + " of backward rows beside " +
                                 megabytes(plan.bytes_forward) + " of forward pass but memory_limit is " + megabytes(limit) +
                                 "; raise memory_limit or use method=\"auto\"");
    plan.method = wish != Method::automatic                                 ? wish
                  : factored_pays(plan, rows_shared_by) && fits(rows_bytes) ? Method::factored
                                                                            : Method::usual;
    plan.packed = plan.packed && plan.method == Method::factored;
    if (plan.method == Method::factored) plan.bytes_rows = rows_bytes + (plan.packed ? packed : 0);
    if (plan.packed) {
        plan.sample_block = n;
        plan.vector_block = rows_shared_by;
        plan.bytes_workspace = packed_workspace;
        return plan;
    }

    // A sample block long enough for GEMM first, then the vectors that share a pass over the backward rows (more of them where
    // the samples are few); at least one of each, and no more than the limit leaves room for.
    double rows_fit = workspace_target / (double(network.max_width()) * sizeof(T));
    if (limit > 0) rows_fit = std::min(rows_fit, (limit - plan.bytes_forward - plan.bytes_rows) / per_tangent);
    const index rows = std::max<index>(1, index(rows_fit));
    plan.sample_block = std::min({n, rows, std::max(gemm_rows, rows / rows_shared_by)});
    plan.sample_block = ceil_div(n, ceil_div(n, plan.sample_block));  // equal blocks, no short last one
    plan.vector_block = std::max<index>(1, std::min(rows, std::max(gemm_rows, plan.sample_block) * rows_shared_by) / plan.sample_block);
    plan.bytes_workspace = per_tangent * double(plan.sample_block) * double(plan.vector_block);
    return plan;
}

}  // namespace blocking
}  // namespace gnfast
