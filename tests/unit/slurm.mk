UNIT_TESTS += tests/unit/test_decide
tests_unit_test_decide_SOURCES = tests/unit/test_decide.c
tests_unit_test_decide_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_decide_LDADD = $(UNIT_LDADD)

UNIT_TESTS += tests/unit/test_ranks
tests_unit_test_ranks_SOURCES = tests/unit/test_ranks.c
tests_unit_test_ranks_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_ranks_LDADD = $(UNIT_LDADD)

UNIT_TESTS += tests/unit/test_child
tests_unit_test_child_SOURCES = tests/unit/test_child.c
tests_unit_test_child_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_child_LDADD = $(UNIT_LDADD)
