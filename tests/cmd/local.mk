# The command line: standard output, standard error and exit status of the built command.
TESTS += tests/cmd/main.t tests/cmd/config.t tests/cmd/man.t tests/cmd/layers.t
EXTRA_DIST += tests/cmd/tap.sh tests/cmd/main.t tests/cmd/config.t tests/cmd/man.t tests/cmd/layers.t
TESTS += tests/cmd/data.t
EXTRA_DIST += tests/cmd/data.t

# The doctor, with a library in the place of NVIDIA's; a folder, though no one installs it, so that libtool makes it shared.
TESTS += tests/cmd/doctor.t
EXTRA_DIST += tests/cmd/doctor.t
check_LTLIBRARIES += tests/cmd/nvml.la
tests_cmd_nvml_la_SOURCES = tests/cmd/nvml.c
tests_cmd_nvml_la_LDFLAGS = -module -avoid-version -shared -rpath /nonexistent
