UNIT_TESTS += tests/unit/test_work tests/unit/test_wire
tests_unit_test_work_SOURCES = tests/unit/test_work.c
tests_unit_test_work_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_work_LDADD = $(UNIT_LDADD)
tests_unit_test_wire_SOURCES = tests/unit/test_wire.c
tests_unit_test_wire_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_wire_LDADD = $(UNIT_LDADD)
