# CAIRN_CHECK_CUDA: the cuda backend, a plug-in that is built if --with-cuda asks for it. Sets NVCC, NVCC_WARN_FLAGS, CUDA_ARCH_FLAGS,
# CUDA_LIBDIR, CUDNN_CPPFLAGS and the condition HAVE_CUDA.
AC_DEFUN([CAIRN_CHECK_CUDA], [
  AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda@<:@=DIR@:>@],
    [build the cuda backend with the CUDA toolkit in DIR (/usr/local/cuda, or nvcc's of PATH)])], [], [with_cuda=unset])
  AC_ARG_WITH([cuda-arch], [AS_HELP_STRING([--with-cuda-arch=LIST],
    [GPUs that the cuda backend is compiled for (80 90a 100, but for those that nvcc does not know)])], [], [with_cuda_arch=])
  AC_ARG_VAR([NVCC], [CUDA's compiler])
  AS_CASE([$with_cuda], [unset|yes|no], [cairn_cuda_path=/usr/local/cuda/bin$PATH_SEPARATOR$PATH], [cairn_cuda_path=$with_cuda/bin])
  AS_IF([test "x$with_cuda" != xno], [AC_PATH_PROG([NVCC], [nvcc], [], [$cairn_cuda_path])])
  AS_CASE([$with_cuda],
    [no], [cairn_cuda_summary="left out"],
    [unset], [AS_IF([test -n "$NVCC"], [cairn_cuda_summary="left out; --with-cuda builds it ($NVCC is there)"],
      [cairn_cuda_summary="left out: no CUDA toolkit"])],
    [CAIRN_USE_CUDA])
  AM_CONDITIONAL([HAVE_CUDA], [test "x$cairn_cuda_used" = xyes])])

AC_DEFUN([CAIRN_USE_CUDA], [
  AS_IF([test -z "$NVCC"], [AC_MSG_ERROR([no nvcc in $cairn_cuda_path: give the CUDA toolkit's folder to --with-cuda])])
  cairn_cuda_version=`$NVCC --version | $SED -n 's/.*release \([[0-9.]]*\).*/\1/p'`
  # The folder that nvcc is in, wherever the links to it are.
  cairn_cuda_root=`readlink -f "$NVCC"`
  cairn_cuda_root=`dirname "$cairn_cuda_root"`
  cairn_cuda_root=`dirname "$cairn_cuda_root"`
  CAIRN_CUDA_ARCHITECTURES
  CAIRN_CUDA_LIBRARIES
  NVCC_WARN_FLAGS="-Wall -Wextra"
  AS_IF([test "x$enable_werror" = xyes], [NVCC_WARN_FLAGS="$NVCC_WARN_FLAGS -Werror all-warnings"])
  AC_SUBST([NVCC_WARN_FLAGS])
  cairn_cuda_used=yes
  cairn_cuda_summary="CUDA $cairn_cuda_version ($NVCC), $cairn_cudnn, for$cairn_cuda_archs"])

# CAIRN_TRY_NVCC(FLAGS, IF IT COMPILES, ELSE)
AC_DEFUN([CAIRN_TRY_NVCC], [
  echo '__global__ void kernel(float *x) { x[[threadIdx.x]] = 0; }' >conftest.cu
  AS_IF([AC_TRY_COMMAND([$NVCC -std=c++20 $1 -c -o conftest.o conftest.cu >&AS_MESSAGE_LOG_FD])], [$2], [$3])
  rm -f conftest.cu conftest.o])

# Machine code for each architecture of the list, and PTX of the first that has no letter, for GPUs that are none of them.
AC_DEFUN([CAIRN_CUDA_ARCHITECTURES], [
  cairn_cuda_archs= cairn_cuda_ptx= CUDA_ARCH_FLAGS=
  cairn_cuda_known=`$NVCC --list-gpu-code | tr '\n' ' '`
  CAIRN_TRY_NVCC([], [], [AC_MSG_ERROR([$NVCC does not compile for C++20 (config.log has its words): CUDA 12 or newer is needed, and a C++ compiler that it takes])])
  for cairn_arch in `echo "${with_cuda_arch:-80 90a 100}" | tr , ' '`; do
    cairn_flag="-gencode=arch=compute_$cairn_arch,code=sm_$cairn_arch"
    AC_MSG_CHECKING([whether $NVCC compiles for sm_$cairn_arch])
    CAIRN_TRY_NVCC([$cairn_flag], [cairn_known=yes], [cairn_known=no])
    AC_MSG_RESULT([$cairn_known])
    AS_IF([test $cairn_known = yes], [
        CUDA_ARCH_FLAGS="$CUDA_ARCH_FLAGS $cairn_flag"
        cairn_cuda_archs="$cairn_cuda_archs sm_$cairn_arch"
        AS_CASE([$cairn_arch], [*[[a-z]]], [], [cairn_cuda_ptx=${cairn_cuda_ptx:-$cairn_arch}])],
      [test -n "$with_cuda_arch"],
        [AC_MSG_ERROR([CUDA $cairn_cuda_version does not compile for "$cairn_arch" of --with-cuda-arch; it knows $cairn_cuda_known])],
      [AC_MSG_NOTICE([the cuda backend will have no code for sm_$cairn_arch, which CUDA $cairn_cuda_version does not know])])
  done
  AS_IF([test -z "$cairn_cuda_archs"], [AC_MSG_ERROR([CUDA $cairn_cuda_version knows none of the GPUs that the cuda backend is written for; --with-cuda-arch names others, sm_80 at least])])
  AS_IF([test -n "$cairn_cuda_ptx"], [
    CUDA_ARCH_FLAGS="$CUDA_ARCH_FLAGS -gencode=arch=compute_$cairn_cuda_ptx,code=compute_$cairn_cuda_ptx"
    cairn_cuda_archs="$cairn_cuda_archs, PTX of compute_$cairn_cuda_ptx"])
  AC_SUBST([CUDA_ARCH_FLAGS])])

AC_DEFUN([CAIRN_CUDA_LIBRARIES], [
  CUDA_LIBDIR=
  for cairn_folder in "$cairn_cuda_root/lib64" "$cairn_cuda_root/targets/$host_cpu-linux/lib" "$cairn_cuda_root/lib/$host_cpu-linux-gnu"; do
    AS_IF([test -z "$CUDA_LIBDIR" && test -f "$cairn_folder/libcudart_static.a"], [CUDA_LIBDIR=$cairn_folder])
  done
  AS_IF([test -z "$CUDA_LIBDIR"], [AC_MSG_ERROR([no libcudart_static.a in $cairn_cuda_root/lib64: install all of the CUDA toolkit])])
  cairn_save_CPPFLAGS=$CPPFLAGS
  cairn_save_LDFLAGS=$LDFLAGS
  cairn_save_LIBS=$LIBS
  CPPFLAGS="$CPPFLAGS -I$cairn_cuda_root/include"
  LDFLAGS="$LDFLAGS -L$CUDA_LIBDIR"
  AC_CHECK_HEADER([cublasLt.h], [], [AC_MSG_ERROR([no cublasLt.h in $cairn_cuda_root/include: install cuBLAS' development files])])
  AC_CHECK_LIB([cublasLt], [cublasLtMatmul], [],
    [AC_MSG_ERROR([no libcublasLt.so in $CUDA_LIBDIR: install cuBLAS' development files])])
  CAIRN_CUDNN
  CPPFLAGS=$cairn_save_CPPFLAGS
  LDFLAGS=$cairn_save_LDFLAGS
  LIBS=$cairn_save_LIBS
  AC_SUBST([CUDA_LIBDIR])])

# cuDNN is loaded at run time, where it is there; its header says how. Those before 9.10.2 are not used.
AC_DEFUN([CAIRN_CUDNN], [
  CUDNN_CPPFLAGS= cairn_cudnn="without cuDNN"
  AC_CACHE_CHECK([for the header of cuDNN 9.10.2 or later], [cairn_cv_cudnn], [
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <cudnn.h>
      #if CUDNN_VERSION < 91002 || CUDNN_MAJOR != 9
      #error another
      #endif]])], [cairn_cv_cudnn=yes], [cairn_cv_cudnn=no])])
  AS_IF([test $cairn_cv_cudnn = yes], [CUDNN_CPPFLAGS=-DHAVE_CUDNN=1 cairn_cudnn="with cuDNN"])
  AC_SUBST([CUDNN_CPPFLAGS])])

# CAIRN_CHECK_CUDA_ON_CPU: tests run the cuda backend on the processor (tests/cuda_on_cpu), compiled as C++20. Where that cannot be,
# CUDA_ON_CPU_MISSING says why.
AC_DEFUN([CAIRN_CHECK_CUDA_ON_CPU], [
  AC_CACHE_CHECK([whether $CXX compiles C++20 for this processor], [cairn_cv_cxx20], [
    AC_LANG_PUSH([C++])
    cairn_save_CXXFLAGS=$CXXFLAGS
    CXXFLAGS="$CXXFLAGS -std=c++20 -march=native"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <cstdint>
      template <typename F> concept starts = requires(F f) { f(); };]])], [cairn_cv_cxx20=yes], [cairn_cv_cxx20=no])
    CXXFLAGS=$cairn_save_CXXFLAGS
    AC_LANG_POP([C++])])
  CUDA_ON_CPU_MISSING=
  AS_IF([test "x$cairn_cv_cxx20" != xyes], [CUDA_ON_CPU_MISSING="$CXX does not compile C++20: install g++"])
  AS_CASE([$host], [x86_64-*-linux*], [], [CUDA_ON_CPU_MISSING="CUDA is emulated on x86-64 Linux alone"])
  AC_SUBST([CUDA_ON_CPU_MISSING])
  CXX_WARN_FLAGS="-Wall -Wextra"
  AS_IF([test "x$enable_werror" = xyes], [CXX_WARN_FLAGS="$CXX_WARN_FLAGS -Werror"])
  AC_SUBST([CXX_WARN_FLAGS])
  AM_CONDITIONAL([HAVE_CUDA_ON_CPU], [test -z "$CUDA_ON_CPU_MISSING"])
  AS_IF([test -z "$CUDA_ON_CPU_MISSING"], [cairn_cuda_tests_summary="on the processor ($CXX)"],
    [cairn_cuda_tests_summary="skipped: $CUDA_ON_CPU_MISSING"])])
