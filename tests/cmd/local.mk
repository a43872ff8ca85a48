# The command line: standard output, standard error and exit status of the built command.
TESTS += tests/cmd/main.t tests/cmd/config.t tests/cmd/man.t tests/cmd/layers.t
EXTRA_DIST += tests/cmd/tap.sh tests/cmd/main.t tests/cmd/config.t tests/cmd/man.t tests/cmd/layers.t
TESTS += tests/cmd/data.t
EXTRA_DIST += tests/cmd/data.t
