#include "cpu/blas.hpp"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <mutex>

namespace gnfast::cpu {
namespace {

template <class F>
bool assign(F*& routine, void* p) {
    routine = reinterpret_cast<F*>(p);
    return true;
}

template <class T>
bool set_one(const std::string& name, void* p) {
    using B = Blas<T>;
    if (name == "gemm") return assign(B::gemm, p);
    if (name == "symm") return assign(B::symm, p);
    if (name == "trsm") return assign(B::trsm, p);
    if (name == "syrk") return assign(B::syrk, p);
    if (name == "potrf") return assign(B::potrf, p);
    if (name == "syevd") return assign(B::syevd, p);
    return false;
}

template <class T>
bool complete() {
    using B = Blas<T>;
    return B::gemm && B::symm && B::trsm && B::syrk && B::potrf && B::syevd;
}

struct ThreadControl {
    int (*get)() = nullptr;
    void (*set)(int) = nullptr;
    std::mutex lock;
    int guards = 0;
    int saved = 0;
};

ThreadControl& control() {
    static ThreadControl one;
    return one;
}

// SciPy's wheels bundle libscipy_openblas with a hashed file name, distributions ship libopenblas; NumPy's own copy
// (integer suffix 64_) is another library and is left alone.
struct Found {
    std::string get_name;
};

int visit(dl_phdr_info* info, std::size_t, void* data) {
    if (!info->dlpi_name || !std::strstr(info->dlpi_name, "openblas")) return 0;
    void* handle = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) return 0;
    for (const char* prefix : {"scipy_openblas", "openblas"}) {
        const std::string base(prefix);
        void* get = dlsym(handle, (base + "_get_num_threads").c_str());
        void* set = dlsym(handle, (base + "_set_num_threads").c_str());
        if (get && set) {
            control().get = reinterpret_cast<int (*)()>(get);
            control().set = reinterpret_cast<void (*)(int)>(set);
            static_cast<Found*>(data)->get_name = base + "_set_num_threads";
            return 1;
        }
    }
    return 0;
}

}  // namespace

bool set_routine(const std::string& name, void* pointer) {
    if (name.empty()) return false;
    return name[0] == 's' ? set_one<float>(name.substr(1), pointer) : set_one<double>(name.substr(1), pointer);
}

bool routines_complete() { return complete<float>() && complete<double>(); }

std::string find_thread_control() {
    Found found;
    dl_iterate_phdr(visit, &found);
    return found.get_name;
}

SingleThreadedBlas::SingleThreadedBlas() {
    ThreadControl& c = control();
    if (!c.set) return;
    const std::lock_guard guard(c.lock);
    if (c.guards++ == 0) {
        c.saved = c.get();
        if (c.saved != 1) c.set(1);
    }
}

SingleThreadedBlas::~SingleThreadedBlas() {
    ThreadControl& c = control();
    if (!c.set) return;
    const std::lock_guard guard(c.lock);
    if (--c.guards == 0 && c.saved != 1) c.set(c.saved);
}

}  // namespace gnfast::cpu
