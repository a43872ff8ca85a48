# CAIRN_COMPILER_FLAGS
# Sets WARN_CFLAGS, OPENMP_CFLAGS and the ISA_* flags that the CPU kernels are compiled with, once for each instruction set.
AC_DEFUN([CAIRN_TRY_CFLAG], [
  AC_CACHE_CHECK([whether $CC takes $1], [AS_TR_SH([cairn_cv_cflag_$1])], [
    cairn_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS -Werror $1"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM()], [AS_TR_SH([cairn_cv_cflag_$1])=yes], [AS_TR_SH([cairn_cv_cflag_$1])=no])
    CFLAGS=$cairn_save_CFLAGS])
  AS_IF([test "x$AS_TR_SH([cairn_cv_cflag_$1])" = xyes], [$2], [$3])])

AC_DEFUN([CAIRN_COMPILER_FLAGS], [
  WARN_CFLAGS=
  m4_foreach_w([flag], [-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wundef -Wno-format-truncation],
    [CAIRN_TRY_CFLAG(flag, [WARN_CFLAGS="$WARN_CFLAGS flag"])])
  AS_IF([test "x$enable_werror" = xyes], [WARN_CFLAGS="$WARN_CFLAGS -Werror"])
  SANITIZE_FLAGS=
  AS_IF([test -n "$enable_sanitize" && test "x$enable_sanitize" != xno],
    [SANITIZE_FLAGS="-fsanitize=$enable_sanitize -fno-omit-frame-pointer -fno-sanitize-recover=undefined"])
  AC_OPENMP
  AS_IF([test "x$ac_cv_prog_c_openmp" = xunsupported],
    [AC_MSG_ERROR([the C compiler has no OpenMP; with clang install Debian's package libomp-dev])])
  AC_SUBST([WARN_CFLAGS])
  AC_SUBST([SANITIZE_FLAGS])
  # Position of the instruction sets: doc/design.md, kernels.
  ISA_V3_CFLAGS= ISA_V4_CFLAGS=
  CAIRN_TRY_CFLAG([-march=x86-64-v3], [ISA_V3_CFLAGS=-march=x86-64-v3])
  CAIRN_TRY_CFLAG([-march=x86-64-v4], [ISA_V4_CFLAGS="-march=x86-64-v4 -mprefer-vector-width=512"])
  AC_SUBST([ISA_V3_CFLAGS])
  AC_SUBST([ISA_V4_CFLAGS])
  AM_CONDITIONAL([HAVE_ISA_V3], [test -n "$ISA_V3_CFLAGS"])
  AM_CONDITIONAL([HAVE_ISA_V4], [test -n "$ISA_V4_CFLAGS"])])
