#include "api/estimators.hpp"

#include <utility>

#include "algo/solvers/nystrom_preconditioner.hpp"
#include "algo/solvers/trace.hpp"
#include "algo/solvers/xtrace.hpp"
#include "api/dispatch.hpp"

namespace gnfast::api {
namespace {

using dispatch::B, dispatch::backend, dispatch::view, dispatch::read, dispatch::by_dtype, dispatch::dtype_of, dispatch::as_function;

template <class T>
class LowRankUpdateOf final : public Operator {
   public:
    LowRankUpdateOf(Array vectors, std::vector<double> factors) : vectors_(read<T>(vectors)), factors_(std::move(factors)) {}
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return vectors_.cols; }
    index cols() const override { return vectors_.cols; }
    void apply(Array in, Array out) override {
        solvers::apply_low_rank_update<B, T>(backend(), vectors_, factors_, read<T>(in), view<T>(out));
    }

   private:
    View<const T> vectors_;
    std::vector<double> factors_;
};

}  // namespace

solvers::Estimate trace(Operator& op, TraceMethod method, const solvers::EstimatorOptions& options) {
    return by_dtype(op.dtype(), [&]<class T>() {
        const solvers::Apply<T> apply = as_function<T>(op);
        switch (method) {
            case TraceMethod::hutchinson:
                return solvers::hutchinson<B, T>(backend(), apply, op.rows(), options);
            case TraceMethod::hutch_plus_plus:
                return solvers::hutch_plus_plus<B, T>(backend(), apply, op.rows(), options);
            default:
                return solvers::xtrace<B, T>(backend(), apply, op.rows(), options);
        }
    });
}

solvers::DiagonalResult hutchinson_diagonal(Operator& op, const solvers::EstimatorOptions& options, Array mean, Array squares) {
    return by_dtype(op.dtype(), [&]<class T>() {
        return solvers::hutchinson_diagonal<B, T>(backend(), as_function<T>(op), op.rows(), options, view<T>(mean), view<T>(squares));
    });
}

solvers::DiagonalResult xdiag(Operator& op, const solvers::EstimatorOptions& options, Array mean, Array squares, Array without) {
    return by_dtype(op.dtype(), [&]<class T>() {
        return solvers::xdiag<B, T>(backend(), as_function<T>(op), op.rows(), options, view<T>(mean), view<T>(squares), view<T>(without));
    });
}

solvers::Quadrature lanczos_quadrature(Operator& op, const solvers::QuadratureOptions& options) {
    return by_dtype(op.dtype(), [&]<class T>() {
        const solvers::Apply<T> apply = as_function<T>(op);
        return solvers::LanczosQuadrature<B, T>(backend(), apply, op.rows(), options).run();
    });
}

solvers::Small chebyshev_moments(Operator& op, double centre, double half, const solvers::QuadratureOptions& options) {
    return by_dtype(op.dtype(), [&]<class T>() {
        return solvers::chebyshev_moments<B, T>(backend(), as_function<T>(op), op.rows(), centre, half, options);
    });
}

std::vector<double> nystrom_factors(Operator& op, std::uint64_t seed, Array vectors) {
    return by_dtype(op.dtype(), [&]<class T>() {
        return solvers::nystrom_factors<B, T>(backend(), as_function<T>(op), op.rows(), seed, view<T>(vectors));
    });
}

std::unique_ptr<Operator> make_low_rank_update(DType dtype, Array vectors, std::vector<double> factors) {
    return by_dtype(
        dtype, [&]<class T>() -> std::unique_ptr<Operator> { return std::make_unique<LowRankUpdateOf<T>>(vectors, std::move(factors)); });
}

solvers::SolveResult solve(Operator& op, Operator* preconditioner, const solvers::SolveOptions& options, Array b, Array x) {
    return by_dtype(op.dtype(), [&]<class T>() {
        const solvers::Apply<T> apply = as_function<T>(op);
        solvers::Apply<T> precondition;
        if (preconditioner) precondition = as_function<T>(*preconditioner);
        return solvers::BlockCg<B, T>(backend(), apply, precondition, op.rows(), options).run(read<T>(b), view<T>(x));
    });
}

}  // namespace gnfast::api
