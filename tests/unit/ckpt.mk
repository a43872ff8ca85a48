UNIT_TESTS += tests/unit/test_checkpoint
tests_unit_test_checkpoint_SOURCES = tests/unit/test_checkpoint.c
tests_unit_test_checkpoint_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_checkpoint_LDADD = $(UNIT_LDADD)
