UNIT_TESTS += tests/unit/test_dataset tests/unit/test_loader tests/unit/test_import
tests_unit_test_dataset_SOURCES = tests/unit/test_dataset.c tests/unit/dataset_file.c tests/unit/dataset_file.h
tests_unit_test_dataset_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_dataset_LDADD = $(UNIT_LDADD)
tests_unit_test_loader_SOURCES = tests/unit/test_loader.c tests/unit/dataset_file.c tests/unit/dataset_file.h
tests_unit_test_loader_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_loader_LDADD = $(UNIT_LDADD)
tests_unit_test_import_SOURCES = tests/unit/test_import.c
tests_unit_test_import_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_import_LDADD = $(UNIT_LDADD)
EXTRA_DIST += tests/golden/make_dataset.py tests/golden/dataset
# A plain program, which runs under ThreadSanitizer.
check_PROGRAMS += tests/unit/threads_loader
TESTS += tests/unit/threads_loader
tests_unit_threads_loader_SOURCES = tests/unit/threads_loader.c tests/unit/dataset_file.c tests/unit/dataset_file.h
tests_unit_threads_loader_LDADD = libcore.la
