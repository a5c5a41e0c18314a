# Compiles every .cu for every architecture without a GPU, prints registers and spills, fails on a spill; and checks
# that csrc/cuda/*.cpp parses, also against a torch without CUDA.
find_program(NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(NOT NVCC)
  message(FATAL_ERROR "WITH_CUDA: nvcc was not found on PATH or under CUDA_HOME; install the CUDA toolkit")
endif()
file(REAL_PATH ${NVCC} nvcc_path)
get_filename_component(cuda_home ${nvcc_path}/../.. REALPATH)

set(gate_outputs "")
foreach(source IN LISTS MMSSL_CUDA_KERNELS)
  get_filename_component(name ${source} NAME_WE)
  # The code for the host is the same for every architecture, and half of the work: it is compiled with the first.
  set(output_kind -c)
  foreach(arch IN LISTS MMSSL_CUDA_ARCHS)
    set(object ${CMAKE_BINARY_DIR}/cuda/${name}.sm_${arch}.o)
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/ptxas_gate.py ${NVCC} ${output_kind} ${CMAKE_SOURCE_DIR}/${source} -o ${object}
              -arch=sm_${arch} -Xptxas -v -ccbin ${CMAKE_CXX_COMPILER} -I ${CMAKE_SOURCE_DIR}/csrc ${MMSSL_NVCC_FLAGS}
              -MD -MF ${object}.d
      DEPENDS ${CMAKE_SOURCE_DIR}/${source} ${CMAKE_SOURCE_DIR}/cmake/ptxas_gate.py
      DEPFILE ${object}.d
      COMMENT "nvcc ${source} sm_${arch}"
      VERBATIM)
    list(APPEND gate_outputs ${object})
    set(output_kind -cubin)
  endforeach()
endforeach()
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
add_custom_target(cuda_gate ALL DEPENDS ${gate_outputs})

if(MMSSL_CUDA_BINDINGS AND TORCH_INCLUDE_DIRS)
  # A CPU torch ships c10/cuda's headers without the file its CUDA build generates.
  file(WRITE ${CMAKE_BINARY_DIR}/stub/c10/cuda/impl/cuda_cmake_macros.h "#pragma once\n")
  add_library(cuda_bindings OBJECT ${MMSSL_CUDA_BINDINGS})
  target_include_directories(cuda_bindings PRIVATE csrc)
  target_include_directories(cuda_bindings SYSTEM PRIVATE ${TORCH_INCLUDE_DIRS} ${cuda_home}/include
                                                          ${CMAKE_BINARY_DIR}/stub)
  target_compile_options(cuda_bindings PRIVATE ${MMSSL_CXX_FLAGS} -fsyntax-only)
endif()

# All of the gate and nothing else: cmake --build DIR --target cuda
add_custom_target(cuda)
add_dependencies(cuda cuda_gate)
if(TARGET cuda_bindings)
  add_dependencies(cuda cuda_bindings)
endif()

list(LENGTH MMSSL_CUDA_KERNELS n_kernels)
message(STATUS "CUDA gate: ${n_kernels} file(s) with ${NVCC} for sm_${MMSSL_CUDA_ARCHS}")
