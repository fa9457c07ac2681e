// BLAS from SciPy, threads, random matrices, orders of entries, and what was built.
#include <pybind11/stl.h>

#include <optional>
#include <tuple>
#include <utility>

#include "bind/arrays.hpp"
#include "bind/register.hpp"
#include "cpu/blas.hpp"
#include "cpu/checksum.hpp"
#include "cpu/permute.hpp"
#include "cpu/threads.hpp"

namespace gnfast::bind {
namespace {

std::string thread_control;

// capsules: name -> capsule of scipy.linalg.cython_blas / cython_lapack. The capsule's name is the C signature:
// 32-bit integers and pointers everywhere, or the pointer is not taken.
void set_blas(const py::dict& capsules) {
    for (const auto& [key, value] : capsules) {
        const auto name = py::cast<std::string>(key);
        const auto capsule = py::reinterpret_borrow<py::capsule>(value);
        const std::string signature = capsule.name() ? capsule.name() : "";
        if (signature.rfind("void (char *", 0) != 0 || signature.find("int *") == std::string::npos ||
            signature.find("long") != std::string::npos)
            throw py::import_error("SciPy's " + name + " has the signature '" + signature +
                                   "' instead of Fortran's with 32-bit integers; install a SciPy built with an LP64 BLAS");
        if (!cpu::set_routine(name, capsule.get_pointer<void>())) throw py::import_error("the core has no use for the routine " + name);
    }
    if (!cpu::routines_complete()) throw py::import_error("SciPy did not provide all BLAS and LAPACK routines that gnfast needs");
    thread_control = cpu::find_thread_control();
}

}  // namespace

// Both libraries' BLAS on one thread between enter and exit.
struct OneBlasThread {
    std::optional<cpu::SingleThreadedBlas> scipy, numpy;
};

void register_runtime(py::module_& m) {
    py::class_<OneBlasThread>(m, "OneBlasThread", py::module_local())
        .def(py::init<>())
        .def("__enter__",
             [](OneBlasThread& self) {
                 self.scipy.emplace(cpu::Library::scipy);
                 self.numpy.emplace(cpu::Library::numpy);
             })
        .def("__exit__", [](OneBlasThread& self, const py::args&) {
            self.numpy.reset();
            self.scipy.reset();
        });
    m.def("set_blas", &set_blas);
    m.def("set_num_threads", &cpu::set_num_threads);
    m.def("get_num_threads", &cpu::num_threads);
    m.def("build_info", [] {
        py::dict info;
        info["version"] = GNFAST_VERSION;
        info["compiler"] = __VERSION__;
        info["openmp"] = _OPENMP;
#ifdef GNFAST_CUDA_TOOLKIT
        info["cuda"] = py::dict(py::arg("toolkit") = GNFAST_CUDA_TOOLKIT, py::arg("targets") = GNFAST_CUDA_TARGETS);
#else
        info["cuda"] = false;
#endif
#ifdef GNFAST_CUDA_MODULE
        add_cuda_info(info);
#endif
        info["blas_thread_control"] = thread_control;
        return info;
    });
    m.def("fill_normal", [](const array& out, std::uint64_t seed, std::uint64_t stream, double scale) {
        const api::DType dtype = dtype_of(out);
        const api::Array target = output(out, dtype, -1, -1);
        const py::gil_scoped_release release;
        api::fill_normal(dtype, target, seed, stream, scale);
    });
    m.def("fill_uniform", [](const array& out, std::uint64_t seed, std::uint64_t stream, double low, double high) {
        const api::DType dtype = dtype_of(out);
        const api::Array target = output(out, dtype, -1, -1);
        const py::gil_scoped_release release;
        api::fill_uniform(dtype, target, seed, stream, low, high);
    });
#ifndef GNFAST_CUDA_MODULE
    // Of each array, in C order and of any dtype, a number by which a change of it is noticed.
    m.def("checksums", [](const py::list& arrays) {
        std::vector<std::pair<const unsigned char*, index>> found;
        for (const py::handle one : arrays) {
            const auto a = py::cast<py::array>(one);
            if (!(a.flags() & py::array::c_style)) throw py::value_error("an array is not in C order");
            found.emplace_back(static_cast<const unsigned char*>(a.data()), a.nbytes());
        }
        std::vector<std::uint64_t> sums;
        const py::gil_scoped_release release;
        for (const auto& [bytes, count] : found) sums.push_back(cpu::checksum(bytes, count));
        return sums;
    });
    // arrays: (from, to, shape, axes) each, see cpu/permute.hpp
    m.def("permute_rows", [](const array& in, const array& out, const py::list& arrays) {
        const api::DType dtype = dtype_of(in);
        const api::Array source = input(in, dtype, -1, -1), target = output(out, dtype, source.rows, -1);
        std::vector<cpu::Permutation> found;
        for (const py::handle one : arrays) {
            const auto [from, to, shape, axes] = py::cast<std::tuple<index, index, std::vector<index>, std::vector<index>>>(one);
            found.push_back({from, to, shape, axes});
        }
        const py::gil_scoped_release release;
        const auto permute = [&]<class T>(T* from, T* to) {
            cpu::permute_rows(View<const T>(from, source.rows, source.cols), View<T>(to, target.rows, target.cols), found);
        };
        if (dtype == api::DType::float32)
            permute(static_cast<float*>(source.data), static_cast<float*>(target.data));
        else
            permute(static_cast<double*>(source.data), static_cast<double*>(target.data));
    });
#endif
    m.def("cholesky", [](const array& a) {
        const api::DType dtype = dtype_of(a);
        const api::Array target = output(a, dtype, -1, rows_of(a));
        const py::gil_scoped_release release;
        return api::cholesky(dtype, target);
    });
}

}  // namespace gnfast::bind
