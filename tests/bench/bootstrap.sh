#!/bin/sh
# Seconds from a rank's first line to its first collective, and the fences of the PMI bridge, for 4, 16 and 64 ranks on a private
# cluster of four nodes on this machine. All ranks share its cores: what can be compared is the growth, and the fences.
#   sh tests/bench/bootstrap.sh [BUILD FOLDER] [RANKS ...]
set -u
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${1:-.}" && pwd) || exit 2
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- 4 16 64
cluster=$source_dir/tests/slurm/cluster
program=$build/tests/ranks/job.ranks
[ -x "$program" ] || { echo "bootstrap.sh: no $program: make tests/ranks/job.ranks first" >&2; exit 2; }
CAIRN_CLUSTER=$(mktemp -d "${TMPDIR:-/tmp}/cairn-bench-XXXXXX")/state
export CAIRN_CLUSTER
trap '"$cluster" down >/dev/null 2>&1; rm -rf "$(dirname "$CAIRN_CLUSTER")"' EXIT
trap 'exit 130' INT TERM HUP
"$cluster" up >/dev/null || exit 1
for ranks in "$@"; do
    for mpi in pmix pmi2; do
        printf '%-5s ' "$mpi"
        timeout -k 5 300 "$cluster" run srun --mpi=$mpi --nodes=4 --ntasks="$ranks" "$program" --quick 2>/dev/null ||
            echo "$ranks ranks: failed with exit status $?"
    done
done
