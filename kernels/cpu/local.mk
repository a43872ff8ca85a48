libcore_la_SOURCES += \
  kernels/cpu/attention.c kernels/cpu/attention.h \
  kernels/cpu/attention_pieces.c \
  kernels/cpu/classifier.c \
  kernels/cpu/cpu.c kernels/cpu/cpu.h \
  kernels/cpu/elementwise.c \
  kernels/cpu/embedding.c \
  kernels/cpu/experts.c \
  kernels/cpu/loops.h \
  kernels/cpu/memory.c \
  kernels/cpu/norm.c \
  kernels/cpu/product.c kernels/cpu/product.h

# The loops, compiled once for each instruction set; LOOPS is the name of the table that results.
CPU_LOOPS = \
  kernels/cpu/loops/elementwise.c \
  kernels/cpu/loops/experts.c \
  kernels/cpu/loops/lanes.h \
  kernels/cpu/loops/math.h \
  kernels/cpu/loops/norm.c \
  kernels/cpu/loops/pack.c \
  kernels/cpu/loops/parts.h \
  kernels/cpu/loops/product.c \
  kernels/cpu/loops/random.h \
  kernels/cpu/loops/softmax.c \
  kernels/cpu/loops/table.c \
  kernels/cpu/loops/update.c
# Vectors of 64 bytes are never passed between functions that are not inlined: how they would be is of no account.
CPU_LOOPS_CFLAGS = $(AM_CFLAGS) -O3 -fno-trapping-math -Wno-psabi

noinst_LTLIBRARIES += libloops_baseline.la
libloops_baseline_la_SOURCES = $(CPU_LOOPS)
libloops_baseline_la_CPPFLAGS = $(AM_CPPFLAGS) -DLOOPS=loops_baseline
libloops_baseline_la_CFLAGS = $(CPU_LOOPS_CFLAGS)
libcore_la_LIBADD += libloops_baseline.la

if HAVE_ISA_V3
AM_CPPFLAGS += -DHAVE_ISA_V3
noinst_LTLIBRARIES += libloops_v3.la
libloops_v3_la_SOURCES = $(CPU_LOOPS)
libloops_v3_la_CPPFLAGS = $(AM_CPPFLAGS) -DLOOPS=loops_v3
libloops_v3_la_CFLAGS = $(CPU_LOOPS_CFLAGS) $(ISA_V3_CFLAGS)
libcore_la_LIBADD += libloops_v3.la
endif

if HAVE_ISA_V4
AM_CPPFLAGS += -DHAVE_ISA_V4
noinst_LTLIBRARIES += libloops_v4.la
libloops_v4_la_SOURCES = $(CPU_LOOPS)
libloops_v4_la_CPPFLAGS = $(AM_CPPFLAGS) -DLOOPS=loops_v4
libloops_v4_la_CFLAGS = $(CPU_LOOPS_CFLAGS) $(ISA_V4_CFLAGS)
libcore_la_LIBADD += libloops_v4.la
endif
