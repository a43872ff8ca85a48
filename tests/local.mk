# Serial tests are Criterion programs (tests/unit), those of several ranks are plain MPI programs that print TAP
# (tests/ranks), scripts that need a cluster are tests/slurm/*.t.
TEST_EXTENSIONS = .t .ranks
TAP_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
T_LOG_DRIVER = $(TAP_DRIVER)
RANKS_LOG_DRIVER = $(TAP_DRIVER)
RANKS_LOG_COMPILER = $(SHELL) $(top_srcdir)/tests/ranks/launch
LOG_DRIVER = $(TAP_DRIVER)
AM_TESTS_ENVIRONMENT = \
  CAIRN=$(abs_top_builddir)/cairn; export CAIRN; \
  CAIRN_SOURCE=$(abs_top_srcdir); export CAIRN_SOURCE; \
  CAIRN_BUILD=$(abs_top_builddir); export CAIRN_BUILD; \
  MPIEXEC=$(MPIEXEC); export MPIEXEC; \
  CAIRN_DATA_DIR=$(abs_top_srcdir)/src/plan; export CAIRN_DATA_DIR; \
  $(CUDA_TESTS_ENVIRONMENT) \
  PATH=$(abs_top_builddir):$$PATH; export PATH;
# Criterion prints TAP with --tap=-.
LOG_COMPILER = $(SHELL) $(top_srcdir)/tests/unit/launch
UNIT_TESTS =
UNIT_LDADD = libcore.la $(CRITERION_LIBS)
UNIT_CPPFLAGS = $(AM_CPPFLAGS) $(CRITERION_CFLAGS)
EXTRA_DIST += tests/check.sh tests/leaks.supp tests/ranks/launch tests/unit/launch

# Tests begin in this order; those that take minutes, and mostly wait, come first.
include tests/slurm/local.mk
include tests/cuda_on_cpu/local.mk
include tests/cudnn/local.mk
include tests/unit/base.mk
include tests/unit/io.mk
include tests/golden/local.mk
include tests/gpu/local.mk
include tests/bench/local.mk
include tests/unit/config.mk
include tests/unit/ckpt.mk
include tests/ckpt/local.mk
include tests/unit/job.mk
include tests/cmd/local.mk
include tests/fuzz/local.mk
include tests/unit/kernels.mk
include tests/unit/experts.mk
include tests/unit/schedule.mk
include tests/unit/train.mk
include tests/unit/plan.mk
include tests/unit/server.mk
include tests/unit/slurm.mk
include tests/plan/local.mk
include tests/ranks/local.mk
include tests/train/local.mk

if HAVE_CRITERION
check_PROGRAMS += $(UNIT_TESTS)
TESTS += $(UNIT_TESTS)
else
EXTRA_PROGRAMS += $(UNIT_TESTS)
endif

# For tests/check.sh, which runs a part of them under sanitizers.
.PHONY: print-tests
print-tests:
	@printf '%s\n' $(TESTS)
