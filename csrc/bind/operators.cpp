#include <pybind11/stl.h>

#include "bind/arrays.hpp"
#include "bind/register.hpp"

namespace gnfast::bind {
namespace {

Method method_of(const std::string& name) {
    if (name == "auto") return Method::automatic;
    if (name == "usual") return Method::usual;
    if (name == "factored") return Method::factored;
    if (name == "stored") return Method::stored;
    throw py::value_error("method '" + name + "' is not known to the core");
}

// f(in, out) on blocks (s, in_cols) -> (s, out_cols), without the GIL.
template <class F>
void product(api::DType dtype, const array& in, index in_cols, const array& out, index out_cols, F&& f) {
    const api::Array from = input(in, dtype, -1, in_cols);
    const api::Array to = output(out, dtype, from.rows, out_cols);
    const py::gil_scoped_release release;
    f(from, to);
}

const char* name_of(Method method) { return method == Method::factored ? "factored" : method == Method::stored ? "stored" : "usual"; }

// How products with so many vectors are made.
struct Plan {
    ProductPlan plan;
    Method method;
    bool coupled;

    double flops() const {
        return method == Method::factored ? plan.flops_factored : method == Method::stored ? plan.flops_stored : plan.flops_usual;
    }
};

template <auto member>
auto of_plan() {
    return [](const Plan& self) { return self.plan.*member; };
}

// Any symmetric operator of Python's: a callable that takes a block (s, n) and returns one. The callable may lead back to what keeps the
// operator, a method of its owner for instance: Python's collector is shown it.
class CallbackOperator final : public api::Operator {
   public:
    CallbackOperator(py::function f, index size, const std::string& dtype)
        : f_(std::move(f)), size_(size), dtype_(dtype == "float32" ? api::DType::float32 : api::DType::float64) {}
    api::DType dtype() const override { return dtype_; }
    index rows() const override { return size_; }
    index cols() const override { return size_; }
    void apply(api::Array in, api::Array out) override {
        const py::gil_scoped_acquire gil;
        const array block = new_array(dtype_, in.rows, in.cols);
        api::copy(dtype_, in, output(block, dtype_, in.rows, in.cols));
        array result;
        if (!f_) throw py::value_error("an operator was used after Python had collected its function");
        interruptible([&] { result = py::cast<array>(f_(block)); });
        api::copy(dtype_, input(result, dtype_, out.rows, out.cols), out);
    }
    PyObject* function() const { return f_.ptr(); }
    void clear() { const py::function dropped = std::move(f_); }  // which may run anything: f_ is empty by then

   private:
    py::function f_;
    index size_;
    api::DType dtype_;
};

// The operator in a Python object; null until it has been made, and once it is gone.
CallbackOperator* callback_in(PyObject* self) {
    const py::detail::value_and_holder found = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder();
    return found.holder_constructed() ? static_cast<CallbackOperator*>(found.value_ptr()) : nullptr;
}

// What an operator keeps alive (py::keep_alive): other operators may be parts of a cycle.
int visit_kept(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!reinterpret_cast<py::detail::instance*>(self)->has_patients) return 0;
    const auto& patients = py::detail::get_internals().patients;
    const auto found = patients.find(self);
    if (found == patients.end()) return 0;
    for (PyObject* kept : found->second) Py_VISIT(kept);
    return 0;
}

// Operators take part in Python's search for cycles. Only a callable's are broken here: a cycle of nothing but the core's operators cannot
// be made, and what else there is of Python's breaks its own.
void collected(PyHeapTypeObject* heap) {
    PyTypeObject& type = heap->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = &visit_kept;
    type.tp_clear = [](PyObject*) { return 0; };
}

void collected_with_function(PyHeapTypeObject* heap) {
    PyTypeObject& type = heap->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
        if (const CallbackOperator* op = callback_in(self)) Py_VISIT(op->function());
        return visit_kept(self, visit, arg);
    };
    type.tp_clear = [](PyObject* self) {
        if (CallbackOperator* op = callback_in(self)) op->clear();
        return 0;
    };
}

}  // namespace

