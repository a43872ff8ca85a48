# Programs of several ranks: each test tests/ranks/X.ranks is built from tests/ranks/X.c.
RANKS_TESTS =
EXTRA_DIST += tests/ranks/tap.h tests/ranks/checkpoint_arrays.h

RANKS_TESTS += tests/ranks/golden.ranks
tests_ranks_golden_ranks_SOURCES = tests/ranks/golden.c
tests_ranks_golden_ranks_LDADD = libcore.la

RANKS_TESTS += tests/ranks/collectives.ranks
tests_ranks_collectives_ranks_SOURCES = tests/ranks/collectives.c
tests_ranks_collectives_ranks_LDADD = libcore.la

RANKS_TESTS += tests/ranks/compress.ranks
tests_ranks_compress_ranks_SOURCES = tests/ranks/compress.c
tests_ranks_compress_ranks_LDADD = libcore.la

RANKS_TESTS += tests/ranks/reduce.ranks
tests_ranks_reduce_ranks_SOURCES = tests/ranks/reduce.c
tests_ranks_reduce_ranks_LDADD = libcore.la

RANKS_TESTS += tests/ranks/job.ranks
tests_ranks_job_ranks_SOURCES = tests/ranks/job.c
tests_ranks_job_ranks_LDADD = libcore.la

check_PROGRAMS += tests/ranks/leave
tests_ranks_leave_SOURCES = tests/ranks/leave.c
tests_ranks_leave_LDADD = libcore.la
TESTS += tests/ranks/leave.t tests/ranks/layouts.t
EXTRA_DIST += tests/ranks/leave.t tests/ranks/layouts.t

RANKS_TESTS += tests/ranks/checkpoint.ranks
tests_ranks_checkpoint_ranks_SOURCES = tests/ranks/checkpoint.c
tests_ranks_checkpoint_ranks_LDADD = libcore.la

RANKS_TESTS += tests/ranks/checkpoint_damage.ranks
tests_ranks_checkpoint_damage_ranks_SOURCES = tests/ranks/checkpoint_damage.c
tests_ranks_checkpoint_damage_ranks_LDADD = libcore.la

RANKS_TESTS += tests/ranks/restarts.ranks
tests_ranks_restarts_ranks_SOURCES = tests/ranks/restarts.c
tests_ranks_restarts_ranks_LDADD = libcore.la

RANKS_TESTS += tests/ranks/import.ranks
tests_ranks_import_ranks_SOURCES = tests/ranks/import.c
tests_ranks_import_ranks_LDADD = libcore.la

check_PROGRAMS += $(RANKS_TESTS)
TESTS += $(RANKS_TESTS)
