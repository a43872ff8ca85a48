libcore_la_SOURCES += \
  kernels/reference/reference.c kernels/reference/reference.h \
  kernels/reference/reference_f32.c \
  kernels/reference/reference_f64.c
EXTRA_DIST += kernels/reference/attention.inc.c kernels/reference/classifier.inc.c \
  kernels/reference/embedding.inc.c kernels/reference/kernels.inc.c kernels/reference/norm.inc.c
EXTRA_DIST += kernels/reference/experts.inc.c
