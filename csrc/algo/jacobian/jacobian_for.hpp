// What products ask of a Jacobian, and its two models: a chain of dense layers, or layers of any kind.
#pragma once

#include <concepts>
#include <span>

#include "algo/jacobian/chain.hpp"
#include "algo/jacobian/layered.hpp"

namespace gnfast {

// plan, rows_pay   how products are made; whether those by kept rows are the faster ones for so many vectors
// jvp, vjp         products with J and its transpose at a block of samples; cotangents has room for what vjp takes
// apply_by_rows    products with G by the rows that the model keeps
// diagonal         of G
// add_moments      the second moments of which K-FAC's factors are made
template <class J>
concept JacobianFor = std::constructible_from<J, typename J::At&> &&
                      requires(J& jacobian, const Network<typename J::Backend, typename J::Value>& network, const ProductPlan& plan,
                               index i, View<const typename J::Value> v, View<typename J::Value> out, Batch<typename J::Value> g,
                               typename J::Value beta, Part part, std::span<const Moments> moments) {
                          { J::plan(network, i, i, Method::automatic, 0.0) } -> std::same_as<ProductPlan>;
                          { J::rows_pay(plan, i) } -> std::same_as<bool>;
                          { jacobian.jvp(v, i, i, part) } -> std::same_as<Batch<typename J::Value>>;
                          { jacobian.cotangents(i, i) } -> std::same_as<Batch<typename J::Value>>;
                          jacobian.vjp(g, i, beta, out, part);
                          jacobian.apply_by_rows(v, out);
                          jacobian.diagonal(out);
                          jacobian.add_moments(moments);
                      };

// f<J>() with the model that fits the network: asked here and nowhere else.
template <class B, class T, class F>
decltype(auto) by_jacobian(const Network<B, T>& network, F&& f) {
    return network.is_chain() ? f.template operator()<Chain<B, T>>() : f.template operator()<Layered<B, T>>();
}

}  // namespace gnfast
