// The one cost and memory model: which product, how many samples and vectors at a time, or a refusal with sizes.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "algo/network.hpp"
#include "core/errors.hpp"

namespace gnfast {

enum class Method { automatic, usual, factored, stored };

struct ProductPlan {
    Method method = Method::usual;
    bool packed = false;  // the factored product by the backend's own kernels
    index sample_block = 1;
    index vector_block = 1;
    double flops_usual = 0;        // per vector
    double flops_factored = 0;     // per vector; 0 where it does not apply
    double flops_stored = 0;       // per vector; 0 where it does not apply
    double flops_contraction = 0;  // the part of these that goes through the backward rows
    double flops_rows = 0;         // making those rows, once
    double bytes_forward = 0;      // the kept forward pass
    double bytes_rows = 0;         // the kept backward rows, packed too where they are, or the stored rows; 0 for the usual product
    double bytes_workspace = 0;    // one block's tangents, and the patches of some images
    index patches = 0;             // numbers of these
};

namespace blocking {

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
    for (const auto& [d, place, end] : network.links()) {
        const double gemm = 2.0 * double(n) * double(d->inputs()) * double(d->outputs());
        plan.flops_usual += first ? 2 * gemm : 4 * gemm;
        plan.flops_factored += 2 * gemm;
        plan.flops_contraction += 4.0 * double(n) * double(r) * double(d->outputs());
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

    // The least that a product can do with: one sample's tangents for one vector, or one sample's forward pass.
    const double per_tangent = (2.0 * double(network.max_width()) + double(network.outputs())) * sizeof(T);
    const double least = std::max(per_tangent, Forward<B, T>::least_bytes(network.account().live));
    const auto fits = [&](double extra) { return limit <= 0 || plan.bytes_forward + extra + least <= limit; };
    if (!fits(0))
        throw memory_limit_error("a Gauss-Newton product over " + std::to_string(n) + " samples needs at least " +
                                 megabytes(plan.bytes_forward + least) + " (forward pass " + megabytes(plan.bytes_forward) +
                                 ") but memory_limit is " + megabytes(limit) + "; raise memory_limit or pass fewer samples");
    using Packed = typename B::template factored<T>;
    double packed = 0;
    for (const auto& [d, place, end] : network.links()) packed += Packed::bytes(n, d->inputs(), d->outputs(), r);
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
    double rows_fit = B::block_bytes / (double(network.max_width()) * sizeof(T));
    if (limit > 0) rows_fit = std::min(rows_fit, (limit - plan.bytes_forward - plan.bytes_rows) / per_tangent);
    const index rows = std::max<index>(1, index(rows_fit));
    plan.sample_block = std::min({n, rows, std::max(gemm_rows, rows / rows_shared_by)});
    plan.sample_block = ceil_div(n, ceil_div(n, plan.sample_block));  // equal blocks, no short last one
    plan.vector_block = std::max<index>(1, std::min(rows, std::max(gemm_rows, plan.sample_block) * rows_shared_by) / plan.sample_block);
    plan.bytes_workspace = per_tangent * double(plan.sample_block) * double(plan.vector_block);
    return plan;
}

// Whether products with the stored rows R^T J are the faster ones for blocks of s vectors. Each number of them is read twice.
inline bool stored_pays(const ProductPlan& plan, index s) {
    const double read = plan.flops_stored / 2 * flops_per_number / double(std::min(s, rows_shared_by));
    return plan.flops_stored + read + plan.flops_rows / products_expected < plan.flops_usual;
}

// The plan of a network of any layers.
template <class B, class T>
ProductPlan plan_general(const Network<B, T>& network, index n, index r, Method wish, double limit) {
    const Account& seen = network.account();
    const bool coupled = network.couples_samples();
    const double each = double(n), all_rows = each * double(r), per_tangent = seen.live * sizeof(T);
    ProductPlan plan;
    plan.flops_usual = 2 * each * (2 * seen.first + 4 * seen.later);
    plan.bytes_forward = each * (seen.kept + double(seen.width)) * sizeof(T);
    const double at_once = coupled ? each : 1;  // samples at least
    const double least = plan.bytes_forward + std::max(at_once * per_tangent + seen.patches * sizeof(T),
                                                       at_once * Forward<B, T>::least_bytes(seen.live) + 8 * seen.patches);
    if (limit > 0 && least > limit)
        throw memory_limit_error("a Gauss-Newton product over " + std::to_string(n) + " samples needs at least " + megabytes(least) +
                                 " (forward pass " + megabytes(plan.bytes_forward) +
                                 (coupled ? ", and tangents of all samples at once, which batch normalisation couples" : "") +
                                 ") but memory_limit is " + megabytes(limit) + "; raise memory_limit or pass fewer samples");
    const double rows_bytes = all_rows * double(network.parameters()) * sizeof(T);
    if (!coupled) {
        plan.flops_stored = 4 * all_rows * double(network.parameters());
        plan.flops_rows = 2 * all_rows * (seen.first + 2 * seen.later);
    } else {
        plan.flops_rows = all_rows * plan.flops_usual / 2;  // each row is a product with the whole transposed Jacobian
        if (wish == Method::stored)
            throw std::invalid_argument(
                "method is \"stored\" but batch normalisation with the batch's own statistics couples the samples, so that each row of "
                "the Jacobian takes a product over all of them; use method=\"usual\" or \"auto\"");
    }
    // Without a limit the rows are kept where they leave half of the machine's memory alone.
    const double room = limit > 0 ? limit : network.backend().available_memory() / 2;
    const bool fits = !coupled && least + rows_bytes <= room;
    if (wish == Method::stored && !fits)
        throw memory_limit_error("method=\"stored\" keeps " + megabytes(rows_bytes) + " of rows of the Jacobian beside " +
                                 megabytes(least) + " but there is room for " + megabytes(room) +
                                 "; raise memory_limit or use method=\"usual\"");
    plan.method = wish != Method::automatic ? wish : fits && stored_pays(plan, rows_shared_by) ? Method::stored : Method::usual;
    if (plan.method == Method::stored) plan.bytes_rows = rows_bytes;

    // What is left beside the least there must be: a quarter for more patches at a time, half of the rest for more tangents. The Gram's
    // rows have the other half. Vectors that share the patches come first, then samples.
    const double spare = limit > 0 ? limit - least - plan.bytes_rows : 8 * B::block_bytes;
    const double patches = std::clamp(B::patch_numbers * sizeof(T) - seen.patches * sizeof(T), 0.0, spare / 4);
    if (seen.patches > 0) plan.patches = index(seen.patches + patches / sizeof(T));
    const double tangents = std::min((spare - patches) / 2, 2 * B::block_bytes) / per_tangent;
    const index most = (coupled ? n : 1) + index(std::max(0.0, tangents));
    plan.vector_block = coupled ? std::max<index>(1, most / n) : std::min(rows_shared_by, most);
    plan.sample_block = coupled ? n : std::clamp<index>(most / plan.vector_block, 1, n);
    plan.sample_block = ceil_div(n, ceil_div(n, plan.sample_block));
    if (plan.sample_block == n) plan.vector_block = std::max(plan.vector_block, std::min(most / n, 4 * rows_shared_by));
    plan.bytes_workspace = per_tangent * double(plan.sample_block) * double(plan.vector_block) + double(plan.patches) * sizeof(T);
    return plan;
}

}  // namespace blocking
}  // namespace gnfast
