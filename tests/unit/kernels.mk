UNIT_TESTS += tests/unit/test_kernels_cpu tests/unit/test_kernels_dropout tests/unit/test_kernels_gradients \
  tests/unit/test_kernels_d_bias tests/unit/test_kernels_float8 \
  tests/unit/test_kernels_pieces tests/unit/test_kernels_slices tests/unit/test_kernels_words tests/unit/test_kernels_cuda \
  tests/unit/test_kernels_cudnn tests/unit/test_kernels_layers_golden tests/unit/test_kernels_rounding
tests_unit_test_kernels_cuda_SOURCES = tests/unit/test_kernels_cuda.c \
  tests/unit/kernels_ops.c tests/unit/kernels_ops.h tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_cuda_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_cuda_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_cpu_SOURCES = tests/unit/test_kernels_cpu.c \
  tests/unit/kernels_ops.c tests/unit/kernels_ops.h tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_cpu_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_cpu_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_dropout_SOURCES = tests/unit/test_kernels_dropout.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_dropout_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_dropout_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_rounding_SOURCES = tests/unit/test_kernels_rounding.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_rounding_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_rounding_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_gradients_SOURCES = tests/unit/test_kernels_gradients.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_gradients_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_gradients_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_slices_SOURCES = tests/unit/test_kernels_slices.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_slices_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_slices_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_words_SOURCES = tests/unit/test_kernels_words.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_words_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_words_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_pieces_SOURCES = tests/unit/test_kernels_pieces.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_pieces_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_pieces_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_cudnn_SOURCES = tests/unit/test_kernels_cudnn.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_cudnn_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_cudnn_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_float8_SOURCES = tests/unit/test_kernels_float8.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_float8_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_float8_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_d_bias_SOURCES = tests/unit/test_kernels_d_bias.c \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_d_bias_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_d_bias_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_layers_golden_SOURCES = tests/unit/test_kernels_layers_golden.c tests/unit/golden_file.c tests/unit/golden_file.h \
  tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_layers_golden_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_layers_golden_LDADD = $(UNIT_LDADD)
