#include "api/solvers.hpp"

#include "algo/solvers/davidson.hpp"
#include "algo/solvers/lanczos.hpp"
#include "algo/solvers/nystrom.hpp"
#include "api/dispatch.hpp"

namespace gnfast::api {

using dispatch::B, dispatch::backend, dispatch::view, dispatch::read, dispatch::by_dtype, dispatch::as_function;

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

solvers::Result nystrom(Operator& op, const solvers::Options& options, Array vectors) {
    return by_dtype(op.dtype(),
                    [&]<class T>() { return solvers::nystrom<B, T>(backend(), as_function<T>(op), op.rows(), options, view<T>(vectors)); });
}

Asymmetry asymmetry(DType dtype, Array a) {
    return by_dtype(dtype, [&]<class T>() { return backend().asymmetry(read<T>(a)); });
}

}  // namespace gnfast::api
