#!/bin/sh
# Trains each example of examples/layouts for a few steps on eight ranks of this machine, and prints what a rank needed, what all sent,
# and how long a step took.
set -eu

usage() {
    cat <<'EOT'
usage: tests/bench/layouts.sh [--cairn FILE] [--mpiexec FILE] [--examples DIR] [--steps N] [--context N]

For every config in DIR, on 8 ranks (and the first, data.yaml, on one rank before): the most memory that a rank had, the bytes that all
ranks sent in a step, the median milliseconds of a step, and the loss of the last one, which is the same wherever the model is. To be
quick, sequences are as long as --context says, and a microbatch is one of them. Eight ranks on fewer than eight cores wait for one
another: compare what is sent and what memory it needs, not the times.

  --cairn FILE     the cairn command (default: cairn from PATH)
  --mpiexec FILE   of the MPI library that Cairn was built with (default: mpiexec.mpich)
  --examples DIR   (default: examples/layouts beside this script's tree)
  --steps N        steps of each (default 4; the first one is not timed)
  --context N      (default 256)
EOT
}

here=$(cd "$(dirname "$0")" && pwd)
cairn=cairn mpiexec=mpiexec.mpich examples=$here/../../examples/layouts steps=4 context=256
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --cairn | --mpiexec | --examples | --steps | --context) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;
        *) echo "layouts.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    case $1 in
        --cairn) cairn=$2 ;; --mpiexec) mpiexec=$2 ;; --examples) examples=$2 ;; --steps) steps=$2 ;; --context) context=$2 ;;
    esac
    shift 2
done
command -v "$cairn" >/dev/null || { echo "layouts.sh: no command '$cairn': build Cairn and name it by --cairn" >&2; exit 2; }
. "$here/median.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
export UCX_TLS=self,sm

seq 1 100000 >"$work/text"
"$cairn" data import text "$work/text" -o "$work/text.h5" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

# of_step KEY: its values in the steps' metrics but the first, one a line
of_step() {
    grep '"kind": *"step"' "$work/run/metrics.jsonl" | sed -n "2,\$s/.*\"$1\": *\([0-9.eE+-]*\).*/\1/p"
}

# row NAME RANKS CONFIG
row() {
    rm -rf "$work/run"
    "$mpiexec" -n "$2" "$cairn" train "$3" run_dir="$work/run" data.path="$work/text.h5" steps="$steps" threads=1 batch.samples=1 \
        model.context="$context" optimizer.warmup_steps=1 log.every=1 validation.every=0 checkpoint.every=0 >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; echo "layouts.sh: $1 failed" >&2; exit 1; }
    memory=$(sed -n 's/.*peak memory of a rank: \([0-9]*\) MB.*/\1/p' "$work/log")
    of_step step_seconds >"$work/times"
    awk -v name="$1" -v ranks="$2" -v memory="$memory" -v sent="$(of_step bytes_sent | tail -n 1)" -v loss="$(of_step loss | tail -n 1)" \
        -v seconds="$(median "$work/times")" \
        'BEGIN { printf "%-12s %5d %13s %13.1f %9.0f %10.5f\n", name, ranks, memory, sent / 1e6, 1000 * seconds, loss }'
}

echo "# $(nproc) processors, load before: $(cut -d ' ' -f 1-3 /proc/loadavg)"
printf '%-12s %5s %13s %13s %9s %10s\n' example ranks 'MB of a rank' 'MB sent/step' ms/step loss
row data 1 "$examples/data.yaml"
for config in "$examples"/*.yaml; do
    name=$(basename "$config" .yaml)
    row "$name" 8 "$config"
done
