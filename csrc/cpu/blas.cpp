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
    if (name == "syev") return assign(B::syev, p);
    return false;
}

template <class T>
bool complete() {
    using B = Blas<T>;
    return B::gemm && B::symm && B::trsm && B::syrk && B::potrf && B::syevd && B::syev;
}

struct ThreadControl {
    int (*get)() = nullptr;
    void (*set)(int) = nullptr;
    std::mutex lock;
    int guards = 0;
    int saved = 0;
};

ThreadControl& control(Library library) {
    static ThreadControl both[2];
    return both[library == Library::numpy ? 1 : 0];
}

// SciPy's wheels bundle libscipy_openblas with a hashed file name, distributions ship libopenblas; NumPy's wheels bundle another
// copy, whose names end in 64_.
struct Found {
    std::string set_name;
};

int visit(dl_phdr_info* info, std::size_t, void* data) {
    if (!info->dlpi_name || !std::strstr(info->dlpi_name, "openblas")) return 0;
    void* handle = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) return 0;
    for (const Library library : {Library::scipy, Library::numpy})
        for (const char* prefix : {"scipy_openblas", "openblas"}) {
            ThreadControl& found = control(library);
            const std::string base(prefix), suffix = library == Library::numpy ? "64_" : "";
            void* get = dlsym(handle, (base + "_get_num_threads" + suffix).c_str());
            void* set = dlsym(handle, (base + "_set_num_threads" + suffix).c_str());
            if (!get || !set || found.set) continue;
            found.get = reinterpret_cast<int (*)()>(get);
            found.set = reinterpret_cast<void (*)(int)>(set);
            if (library == Library::scipy) static_cast<Found*>(data)->set_name = base + "_set_num_threads";
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
    return found.set_name;
}

SingleThreadedBlas::SingleThreadedBlas(Library library) : library_(library) {
    ThreadControl& c = control(library);
    if (!c.set) return;
    const std::lock_guard guard(c.lock);
    if (c.guards++ == 0) {
        c.saved = c.get();
        if (c.saved != 1) c.set(1);
    }
}

SingleThreadedBlas::~SingleThreadedBlas() {
    ThreadControl& c = control(library_);
    if (!c.set) return;
    const std::lock_guard guard(c.lock);
    if (--c.guards == 0 && c.saved != 1) c.set(c.saved);
}

}  // namespace gnfast::cpu
