# CAIRN_PKG(VARIABLE, MODULE, DEBIAN PACKAGE, WHAT FOR)
# A library found by pkg-config, or an error that names the Debian package to install.
AC_DEFUN([CAIRN_PKG], [
  PKG_CHECK_MODULES([$1], [$2], [],
    [AC_MSG_ERROR([$2 not found ($4): install Debian's package $3, or point PKG_CONFIG_PATH at its .pc file])])
  cairn_name=`echo "$2" | $SED 's/ .*//'`
  cairn_summary="$cairn_summary
    $cairn_name `$PKG_CONFIG --modversion $cairn_name` (`$PKG_CONFIG --variable=libdir $cairn_name`)"])

AC_DEFUN([CAIRN_CHECK_DEPENDENCIES], [
  cairn_summary=
  CAIRN_PKG([MPI], [mpich], [libmpich-dev], [messages between ranks])
  CAIRN_PKG([HDF5], [hdf5-mpich], [libhdf5-mpich-dev], [datasets and checkpoints])
  CAIRN_PKG([PMIX], [pmix], [libpmix-dev], [start-up under srun --mpi=pmix])
  CAIRN_PKG([FYAML], [libfyaml], [libfyaml-dev], [config files])
  CAIRN_PKG([JANSSON], [jansson], [libjansson-dev], [JSON])
  CAIRN_PKG([XXHASH], [libxxhash], [libxxhash-dev], [checksums])
  CAIRN_PKG([ZLIB], [zlib], [zlib1g-dev], [compressed text input])
  CAIRN_PKG([HWLOC], [hwloc >= 2.1], [libhwloc-dev], [the cores near a GPU])
  cairn_save_LIBS=$LIBS
  AC_CHECK_HEADER([dnnl.h], [], [AC_MSG_ERROR([dnnl.h not found (matrix products): install Debian's package libdnnl-dev])])
  AC_CHECK_LIB([dnnl], [dnnl_version], [DNNL_LIBS=-ldnnl],
    [AC_MSG_ERROR([libdnnl not found (matrix products): install Debian's package libdnnl-dev])])
  AC_SUBST([DNNL_LIBS])
  LIBS=$cairn_save_LIBS
  AC_COMPUTE_INT([cairn_dnnl_major], [DNNL_VERSION_MAJOR], [#include <dnnl_version.h>], [cairn_dnnl_major=?])
  AC_COMPUTE_INT([cairn_dnnl_minor], [DNNL_VERSION_MINOR], [#include <dnnl_version.h>], [cairn_dnnl_minor=?])
  cairn_summary="$cairn_summary
    dnnl $cairn_dnnl_major.$cairn_dnnl_minor (found by the compiler)"
  # Criterion is for the unit tests alone: without it everything else still builds.
  PKG_CHECK_MODULES([CRITERION], [criterion], [have_criterion=yes], [have_criterion=no])
  AM_CONDITIONAL([HAVE_CRITERION], [test "x$have_criterion" = xyes])
  AC_PATH_PROGS([MPIEXEC], [mpiexec.mpich mpiexec mpiexec.hydra], [mpiexec])
  cairn_found=`command -v "$MPIEXEC" || echo "not found: cairn run without Slurm needs it; install Debian's package mpich"`
  cairn_summary="$cairn_summary
    mpiexec ($cairn_found)"
  cairn_found=`srun --version 2>/dev/null | $SED 's/^slurm-wlm //'`
  AS_IF([test "x$cairn_found" = x], [cairn_found="not found: cairn run in jobs needs srun on the nodes"],
    [cairn_found="$cairn_found (`command -v srun`)"])
  cairn_summary="$cairn_summary
    slurm $cairn_found"
  AC_PATH_PROG([BASH_PROGRAM], [bash], [/bin/bash])])

AC_DEFUN([CAIRN_SUMMARY], [
  cat <<EOF

  $PACKAGE_NAME $PACKAGE_VERSION
    prefix          $prefix
    compiler        $CC ($CFLAGS)
    warnings        $WARN_CFLAGS
    sanitizers      ${SANITIZE_FLAGS:-none}
    instruction sets x86-64${ISA_V3_CFLAGS:+, v3}${ISA_V4_CFLAGS:+, v4}
  libraries$cairn_summary
    criterion (unit tests) $have_criterion
    cuda backend    $cairn_cuda_summary
    its tests       $cairn_cuda_tests_summary

EOF])
