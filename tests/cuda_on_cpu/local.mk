# The cuda backend compiled for the processor, for machines without a GPU: the same files, with headers of the same names as CUDA's
# found first. A plug-in like the real one; never installed.
CUDA_ON_CPU_INCLUDES = \
  tests/cuda_on_cpu/cublasLt.h \
  tests/cuda_on_cpu/cublasLt_private.h \
  tests/cuda_on_cpu/cuda_bf16.h \
  tests/cuda_on_cpu/cuda_runtime.h \
  tests/cuda_on_cpu/cudnn.h \
  tests/cuda_on_cpu/cudnn_private.h \
  tests/cuda_on_cpu/fibers.h \
  tests/cuda_on_cpu/for_libraries.h \
  tests/cuda_on_cpu/gemm.h \
  tests/cuda_on_cpu/intrinsics.h \
  tests/cuda_on_cpu/kernels/cuda/machine.h \
  tests/cuda_on_cpu/nccl.h \
  tests/cuda_on_cpu/nccl_private.h \
  tests/cuda_on_cpu/nvtx3/nvToolsExt.h \
  tests/cuda_on_cpu/runtime.h \
  tests/cuda_on_cpu/runtime_api.h \
  tests/cuda_on_cpu/selftest.h \
  tests/cuda_on_cpu/vector_types.h \
  tests/cuda_on_cpu/warp.h
EXTRA_DIST += $(CUDA_ON_CPU_INCLUDES) tests/cuda_on_cpu/README.md tests/cuda_on_cpu/selftest.cu tests/cuda_on_cpu/selftest_library.cu \
  tests/cuda_on_cpu/selftest_nccl.cu

if HAVE_CUDA_ON_CPU
CUDA_ON_CPU_CPPFLAGS = -I$(top_srcdir)/tests/cuda_on_cpu $(CUDA_CODE_CPPFLAGS) -DHAVE_CUDNN=1
# The shared arrays of kernels are found by the table of symbols, which -g0 leaves.
CUDA_ON_CPU_CXXFLAGS = -std=c++20 -O2 -g0 -march=native -fno-math-errno -fno-strict-aliasing $(PLUGIN_FLAGS) $(CXX_WARN_FLAGS) \
  -Wno-unknown-pragmas -Wno-missing-field-initializers

check_LTLIBRARIES += tests/cuda_on_cpu/libemulation.la
tests_cuda_on_cpu_libemulation_la_SOURCES = \
  tests/cuda_on_cpu/cublasLt.cc \
  tests/cuda_on_cpu/cublasLt_descriptions.cc \
  tests/cuda_on_cpu/device_memory.cc \
  tests/cuda_on_cpu/devices.cc \
  tests/cuda_on_cpu/fibers.cc \
  tests/cuda_on_cpu/gemm.cc \
  tests/cuda_on_cpu/machine.cc \
  tests/cuda_on_cpu/shared_memory.cc \
  tests/cuda_on_cpu/streams.cc
tests_cuda_on_cpu_libemulation_la_CPPFLAGS = $(CUDA_ON_CPU_CPPFLAGS)
tests_cuda_on_cpu_libemulation_la_CXXFLAGS = $(CUDA_ON_CPU_CXXFLAGS)

CUDA_ON_CPU_OBJECTS = $(CUDA_FILES:kernels/cuda/%.cu=tests/cuda_on_cpu/%.lo)
check_LTLIBRARIES += tests/cuda_on_cpu/cuda.la
tests_cuda_on_cpu_cuda_la_SOURCES = $(PLUGIN_SOURCES)
nodist_EXTRA_tests_cuda_on_cpu_cuda_la_SOURCES = none.cc # so that it is linked as C++
tests_cuda_on_cpu_cuda_la_CPPFLAGS = $(CUDA_CODE_CPPFLAGS)
tests_cuda_on_cpu_cuda_la_CFLAGS = $(WARN_CFLAGS) $(PLUGIN_FLAGS)
tests_cuda_on_cpu_cuda_la_LIBADD = $(CUDA_ON_CPU_OBJECTS) tests/cuda_on_cpu/libemulation.la -lm
tests_cuda_on_cpu_cuda_la_DEPENDENCIES = $(CUDA_ON_CPU_OBJECTS) tests/cuda_on_cpu/libemulation.la tests/cuda_on_cpu/libcudnn_graph.la
# A folder, though no one installs it: libtool makes no shared library of a module that has none. -R: where it finds libcudnn_graph.so.9 and libnccl.so.2.
tests_cuda_on_cpu_cuda_la_LDFLAGS = $(PLUGIN_LDFLAGS) -rpath /nonexistent -R $(abs_top_builddir)/tests/cuda_on_cpu/.libs

