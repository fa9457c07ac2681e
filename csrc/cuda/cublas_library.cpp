#include <dlfcn.h>

#include "cuda/cublas.hpp"

namespace gnfast::cuda::library {

// By path it stays loaded to the end: handles and kernels of its own live in it.
void* open(const std::string& path) {
    if (!path.empty()) return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    for (const char* name : {"libcublas.so.13", "libcublas.so.12"})
        if (void* found = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) return found;
    return nullptr;
}

void* symbol(void* library, const char* name) { return dlsym(library, name); }

std::string why_not(const std::string& path) {
    if (path.empty()) return "no cuBLAS of CUDA 12 or 13 is loaded; import cupy first, or pass the path of libcublas.so";
    const char* reason = dlerror();
    return "cuBLAS could not be loaded from '" + path + "': " + (reason ? reason : "no such library");
}

}  // namespace gnfast::cuda::library
