TESTS += tests/slurm/cluster.t tests/slurm/cluster_ports.t
EXTRA_DIST += tests/install-packages.sh tests/slurm/cluster tests/slurm/cluster.t tests/slurm/cluster_ports.t tests/slurm/tap_cluster.sh tests/slurm/lib/common.sh \
  tests/slurm/lib/config.sh tests/slurm/lib/daemons.sh tests/slurm/lib/node-init.sh tests/slurm/lib/nodes.sh

TESTS += tests/slurm/job.t
EXTRA_DIST += tests/slurm/job.t

TESTS += tests/slurm/supervise.t tests/slurm/supervise_stub.t tests/slurm/supervise_slurm.t tests/slurm/workers.t tests/slurm/server.t tests/slurm/rounds.t
EXTRA_DIST += tests/slurm/supervise_common.sh tests/slurm/supervise.t tests/slurm/supervise_stub.t tests/slurm/supervise_slurm.t \
  tests/slurm/workers.t tests/slurm/server.t tests/slurm/rounds tests/slurm/rounds.t
check_PROGRAMS += tests/slurm/fake_train
tests_slurm_fake_train_SOURCES = tests/slurm/fake_train.c
tests_slurm_fake_train_LDADD = libcore.la