# libcudnn_graph.so.9, loaded in NVIDIA's place. What it has put into streams may be carried out after it is closed: nodelete.
check_LTLIBRARIES += tests/cuda_on_cpu/libcudnn_graph.la
tests_cuda_on_cpu_libcudnn_graph_la_SOURCES = \
  tests/cuda_on_cpu/cudnn.cc \
  tests/cuda_on_cpu/cudnn_graph.cc \
  tests/cuda_on_cpu/cudnn_run.cc
tests_cuda_on_cpu_libcudnn_graph_la_CPPFLAGS = $(CUDA_ON_CPU_CPPFLAGS)
tests_cuda_on_cpu_libcudnn_graph_la_CXXFLAGS = $(CUDA_ON_CPU_CXXFLAGS)
tests_cuda_on_cpu_libcudnn_graph_la_LIBADD = -ldl
tests_cuda_on_cpu_libcudnn_graph_la_LDFLAGS = -version-info 9:0:0 -shared -no-undefined -rpath /nonexistent -Wl,-z,nodelete

# libnccl.so.2, loaded in NVIDIA's place. What it has put into streams may be carried out after it is closed: nodelete.
check_LTLIBRARIES += tests/cuda_on_cpu/libnccl.la
tests_cuda_on_cpu_libnccl_la_SOURCES = \
  tests/cuda_on_cpu/nccl.cc \
  tests/cuda_on_cpu/nccl_group.cc \
  tests/cuda_on_cpu/nccl_join.cc \
  tests/cuda_on_cpu/nccl_link.cc
tests_cuda_on_cpu_libnccl_la_CPPFLAGS = $(CUDA_ON_CPU_CPPFLAGS)
tests_cuda_on_cpu_libnccl_la_CXXFLAGS = $(CUDA_ON_CPU_CXXFLAGS)
tests_cuda_on_cpu_libnccl_la_LIBADD = -ldl
tests_cuda_on_cpu_libnccl_la_LDFLAGS = -version-info 2:0:0 -shared -no-undefined -rpath /nonexistent -Wl,-z,nodelete

SELFTEST_OBJECTS = tests/cuda_on_cpu/selftest.lo tests/cuda_on_cpu/selftest_library.lo tests/cuda_on_cpu/selftest_nccl.lo
check_PROGRAMS += tests/cuda_on_cpu/selftest
TESTS += tests/cuda_on_cpu/selftest
tests_cuda_on_cpu_selftest_SOURCES =
nodist_EXTRA_tests_cuda_on_cpu_selftest_SOURCES = none.cc
# No sanitizer: it faults on purpose. libnccl looks for the emulation in the program.
tests_cuda_on_cpu_selftest_LDFLAGS = -no-install -export-dynamic
tests_cuda_on_cpu_selftest_LDADD = $(SELFTEST_OBJECTS) tests/cuda_on_cpu/libemulation.la tests/cuda_on_cpu/libnccl.la

CUDA_ON_CPU_COMPILE = $(LIBTOOL) $(AM_V_lt) --tag=CXX $(AM_LIBTOOLFLAGS) $(LIBTOOLFLAGS) --mode=compile $(CXX) $(CUDA_ON_CPU_CXXFLAGS) \
  $(CUDA_ON_CPU_CPPFLAGS) -MD -MP -MT $@ -MF tests/cuda_on_cpu/$(DEPDIR)/$*.Plo -shared -c -o $@ -x c++
tests/cuda_on_cpu/%.lo: kernels/cuda/%.cu
	@$(MKDIR_P) tests/cuda_on_cpu/$(DEPDIR)
	$(AM_V_CXX)$(CUDA_ON_CPU_COMPILE) $<
tests/cuda_on_cpu/%.lo: tests/cuda_on_cpu/%.cu
	@$(MKDIR_P) tests/cuda_on_cpu/$(DEPDIR)
	$(AM_V_CXX)$(CUDA_ON_CPU_COMPILE) $<

CUDA_ON_CPU_PLOS = $(CUDA_FILES:kernels/cuda/%.cu=tests/cuda_on_cpu/$(DEPDIR)/%.Plo) \
  $(SELFTEST_OBJECTS:tests/cuda_on_cpu/%.lo=tests/cuda_on_cpu/$(DEPDIR)/%.Plo)
-include $(CUDA_ON_CPU_PLOS)
CLEANFILES += $(CUDA_ON_CPU_OBJECTS) $(SELFTEST_OBJECTS) $(CUDA_ON_CPU_PLOS)
# Tests of kernels, and those of trainings that want it, load it by setting CAIRN_PLUGIN_DIR to this.
CUDA_TESTS_ENVIRONMENT = CAIRN_CUDA_ON_CPU=$(abs_top_builddir)/tests/cuda_on_cpu/.libs; export CAIRN_CUDA_ON_CPU;
else
CUDA_TESTS_ENVIRONMENT = CAIRN_SKIP_CUDA='$(CUDA_ON_CPU_MISSING)'; export CAIRN_SKIP_CUDA;
endif
