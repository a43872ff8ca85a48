# For tests on a cluster of their own, sourced after tests/cmd/tap.sh: $cluster, which is down again when the test ends.
cluster=$CAIRN_SOURCE/tests/slurm/cluster
export CAIRN_CLUSTER="$scratch/state"
unset SLURM_CONF
trap '"$cluster" down >/dev/null 2>&1; rm -rf "$scratch"' EXIT
