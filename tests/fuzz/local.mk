# Fuzz targets with a driver of our own; each runs over its corpus in the check.
check_PROGRAMS += tests/fuzz/fuzz_config
tests_fuzz_fuzz_config_SOURCES = tests/fuzz/fuzz_config.c tests/fuzz/driver.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_config_LDADD = libcore.la
TESTS += tests/fuzz/config.t
EXTRA_DIST += tests/fuzz/config.t tests/fuzz/corpus-config

check_PROGRAMS += tests/fuzz/fuzz_dataset
tests_fuzz_fuzz_dataset_SOURCES = tests/fuzz/fuzz_dataset.c tests/fuzz/driver.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_dataset_LDADD = libcore.la
TESTS += tests/fuzz/dataset.t
EXTRA_DIST += tests/fuzz/dataset.t

check_PROGRAMS += tests/fuzz/fuzz_checkpoint
tests_fuzz_fuzz_checkpoint_SOURCES = tests/fuzz/fuzz_checkpoint.c tests/fuzz/driver.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_checkpoint_LDADD = libcore.la
TESTS += tests/fuzz/checkpoint.t
EXTRA_DIST += tests/fuzz/checkpoint.t tests/fuzz/corpus-checkpoint

check_PROGRAMS += tests/fuzz/fuzz_pmi
tests_fuzz_fuzz_pmi_SOURCES = tests/fuzz/fuzz_pmi.c tests/fuzz/driver.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_pmi_LDADD = libcore.la
TESTS += tests/fuzz/pmi.t
EXTRA_DIST += tests/fuzz/pmi.t tests/fuzz/corpus-pmi
