UNIT_TESTS += tests/unit/test_pmi
tests_unit_test_pmi_SOURCES = tests/unit/test_pmi.c
tests_unit_test_pmi_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_pmi_LDADD = $(UNIT_LDADD)

UNIT_TESTS += tests/unit/test_job
tests_unit_test_job_SOURCES = tests/unit/test_job.c
tests_unit_test_job_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_job_LDADD = $(UNIT_LDADD)

UNIT_TESTS += tests/unit/test_near
tests_unit_test_near_SOURCES = tests/unit/test_near.c
tests_unit_test_near_CPPFLAGS = $(UNIT_CPPFLAGS)
tests_unit_test_near_LDADD = $(UNIT_LDADD)
EXTRA_DIST += tests/unit/near.xml
