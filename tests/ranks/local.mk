RANKS_TESTS =

RANKS_TESTS += tests/ranks/job.ranks
tests_ranks_job_ranks_SOURCES = tests/ranks/job.c
tests_ranks_job_ranks_LDADD = libcore.la

check_PROGRAMS += $(RANKS_TESTS)
TESTS += $(RANKS_TESTS)
