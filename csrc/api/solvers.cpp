#include "api/solvers.hpp"

#include "algo/solvers/davidson.hpp"
#include "algo/solvers/lanczos.hpp"
#include "algo/solvers/nystrom.hpp"
#include "cpu/cpu_backend.hpp"

namespace gnfast::api {
namespace {

using B = cpu::CpuBackend;

B& backend() {
    static B one;
    return one;
}

template <class T>
View<T> view(Array a) {
    return {static_cast<T*>(a.data), a.rows, a.cols};
}

template <class T>
solvers::Apply<T> as_function(Operator& op) {
    return [&op](View<const T> in, View<T> out) { op.apply({const_cast<T*>(in.data), in.rows, in.cols}, {out.data, out.rows, out.cols}); };
}

template <class F>
auto dispatch(DType dtype, F&& f) {
    return dtype == DType::float32 ? f.template operator()<float>() : f.template operator()<double>();
}

}  // namespace

solvers::Result lanczos(Operator& op, const solvers::Options& options, Array vectors) {
    return dispatch(op.dtype(),
                    [&]<class T>() { return solvers::lanczos<B, T>(backend(), as_function<T>(op), op.rows(), options, view<T>(vectors)); });
}

solvers::Result davidson(Operator& op, Operator* preconditioner, const solvers::Options& options, Array vectors) {
    return dispatch(op.dtype(), [&]<class T>() {
        const solvers::Apply<T> inverse = preconditioner ? as_function<T>(*preconditioner) : solvers::Apply<T>();
        return solvers::davidson<B, T>(backend(), as_function<T>(op), inverse, op.rows(), options, view<T>(vectors));
    });
}

solvers::Result nystrom(Operator& op, const solvers::Options& options, Array vectors) {
    return dispatch(op.dtype(),
                    [&]<class T>() { return solvers::nystrom<B, T>(backend(), as_function<T>(op), op.rows(), options, view<T>(vectors)); });
}

Asymmetry asymmetry(DType dtype, Array a) {
    return dispatch(dtype, [&]<class T>() -> Asymmetry {
        const auto found = backend().asymmetry(View<const T>(view<T>(a)));
        return {found.scale, found.difference, found.finite};
    });
}

}  // namespace gnfast::api
