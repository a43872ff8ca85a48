TESTS += tests/slurm/cluster.t
EXTRA_DIST += tests/install-packages.sh tests/slurm/cluster tests/slurm/cluster.t tests/slurm/lib/common.sh \
  tests/slurm/lib/config.sh tests/slurm/lib/daemons.sh tests/slurm/lib/node-init.sh tests/slurm/lib/nodes.sh

TESTS += tests/slurm/job.t
EXTRA_DIST += tests/slurm/job.t
