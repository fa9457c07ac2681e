#include "api/solvers.hpp"

#include "algo/solvers/cg_inverse.hpp"
#include "algo/solvers/davidson.hpp"
#include "algo/solvers/lanczos.hpp"
#include "algo/solvers/nystrom.hpp"
#include "api/dispatch.hpp"

namespace gnfast::api {

using dispatch::B, dispatch::backend, dispatch::view, dispatch::read, dispatch::by_dtype, dispatch::dtype_of, dispatch::as_function;

namespace {

template <class T>
class CgInverseOf final : public Operator {
   public:
    CgInverseOf(Operator& op, Operator* preconditioner, double damping, double tol, index max_iterations)
        : op_(op),
          inverse_(backend(), as_function<T>(op), preconditioner ? as_function<T>(*preconditioner) : solvers::Apply<T>(), op.rows(),
                   damping, tol, max_iterations) {}
    DType dtype() const override { return dtype_of<T>; }
    index rows() const override { return op_.rows(); }
    index cols() const override { return op_.cols(); }
    double resolution() const override { return op_.resolution(); }
    solvers::Inner* inner() override { return &inverse_.inner(); }
    void apply(Array in, Array out) override { inverse_(read<T>(in), view<T>(out)); }

   private:
    Operator& op_;
    solvers::CgInverse<B, T> inverse_;
};

}  // namespace

solvers::Result lanczos(Operator& op, const solvers::Options& options, Array vectors) {
    return by_dtype(op.dtype(),
                    [&]<class T>() { return solvers::lanczos<B, T>(backend(), as_function<T>(op), op.rows(), options, view<T>(vectors)); });
}

solvers::Result davidson(Operator& op, Operator* preconditioner, const solvers::Options& options, Array vectors) {
    return by_dtype(op.dtype(), [&]<class T>() {
        const solvers::Apply<T> inverse = preconditioner ? as_function<T>(*preconditioner) : solvers::Apply<T>();
        return solvers::davidson<B, T>(backend(), as_function<T>(op), inverse, op.rows(), options, view<T>(vectors));
    });
}

std::unique_ptr<Operator> make_cg_inverse(Operator& op, Operator* preconditioner, double damping, double tol, index max_iterations) {
    return by_dtype(op.dtype(), [&]<class T>() -> std::unique_ptr<Operator> {
        return std::make_unique<CgInverseOf<T>>(op, preconditioner, damping, tol, max_iterations);
    });
}

solvers::Result nystrom(Operator& op, const solvers::Options& options, Array vectors) {
    return by_dtype(op.dtype(),
                    [&]<class T>() { return solvers::nystrom<B, T>(backend(), as_function<T>(op), op.rows(), options, view<T>(vectors)); });
}

std::vector<double> ritz_errors(const std::vector<double>& values, const std::vector<double>& residuals) {
    std::vector<double> errors;
    for (std::size_t i = 0; i < residuals.size(); ++i) errors.push_back(solvers::ritz_error(values, residuals, i));
    return errors;
}

Asymmetry asymmetry(DType dtype, Array a) {
    return by_dtype(dtype, [&]<class T>() { return backend().asymmetry(read<T>(a)); });
}

}  // namespace gnfast::api
