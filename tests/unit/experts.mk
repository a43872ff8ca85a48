UNIT_TESTS += tests/unit/test_kernels_experts tests/unit/test_kernels_experts_golden
tests_unit_test_kernels_experts_SOURCES = tests/unit/test_kernels_experts.c \
  tests/unit/experts_block.c tests/unit/experts_block.h tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_experts_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_experts_LDADD = $(UNIT_LDADD)
tests_unit_test_kernels_experts_golden_SOURCES = tests/unit/test_kernels_experts_golden.c tests/unit/golden_file.c tests/unit/golden_file.h \
  tests/unit/experts_block.c tests/unit/experts_block.h tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_experts_golden_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_experts_golden_LDADD = $(UNIT_LDADD)
