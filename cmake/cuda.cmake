# The module for GPUs, _core_cuda: nvcc for csrc/cuda/*.cu alone, everything else by the host compiler. CUDA's runtime is linked
# statically, cuBLAS not at all (csrc/cuda/cublas.hpp): the module loads where there is neither.
#
# nvcc, the runtime and cuBLAS' headers come from a toolkit or from NVIDIA's wheels (nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-nvvm,
# nvidia-cuda-runtime, nvidia-cuda-cccl, nvidia-cublas), wherever Python finds these.

execute_process(COMMAND "${Python_EXECUTABLE}" -c "import nvidia; print(';'.join(f'{p}/cu13' for p in nvidia.__path__))"
                OUTPUT_VARIABLE gnfast_wheels OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)

find_program(GNFAST_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda ${gnfast_wheels} PATH_SUFFIXES bin)
set(gnfast_missing "")
if(GNFAST_NVCC)
  # A script in front of it knows better than its path where the toolkit is.
  execute_process(COMMAND "${GNFAST_NVCC}" --dryrun -E -x cu /dev/null ERROR_VARIABLE gnfast_dryrun OUTPUT_QUIET)
  string(REGEX MATCH "TOP=([^\n]+)" _ "${gnfast_dryrun}")
  get_filename_component(gnfast_toolkit "${CMAKE_MATCH_1}" REALPATH)
  execute_process(COMMAND "${GNFAST_NVCC}" --version OUTPUT_VARIABLE gnfast_version)
  string(REGEX MATCH "release ([0-9.]+)" _ "${gnfast_version}")
  set(gnfast_version ${CMAKE_MATCH_1})
else()
  list(APPEND gnfast_missing "nvcc")
endif()

find_path(GNFAST_CUDA_INCLUDE cuda_runtime_api.h HINTS ${gnfast_toolkit} PATHS ${gnfast_wheels} PATH_SUFFIXES include)
find_library(GNFAST_CUDART cudart_static HINTS ${gnfast_toolkit} PATHS ${gnfast_wheels} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
find_path(GNFAST_CUBLAS_INCLUDE cublas_v2.h HINTS ${gnfast_toolkit} PATHS ${gnfast_wheels} PATH_SUFFIXES include)
foreach(part IN ITEMS "GNFAST_CUDA_INCLUDE;the headers of CUDA's runtime" "GNFAST_CUDART;libcudart_static" "GNFAST_CUBLAS_INCLUDE;the headers of cuBLAS")
  list(GET part 0 variable)
  list(GET part 1 words)
  if(NOT ${variable})
    list(APPEND gnfast_missing "${words}")
  endif()
endforeach()

if(gnfast_missing)
  list(JOIN gnfast_missing ", " gnfast_missing)
  if(GNFAST_CUDA STREQUAL "ON")
    message(FATAL_ERROR "GNFAST_CUDA is ON but these were not found: ${gnfast_missing}. Install CUDA's toolkit, or the wheels that "
                        "cmake/cuda.cmake names, or set GNFAST_CUDA to OFF.")
  endif()
  message(STATUS "gnfast: no module for GPUs, since these were not found: ${gnfast_missing}")
  return()
endif()

# Machine code for A100, H100 and H200, B200 as far as this nvcc knows them, and PTX of the newest of them for what comes later.
execute_process(COMMAND "${GNFAST_NVCC}" --list-gpu-arch OUTPUT_VARIABLE gnfast_known)
set(gnfast_targets "")
set(gnfast_gencode "")
foreach(target 80 90 100)
  if(gnfast_known MATCHES "compute_${target}\n")
    list(APPEND gnfast_targets sm_${target})
    list(APPEND gnfast_gencode -gencode arch=compute_${target},code=sm_${target})
    set(gnfast_newest ${target})
  endif()
endforeach()
list(APPEND gnfast_targets compute_${gnfast_newest})
list(APPEND gnfast_gencode -gencode arch=compute_${gnfast_newest},code=compute_${gnfast_newest})
list(JOIN gnfast_targets " " gnfast_targets)
message(STATUS "gnfast: a module for GPUs by CUDA ${gnfast_version} for ${gnfast_targets}")

set(gnfast_nvcc_flags -ccbin "${CMAKE_CXX_COMPILER}" -std=c++20 -O3 --extended-lambda -Xcompiler=-fPIC,-fvisibility=hidden,-Wall
    -I "${PROJECT_SOURCE_DIR}/csrc")
if(GNFAST_WERROR)
  list(APPEND gnfast_nvcc_flags -Werror all-warnings)
endif()
set(gnfast_objects "")
foreach(source ${gnfast_kernels})
  get_filename_component(name ${source} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(OUTPUT ${object} COMMAND "${GNFAST_NVCC}" ${gnfast_nvcc_flags} ${gnfast_gencode} -MD -MF ${object}.d -c ${source} -o ${object}
                     DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${name}.cu" COMMAND_EXPAND_LISTS VERBATIM)
  list(APPEND gnfast_objects ${object})
endforeach()
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/cuda)
set_source_files_properties(${gnfast_objects} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)

set(gnfast_cuda_words GNFAST_CUDA_TOOLKIT="${gnfast_version}" GNFAST_CUDA_TARGETS="${gnfast_targets}")
target_compile_definitions(_core PRIVATE ${gnfast_cuda_words})
add_library(gnfast_engine_cuda STATIC ${gnfast_api} ${gnfast_cuda} csrc/cuda/cublas_library.cpp ${gnfast_objects})
target_compile_definitions(gnfast_engine_cuda PUBLIC GNFAST_CUDA_MODULE)
target_include_directories(gnfast_engine_cuda SYSTEM PUBLIC ${GNFAST_CUDA_INCLUDE} ${GNFAST_CUBLAS_INCLUDE})
find_package(Threads REQUIRED)
target_link_libraries(gnfast_engine_cuda PUBLIC gnfast_host ${GNFAST_CUDART} Threads::Threads rt)
gnfast_module(_core_cuda gnfast_engine_cuda csrc/bind/cuda.cpp)
target_compile_definitions(_core_cuda PRIVATE ${gnfast_cuda_words})
target_link_options(_core_cuda PRIVATE -Wl,--exclude-libs,ALL) # two modules in one process must not share CUDA's runtime by chance
install(TARGETS _core_cuda LIBRARY DESTINATION gnfast)
