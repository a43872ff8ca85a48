# cuDNN's own planner, where it is installed, on the graphs of attention: no GPU is needed, but a driver in its place.
EXTRA_DIST += tests/cudnn/plans.cc tests/cudnn/driver.c
if HAVE_CUDA_ON_CPU
check_LTLIBRARIES += tests/cudnn/libcuda.la
tests_cudnn_libcuda_la_SOURCES = tests/cudnn/driver.c
tests_cudnn_libcuda_la_CFLAGS = $(WARN_CFLAGS) -Wno-missing-prototypes
tests_cudnn_libcuda_la_LDFLAGS = -version-info 1:0:0 -shared -no-undefined -rpath /nonexistent

check_PROGRAMS += tests/cudnn/plans
TESTS += tests/cudnn/plans
tests_cudnn_plans_SOURCES = tests/cudnn/plans.cc
tests_cudnn_plans_CPPFLAGS = $(CUDA_ON_CPU_CPPFLAGS) -DCUDA_FOLDER='"$(CUDA_LIBDIR)"'
tests_cudnn_plans_CXXFLAGS = $(CUDA_ON_CPU_CXXFLAGS)
tests_cudnn_plans_LDFLAGS = # no sanitizer: cuDNN has not been through one
tests_cudnn_plans_LDADD = tests/cuda_on_cpu/cudnn.lo tests/cuda_on_cpu/attention_graphs.lo tests/cudnn/libcuda.la -ldl
endif
