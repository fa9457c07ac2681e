// One computation in the memory of each backend: what a test writes once, runs on both and compares.
#pragma once

#include <algorithm>
#include <deque>
#include <vector>

#include "core/backend.hpp"
#include "cpu/cpu_backend.hpp"
#include "cuda/cublas.hpp"
#include "cuda/cuda_backend.hpp"
#include "matrices.hpp"
#include "naive_blas.hpp"

namespace gnfast::test {

template <class B_, class T_>
class World {
   public:
    using B = B_;
    using T = T_;
    B backend;
    std::vector<double> results;

    // In the backend's memory, as long as the world stands.
    View<const T> give(const Matrix<T>& host) {
        const View<T> made = room(host.rows, host.cols);
        backend.from_host(host.read(), made);
        return made;
    }
    View<const T> random(index rows, index cols, unsigned seed, double scale = 1) {
        Matrix<T> host = test::random<T>(rows, cols, seed, 0);
        for (T& value : host.values) value = T(double(value) * scale);
        return give(host);
    }
    View<T> room(index rows, index cols) {
        buffers_.push_back(backend.template allocate<T>(rows * cols));
        const View<T> made(buffers_.back().data(), rows, cols);
        backend.fill(made, T(0));
        return made;
    }
    Matrix<T> read(View<const T> in) {
        Matrix<T> out(in.rows, in.cols, 0);
        std::vector<T> memory;
        const View<const T> host = backend.on_host(in, memory);
        for (index i = 0; i < in.rows; ++i) std::copy_n(host.row(i), in.cols, out.view().row(i));
        return out;
    }

    // What the two backends must agree on.
    void tell(double value) { results.push_back(value); }
    void tell(const std::vector<double>& values) { results.insert(results.end(), values.begin(), values.end()); }
    void tell(View<const T> values) {
        for (const T value : read(values).values) tell(double(value));
    }
    void tell_lower(View<const T> values) {
        const Matrix<T> host = read(values);
        for (index i = 0; i < host.rows; ++i)
            for (index j = 0; j <= i; ++j) tell(double(host(i, j)));
    }

   private:
    std::deque<typename B::template buffer<T>> buffers_;
};

// f(world) on the processor and on the emulated GPU, in T; their results agree within `tolerance` times the largest.
template <class T, class F>
void on_both(double tolerance, F&& f) {
    use_naive_blas();
    cuda::load_cublas("");
    World<cpu::CpuBackend, T> one;
    World<cuda::CudaBackend, T> other;
    f(one), f(other);
    CHECK(one.results.size() == other.results.size() && !one.results.empty());
    double largest = 0;
    for (const double value : one.results) largest = std::max(largest, std::abs(value));
    CHECK(largest > 0 && std::isfinite(largest));
    for (std::size_t i = 0; i < one.results.size(); ++i) CHECK_NEAR(other.results[i], one.results[i], tolerance * largest);
}

// Both precisions, rounding errors of a few hundred operations.
template <class F>
void in_both_precisions(F&& f) {
    on_both<float>(2e-4, f);
    on_both<double>(1e-12, f);
}

}  // namespace gnfast::test
