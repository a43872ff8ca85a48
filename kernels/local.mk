libcore_la_SOURCES += \
  kernels/attention_span.h \
  kernels/backend.c kernels/backend.h \
  kernels/backends.h \
  kernels/dropout.h \
  kernels/expert_mlp.c kernels/expert_mlp.h \
  kernels/experts.c kernels/experts.h \
  kernels/float8.h \
  kernels/host_memory.c kernels/host_memory.h \
  kernels/plugin.c kernels/plugin.h \
  kernels/rounding.h
include kernels/reference/local.mk
include kernels/cpu/local.mk
include kernels/cuda/local.mk
