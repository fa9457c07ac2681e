// BLAS and LAPACK by function pointer, as SciPy hands them out: nothing to link, nothing to find.
#pragma once

#include <string>

namespace gnfast::cpu {

// The routines used, by precision. All take Fortran's calling convention with 32-bit integers.
template <class T>
struct Blas {
    using gemm_t = void(char*, char*, int*, int*, int*, T*, T*, int*, T*, int*, T*, T*, int*);
    using symm_t = void(char*, char*, int*, int*, T*, T*, int*, T*, int*, T*, T*, int*);
    using trsm_t = void(char*, char*, char*, char*, int*, int*, T*, T*, int*, T*, int*);
    using syrk_t = void(char*, char*, int*, int*, T*, T*, int*, T*, T*, int*);
    using potrf_t = void(char*, int*, T*, int*, int*);
    using syevd_t = void(char*, char*, int*, T*, int*, T*, T*, int*, int*, int*, int*);
    using syev_t = void(char*, char*, int*, T*, int*, T*, T*, int*, int*);
    static inline gemm_t* gemm = nullptr;
    static inline symm_t* symm = nullptr;
    static inline trsm_t* trsm = nullptr;
    static inline syrk_t* syrk = nullptr;
    static inline potrf_t* potrf = nullptr;
    static inline syevd_t* syevd = nullptr;
    static inline syev_t* syev = nullptr;
};

// Stores one pointer by its BLAS name ("dgemm"); false for a name that is not used.
bool set_routine(const std::string& name, void* pointer);
bool routines_complete();

// Finds the thread controls of the OpenBLAS that SciPy and NumPy loaded, if that is what these are; returns SciPy's symbol or "".
std::string find_thread_control();

enum class Library { scipy, numpy };

// While one of these lives, that library's BLAS runs on the calling thread alone. The count of guards is shared by all
// threads, so that overlapping calls from several Python threads restore the right number.
class SingleThreadedBlas {
   public:
    explicit SingleThreadedBlas(Library library = Library::scipy);
    ~SingleThreadedBlas();
    SingleThreadedBlas(const SingleThreadedBlas&) = delete;
    SingleThreadedBlas& operator=(const SingleThreadedBlas&) = delete;

   private:
    Library library_;
};

}  // namespace gnfast::cpu
