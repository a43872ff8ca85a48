#!/bin/sh
# Times the same training with gradients exchanged under the backward pass and after it, by turns, on the private cluster of four nodes
# with slow links. Needs root.
set -eu

usage() {
    cat <<'EOT'
usage: tests/bench/overlap.sh [--cairn FILE] [--rate RATE] [--rounds N] [--steps N] [--trace FOLDER] [KEY=VALUE ...]

Prints the median milliseconds of a training step with parallel.overlap true and false, and their ratio; fails if the
first does not beat the second, or if their weights differ.

  --cairn FILE     the cairn command (default: cairn from PATH)
  --rate RATE      of each node's link, as tc says it (default 200mbit)
  --rounds N       rounds, each a run of either kind (default 3)
  --steps N        timed steps of a run, after two that are not (default 8)
  --trace FOLDER   keeps a trace of either kind there, of runs that are not timed
  KEY=VALUE        of the config, over the bench's own
EOT
}

cairn=cairn rate=200mbit rounds=3 steps=8 trace=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --cairn | --rate | --rounds | --steps | --trace) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;
        *=*) break ;;
        *) echo "overlap.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    case $1 in
        --cairn) cairn=$2 ;; --rate) rate=$2 ;; --rounds) rounds=$2 ;; --steps) steps=$2 ;; --trace) trace=$2 ;;
    esac
    shift 2
done
[ "$(id -u)" = 0 ] || { echo "overlap.sh: only root may make nodes with links of their own" >&2; exit 2; }
cairn=$(command -v "$cairn") && cairn=$(realpath "$cairn") ||
    { echo "overlap.sh: no such cairn command: build it and name it by --cairn" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
cluster=$here/../slurm/cluster
work=$(mktemp -d)
export CAIRN_CLUSTER="$work/state"
unset SLURM_CONF
trap '"$cluster" down >/dev/null 2>&1; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
. "$here/median.sh"

fail() {
    echo "overlap.sh: $1${2:+; the end of $2:}" >&2
    [ -z "${2:-}" ] || tail -n 20 "$2" >&2
    exit 1
}

# Each node sends no faster than the rate; it receives what the others send.
limit_links() {
    for node in node1 node2 node3 node4; do
        nsenter --net="/proc/$(cat "$CAIRN_CLUSTER/run/$node.pid")/ns/net" \
            tc qdisc replace dev eth0 root tbf rate "$rate" burst 128kb latency 50ms || fail "$node's link is not limited"
    done
}

# run OVERLAP FOLDER KEY=VALUE...
run() {
    overlap=$1 folder=$2
    shift 2
    "$cluster" run srun --mpi=pmix --nodes=4 --ntasks=4 "$cairn" train "$work/bench.yaml" parallel.overlap="$overlap" \
        run_dir="$folder" "$@" >"$work/run.log" 2>&1 </dev/null || fail "the run failed" "$work/run.log"
}

# timed OVERLAP KEY=VALUE...: its steps' milliseconds are appended to times.OVERLAP.
timed() {
    overlap=$1
    shift
    run "$overlap" "$work/run" "$@"
    sed -n 's/.*"step_seconds": *\([0-9.eE+-]*\).*/\1/p' "$work/run/metrics.jsonl" | awk 'NR > 2 { print 1000 * $1 }' >>"$work/times.$overlap"
    "$cairn" ckpt info "$work/run" | grep '^weights' >>"$work/weights"
    sent=$(sed -n 's/.*"bytes_sent": *\([0-9]*\).*/\1/p' "$work/run/metrics.jsonl" | tail -n 1)
    rm -rf "$work/run"
}

# Five blocks of 0.8 MB of gradients each; the passes of a microbatch take about as long as its gradients' way.
cat >"$work/bench.yaml" <<EOT
data: {path: $work/bench.h5}
steps: $((steps + 2))
batch: {microbatches: 4, samples: 8}
model: {layers: 5, width: 128, heads: 4, context: 128, tied: false}
optimizer: {warmup_steps: 1}
threads: 1
validation: {every: 0}
checkpoint: {every: 0}
log: {every: 1}
EOT
seq 1 100000 >"$work/bench.txt"
"$cairn" data import text "$work/bench.txt" -o "$work/bench.h5" >"$work/run.log" 2>&1 || fail "no dataset" "$work/run.log"
"$cluster" up --nodes 4 >"$work/run.log" 2>&1 || fail "no cluster" "$work/run.log"
limit_links

echo "# $(nproc) processors for 4 ranks of one thread, links of $rate; load before: $(cut -d ' ' -f 1-3 /proc/loadavg)"
for round in $(seq "$rounds"); do
    timed true "$@"
    timed false "$@"
done
[ "$(sort -u "$work/weights" | wc -l)" -eq 1 ] || fail "the weights differ" "$work/weights"
sed -n 's/^cairn\[[^]]*\]: gpt:/#/p' "$work/run.log"
on=$(median "$work/times.true")
off=$(median "$work/times.false")
echo "# $sent bytes sent by a rank in a step; load after: $(cut -d ' ' -f 1-3 /proc/loadavg)"
awk -v on="$on" -v off="$off" 'BEGIN { printf "overlap %.0f ms, none %.0f ms, ratio %.2f\n", on, off, off / on; exit !(on < off) }' ||
    fail "the exchange under the backward pass does not pay"
for overlap in ${trace:+true false}; do
    run "$overlap" "$work/run" "$@" trace=true steps=4
    mkdir -p "$trace"
    mv "$work/run/trace.json" "$trace/overlap-$overlap.json"
    rm -rf "$work/run"
done
