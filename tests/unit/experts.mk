UNIT_TESTS += tests/unit/test_kernels_experts
tests_unit_test_kernels_experts_SOURCES = tests/unit/test_kernels_experts.c \
  tests/unit/experts_block.c tests/unit/experts_block.h tests/unit/kernels_support.c tests/unit/kernels_support.h
tests_unit_test_kernels_experts_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_kernels_experts_LDADD = $(UNIT_LDADD)
