# Finds nvcc and compiles src/kernels/cuda/*.cu. CMake's own CUDA language is not used: 3.25 does not know nvcc 13, and here
# two kinds of files want different targets. cuBLAS is opened at run time (src/kernels/cuda/cublas.cpp).
find_program(AWQ_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(AWQ_NVCC)
  find_package(CUDAToolkit 12.8 QUIET)
endif()
if(AWQ_NVCC AND CUDAToolkit_FOUND AND TARGET CUDA::cudart_static)
  set(AWQ_CUDA_FOUND TRUE)
  message(STATUS "CUDA ${CUDAToolkit_VERSION}: ${AWQ_NVCC}")
elseif(AWQ_CUDA STREQUAL "ON")
  message(FATAL_ERROR "AWQ_CUDA=ON: nvcc and the CUDA runtime (12.8 or later) were not found")
endif()

# awq_compile_cuda(OUT source...): objects of .cu files. Files named *_sm90.cu use Hopper's own instructions; the others are
# compiled for Hopper and for compute capability 8.0, whose code also runs on 8.6 to 8.9 and starts newer devices.
function(awq_compile_cuda out)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
  set(objects "")
  foreach(source ${ARGN})
    set(targets -gencode arch=compute_90a,code=sm_90a)
    if(NOT source MATCHES "_sm90\\.cu$")
      list(APPEND targets -gencode "arch=compute_80,code=[compute_80,sm_80]")
    endif()
    file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${source})
    string(REPLACE "/" "_" name ${name})
    set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${AWQ_NVCC} -std=c++20 -O3 --extended-lambda ${targets} -Xcompiler=-fPIC -I${CMAKE_SOURCE_DIR}/src
        -MD -MF ${object}.d -c ${source} -o ${object}
      DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${name}" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()

# The static library awq_cuda, and headers for the host files in src/kernels/cuda.
function(awq_add_cuda_kernels)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/cuda/*.cu)
  awq_compile_cuda(objects ${sources})
  add_library(awq_cuda STATIC ${objects})
  set_target_properties(awq_cuda PROPERTIES LINKER_LANGUAGE CXX)
  target_link_libraries(awq_cuda PUBLIC CUDA::cudart_static ${CMAKE_DL_LIBS})
  foreach(room kernels model)
    target_include_directories(awq_${room} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  endforeach()
endfunction()
