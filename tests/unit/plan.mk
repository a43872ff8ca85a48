UNIT_TESTS += tests/unit/test_plan tests/unit/test_plan_memory
tests_unit_test_plan_SOURCES = tests/unit/test_plan.c
tests_unit_test_plan_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_plan_LDADD = $(UNIT_LDADD)
tests_unit_test_plan_memory_SOURCES = tests/unit/test_plan_memory.c
tests_unit_test_plan_memory_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_plan_memory_LDADD = $(UNIT_LDADD)
