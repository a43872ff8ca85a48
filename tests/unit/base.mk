UNIT_TESTS += tests/unit/test_base
tests_unit_test_base_SOURCES = tests/unit/test_base.c
tests_unit_test_base_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_base_LDADD = $(UNIT_LDADD)
UNIT_TESTS += tests/unit/test_exact_sum
tests_unit_test_exact_sum_SOURCES = tests/unit/test_exact_sum.c
tests_unit_test_exact_sum_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_exact_sum_LDADD = $(UNIT_LDADD)