void register_operators(py::module_& m) {
    py::class_<api::Operator>(m, "Operator", py::module_local(), py::custom_type_setup(&collected))
        .def_property_readonly("size", &api::Operator::cols)
        .def("apply", [](api::Operator& self, const array& in, const array& out) {
            product(self.dtype(), in, self.cols(), out, self.rows(), [&](api::Array from, api::Array to) { self.apply(from, to); });
        });

    py::class_<Plan>(m, "ProductPlan", py::module_local())
        .def_property_readonly("method", [](const Plan& self) { return name_of(self.method); })
        .def_property_readonly("flops", &Plan::flops)
        .def_readonly("coupled", &Plan::coupled)
        .def_property_readonly("sample_block", of_plan<&ProductPlan::sample_block>())
        .def_property_readonly("vector_block", of_plan<&ProductPlan::vector_block>())
        .def_property_readonly("flops_usual", of_plan<&ProductPlan::flops_usual>())
        .def_property_readonly("flops_factored", of_plan<&ProductPlan::flops_factored>())
        .def_property_readonly("flops_stored", of_plan<&ProductPlan::flops_stored>())
        .def_property_readonly("flops_rows", of_plan<&ProductPlan::flops_rows>())
        .def_property_readonly("bytes_forward", of_plan<&ProductPlan::bytes_forward>())
        .def_property_readonly("bytes_rows", of_plan<&ProductPlan::bytes_rows>())
        .def_property_readonly("bytes_workspace", of_plan<&ProductPlan::bytes_workspace>());

    py::class_<api::GaussNewton, api::Operator>(m, "GaussNewton", py::module_local())
        .def(py::init([](const api::Network& network, const array& x, const std::string& loss, const py::object& given, double scale,
                         const std::string& method, double memory_limit) {
                 const api::Array in = input(x, network.dtype(), -1, network.inputs());
                 api::Array terms;
                 if (!given.is_none()) terms = input(py::cast<array>(given), network.dtype(), -1, network.outputs());
                 const py::gil_scoped_release release;
                 return api::make_gauss_newton(network, in, loss_of(loss), terms, scale, method_of(method), memory_limit);
             }),
             py::keep_alive<1, 2>(), py::keep_alive<1, 3>(), py::keep_alive<1, 5>())
        .def("plan", [](const api::GaussNewton& self,
                        index vectors) { return Plan{self.plan(), self.method_for(vectors), self.couples_samples()}; })
        .def("diagonal",
             [](api::GaussNewton& self, const array& out) {
                 const api::Array to = output(out, self.dtype(), 1, self.cols());
                 const py::gil_scoped_release release;
                 self.diagonal(to);
             })
        .def("kronecker_factors",
             [](api::GaussNewton& self, const std::vector<std::tuple<index, array, array>>& all) {
                 std::vector<api::GaussNewton::Moments> moments;
                 for (const auto& [offset, inputs, outputs] : all)
                     moments.push_back({offset, output(inputs, api::DType::float64, -1, -1), output(outputs, api::DType::float64, -1, -1)});
                 const py::gil_scoped_release release;
                 self.kronecker_factors(moments);
             })
        .def("jvp",
             [](api::GaussNewton& self, const array& v, const array& u) {
                 product(self.dtype(), v, self.cols(), u, self.samples() * self.outputs(),
                         [&](api::Array from, api::Array to) { self.jvp(from, to); });
             })
        .def("vjp", [](api::GaussNewton& self, const array& u, const array& v) {
            product(self.dtype(), u, self.samples() * self.outputs(), v, self.cols(),
                    [&](api::Array from, api::Array to) { self.vjp(from, to); });
        });

    py::class_<api::Dual, api::Operator>(m, "Dual", py::module_local())
        .def("lift",
             [](api::Dual& self, const array& v, const array& out, index parameters) {
                 product(self.dtype(), v, self.cols(), out, parameters, [&](api::Array from, api::Array to) { self.lift(from, to); });
             })
        .def("restrict",
             [](api::Dual& self, const array& v, const array& out, index parameters) {
                 product(self.dtype(), v, parameters, out, self.rows(),
                         [&](api::Array from, api::Array to) { self.restrict_to_dual(from, to); });
             })
        .def("mean_over_outputs", [](api::Dual& self, const array& out) {
            const api::Array to = output(out, self.dtype(), -1, -1);
            const py::gil_scoped_release release;
            self.mean_over_outputs(to);
        });

    py::class_<api::Gram, api::Dual>(m, "Gram", py::module_local())
        .def(py::init([](api::GaussNewton& owner, bool reduced, index first, index last) {
                 const py::gil_scoped_release release;
                 return api::make_gram(owner, reduced, first, last);
             }),
             py::keep_alive<1, 2>())
        .def("diagonal",
             [](api::Gram& self) {
                 std::vector<double> found;
                 {
                     const py::gil_scoped_release release;
                     found = self.diagonal();
                 }
                 return py::array_t<double>(static_cast<py::ssize_t>(found.size()), found.data());
             })
        .def("form", [](api::Gram& self, const array& out, const py::object& progress) {
            const api::Array to = output(out, self.dtype(), self.rows(), self.rows());
            const Monitor monitor = monitor_of(progress);
            const py::gil_scoped_release release;
            self.form(to, monitor);
        });

    py::class_<api::LinearDual, api::Dual>(m, "LinearDual", py::module_local())
        .def(py::init([](const api::Network& network, const array& range, bool affine) {
                 const api::Array in = input(range, network.dtype(), -1, network.inputs() + (affine ? 1 : 0));
                 const py::gil_scoped_release release;
                 return api::make_linear_dual(network, in, affine);
             }),
             py::keep_alive<1, 2>())
        .def("factors", [](const api::LinearDual& self, const array& p, const array& r) {
            self.factors(output(p, self.dtype(), -1, -1), output(r, self.dtype(), -1, -1));
        });

    py::class_<api::KroneckerSum, api::Operator>(m, "KroneckerSum", py::module_local())
        .def(py::init([](const array& p, const array& r) {
            const api::DType dtype = dtype_of(p);
            const api::Array left = input(p, dtype, -1, -1), right = input(r, dtype, -1, -1);
            const py::gil_scoped_release release;
            return api::make_kronecker_sum(dtype, left, right);
        }))
        .def("mean_over_outputs", [](api::KroneckerSum& self, const array& out) {
            const api::Array to = output(out, self.dtype(), -1, -1);
            const py::gil_scoped_release release;
            self.mean_over_outputs(to);
        });

    m.def(
        "stored", [](const array& lower) { return api::make_stored(dtype_of(lower), input(lower, dtype_of(lower), -1, rows_of(lower))); },
        py::keep_alive<0, 1>());
    m.def(
        "cholesky_inverse",
        [](const array& lower, index copies, bool interleaved) {
            return api::make_cholesky_inverse(dtype_of(lower), input(lower, dtype_of(lower), -1, rows_of(lower)), copies, interleaved);
        },
        py::keep_alive<0, 1>());
    py::class_<api::InUnits, api::Operator>(m, "InUnits", py::module_local())
        .def(py::init([](api::Operator& op) { return api::make_in_units(op); }), py::keep_alive<1, 2>())
        .def_property_readonly("exponent", &api::InUnits::exponent)
        .def("settle", [](api::InUnits& self, double at_least) {
            const py::gil_scoped_release release;
            self.settle(at_least);
        });
    m.def("widened", &api::make_widened, py::keep_alive<0, 1>());
    py::class_<CallbackOperator, api::Operator>(m, "Callback", py::module_local(), py::custom_type_setup(&collected_with_function));
    m.def("callback", [](py::function f, index size, const std::string& dtype) {
        return std::make_unique<CallbackOperator>(std::move(f), size, dtype);
    });
}

}  // namespace gnfast::bind
