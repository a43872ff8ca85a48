UNIT_TESTS += tests/unit/test_config tests/unit/test_json_lines
tests_unit_test_config_SOURCES = tests/unit/test_config.c
tests_unit_test_config_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_config_LDADD = $(UNIT_LDADD)
tests_unit_test_json_lines_SOURCES = tests/unit/test_json_lines.c
tests_unit_test_json_lines_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_json_lines_LDADD = $(UNIT_LDADD)
