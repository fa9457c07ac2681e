#include "cuda/cublas.hpp"

#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "cuda/runtime.hpp"

// cuBLAS' header renames some functions by macros: this is the name that the library has.
#define GNFAST_NAME_(x) #x
#define GNFAST_NAME(x) GNFAST_NAME_(x)

namespace gnfast::cuda {
namespace {

Cublas table;
std::string version;

template <class F>
void find(void* from, const char* name, F& routine) {
    routine = reinterpret_cast<F>(library::symbol(from, name));
    if (!routine)
        throw std::runtime_error(std::string("the cuBLAS that was found has no function ") + name + "; install one of CUDA 12 or 13");
}

// Handles that no thread uses, by device. They are never destroyed: at the end of the process the driver may be gone before us.
struct Pool {
    std::mutex lock;
    std::map<int, std::vector<cublasHandle_t>> free;
};

Pool& pool() {
    static Pool& one = *new Pool;
    return one;
}

// This thread's handles, which go back when it ends.
struct Mine {
    struct One {
        cublasHandle_t handle = nullptr;
        void* stream = nullptr;
    };
    std::map<int, One> by_device;

    Mine() = default;
    Mine(const Mine&) = delete;
    ~Mine() {
        const std::lock_guard guard(pool().lock);
        for (const auto& [device, one] : by_device) pool().free[device].push_back(one.handle);
    }

    One& at(int device) {
        const auto found = by_device.find(device);
        if (found != by_device.end()) return found->second;
        One one;
        {
            const std::lock_guard guard(pool().lock);
            std::vector<cublasHandle_t>& free = pool().free[device];
            if (!free.empty()) {
                one.handle = free.back();
                free.pop_back();
            }
        }
        if (!one.handle) check(cublas().create(&one.handle), "making a handle");
        check(cublas().set_stream(one.handle, handle_of(Stream{})), "setting the stream");
        return by_device[device] = one;
    }
};

thread_local Mine mine;

}  // namespace

std::string load_cublas(const std::string& path) {
    void* const from = library::open(path);
    if (!from) throw std::runtime_error(library::why_not(path));
    Cublas found;
    find(from, GNFAST_NAME(cublasGetProperty), found.get_property);
    find(from, GNFAST_NAME(cublasGetStatusString), found.status_string);
    find(from, GNFAST_NAME(cublasCreate), found.create);
    find(from, GNFAST_NAME(cublasSetStream), found.set_stream);
    find(from, GNFAST_NAME(cublasGemmEx_64), found.gemm);
    find(from, GNFAST_NAME(cublasGemmStridedBatchedEx_64), found.gemm_batch);
    find(from, GNFAST_NAME(cublasSsyrk_64), found.ssyrk);
    find(from, GNFAST_NAME(cublasDsyrk_64), found.dsyrk);
    find(from, GNFAST_NAME(cublasSsymm_64), found.ssymm);
    find(from, GNFAST_NAME(cublasDsymm_64), found.dsymm);
    find(from, GNFAST_NAME(cublasStrsm_64), found.strsm);
    find(from, GNFAST_NAME(cublasDtrsm_64), found.dtrsm);
    std::ostringstream numbers;
    for (const libraryPropertyType part : {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL}) {
        int value = 0;
        if (found.get_property(part, &value) != CUBLAS_STATUS_SUCCESS) throw std::runtime_error("cuBLAS does not tell its version");
        numbers << (part == MAJOR_VERSION ? "" : ".") << value;
    }
    table = found;
    version = numbers.str();
    return version;
}

std::string cublas_version() { return version; }

const Cublas& cublas() {
    if (version.empty()) throw std::runtime_error("cuBLAS has not been loaded; call set_cublas first");
    return table;
}

cublasHandle_t cublas_handle() {
    Mine::One& one = mine.at(current_device());
    void* const now = current_stream().handle;
    if (one.stream != now) {
        check(cublas().set_stream(one.handle, handle_of(current_stream())), "setting the stream");
        one.stream = now;
    }
    return one.handle;
}

void check(cublasStatus_t status, const std::string& what) {
    if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error("cuBLAS: " + what + " failed: " + table.status_string(status));
}

}  // namespace gnfast::cuda
