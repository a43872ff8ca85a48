# The cuda backend, cuda.so in $(pkglibdir), built where configure was given --with-cuda. Its files are compiled by nvcc through
# libtool; the tests compile them for the processor (tests/cuda_on_cpu/local.mk).
CUDA_FILES = \
  kernels/cuda/attention.cu \
  kernels/cuda/attention_cudnn.cu \
  kernels/cuda/attention_graphs.cu \
  kernels/cuda/attention_pieces.cu \
  kernels/cuda/attention_plain.cu \
  kernels/cuda/attention_tensor_backward.cu \
  kernels/cuda/attention_tensor_forward.cu \
  kernels/cuda/classifier.cu \
  kernels/cuda/cuda.cu \
  kernels/cuda/cudnn.cu \
  kernels/cuda/elementwise.cu \
  kernels/cuda/embedding.cu \
  kernels/cuda/experts.cu \
  kernels/cuda/float8.cu \
  kernels/cuda/link.cu \
  kernels/cuda/memory.cu \
  kernels/cuda/norm.cu \
  kernels/cuda/norm_backward.cu \
  kernels/cuda/product.cu \
  kernels/cuda/product_choice.cu \
  kernels/cuda/product_plan.cu \
  kernels/cuda/ranges.cu \
  kernels/cuda/recording.cu \
  kernels/cuda/router.cu \
  kernels/cuda/router_backward.cu \
  kernels/cuda/spans.cu \
  kernels/cuda/update.cu
CUDA_INCLUDES = \
  kernels/cuda/attention.h \
  kernels/cuda/attention_cudnn.h \
  kernels/cuda/attention_graphs.h \
  kernels/cuda/attention_tensor.h \
  kernels/cuda/cuda.h \
  kernels/cuda/cudnn.h \
  kernels/cuda/device.h \
  kernels/cuda/experts.h \
  kernels/cuda/float8.h \
  kernels/cuda/machine.h \
  kernels/cuda/map.h \
  kernels/cuda/norm_rows.h \
  kernels/cuda/pack.h \
  kernels/cuda/product.h \
  kernels/cuda/product_choice.h \
  kernels/cuda/product_plan.h
EXTRA_DIST += $(CUDA_FILES) $(CUDA_INCLUDES) kernels/cuda/nvcc

CUDA_CODE_CPPFLAGS = -I$(top_srcdir)/src -I$(top_srcdir) -D_GNU_SOURCE
# A plug-in shows nothing but what kernels/plugin.c looks for.
PLUGIN_SOURCES = kernels/plugin_side.c
PLUGIN_FLAGS = -fvisibility=hidden
PLUGIN_LDFLAGS = -module -avoid-version -shared -no-undefined

if HAVE_CUDA
CUDA_OBJECTS = $(CUDA_FILES:.cu=.lo)
pkglib_LTLIBRARIES += kernels/cuda/cuda.la
kernels_cuda_cuda_la_SOURCES = $(PLUGIN_SOURCES)
nodist_EXTRA_kernels_cuda_cuda_la_SOURCES = none.cc # there is none: so that it is linked as C++
kernels_cuda_cuda_la_CPPFLAGS = $(CUDA_CODE_CPPFLAGS)
kernels_cuda_cuda_la_CFLAGS = $(WARN_CFLAGS) $(PLUGIN_FLAGS)
# The GPU's driver is asked for when the backend is opened; libcublasLt must be there to load it.
kernels_cuda_cuda_la_LIBADD = $(CUDA_OBJECTS) -L$(CUDA_LIBDIR) -lcudart_static -lcublasLt -lrt -ldl -lpthread
kernels_cuda_cuda_la_DEPENDENCIES = $(CUDA_OBJECTS)
kernels_cuda_cuda_la_LDFLAGS = $(PLUGIN_LDFLAGS) -Wl,-z,defs -R $(CUDA_LIBDIR)

AM_V_NVCC = $(am__v_NVCC_@AM_V@)
am__v_NVCC_ = $(am__v_NVCC_@AM_DEFAULT_V@)
am__v_NVCC_0 = @echo "  NVCC    " $@;
am__v_NVCC_1 =

kernels/cuda/%.lo: kernels/cuda/%.cu kernels/cuda/nvcc
	@$(MKDIR_P) kernels/cuda/$(DEPDIR)
	$(AM_V_NVCC)$(LIBTOOL) $(AM_V_lt) --tag=CC $(AM_LIBTOOLFLAGS) $(LIBTOOLFLAGS) --mode=compile \
	  $(SHELL) $(srcdir)/kernels/cuda/nvcc $(NVCC) -std=c++20 -O3 $(CUDA_ARCH_FLAGS) $(NVCC_WARN_FLAGS) $(PLUGIN_FLAGS) $(CUDA_CODE_CPPFLAGS) $(CUDNN_CPPFLAGS) \
	  -MD -MP -MT $@ -MF kernels/cuda/$(DEPDIR)/$*.Plo $(NVCCFLAGS) -shared -c -o $@ $<

-include $(CUDA_FILES:kernels/cuda/%.cu=kernels/cuda/$(DEPDIR)/%.Plo)
CLEANFILES += $(CUDA_OBJECTS) $(CUDA_FILES:kernels/cuda/%.cu=kernels/cuda/$(DEPDIR)/%.Plo)
endif
