#!/bin/sh
# Times training steps of Cairn and of PyTorch by turns, on the same machine and in the same run.
set -eu

usage() {
    cat <<'EOF'
usage: tests/bench/step.sh [--cairn FILE] [--cases LIST] [--precisions LIST] [--modes LIST] [--rounds N] [--steps N]
                           [--warmup N] [--threads N] [--openblas DIR] [--dir DIR]

Prints, for every case and precision, the median milliseconds of a training step of Cairn and of PyTorch, and their ratio.
A round runs each program once, and takes the median of its timed steps. What is printed is the medians over the rounds, of the
milliseconds and of the rounds' own ratios: a machine that is slower for a while is so for both programs of a round.

  --cairn FILE        the cairn command (default: cairn from PATH)
  --cases LIST        of 124m, small and tiny, which only tries this script out (default: '124m small')
  --precisions LIST   of float32 and bfloat16 (default: both)
  --modes LIST        of PyTorch's installed and tuned (default: tuned)
  --rounds N          rounds of each case and precision (default 3)
  --steps N           timed steps of a program in a round (default 7)
  --warmup N          steps before them (default 3)
  --threads N         of either program (default 2)
  --openblas DIR      where the libraries of libopenblas0-openmp lie, if not where Debian puts them
  --dir DIR           for the dataset and the runs (default: a new one under TMPDIR, removed at the end)
EOF
}

cairn=cairn cases='124m small' precisions='float32 bfloat16' modes=tuned rounds=3 steps=7 warmup=3 threads=2 openblas='' work=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --cairn | --cases | --precisions | --modes | --rounds | --steps | --warmup | --threads | --openblas | --dir)
            [ $# -ge 2 ] || { usage >&2; exit 2; } ;;
        *) echo "step.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    case $1 in
        --cairn) cairn=$2 ;; --cases) cases=$2 ;; --precisions) precisions=$2 ;; --modes) modes=$2 ;; --rounds) rounds=$2 ;;
        --steps) steps=$2 ;; --warmup) warmup=$2 ;; --threads) threads=$2 ;; --openblas) openblas=$2 ;; --dir) work=$2 ;;
    esac
    shift 2
done
command -v "$cairn" >/dev/null || { echo "step.sh: no command '$cairn': build Cairn and name it by --cairn" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
fi
mkdir -p "$work"

# What is in the tokens does not change the time of a step; both programs compute all 50257 logits.
dataset() {
    [ -f "$work/bench.h5" ] && return
    seq 1 100000 >"$work/bench.txt"
    "$cairn" data import text "$work/bench.txt" -o "$work/bench.h5" >"$work/import.log" 2>&1 || fail "$work/import.log"
}

fail() {
    echo "step.sh: the run failed; the end of $1:" >&2
    tail -n 20 "$1" >&2
    exit 1
}

model_keys() {
    case $1 in
        124m) echo 'model.layers=12 model.width=768 model.heads=12 model.context=64 model.vocabulary=50257 batch.samples=4' ;;
        small) echo 'model.layers=6 model.width=384 model.heads=6 model.context=256 model.vocabulary=50257 batch.samples=8' ;;
        tiny) echo 'model.layers=2 model.width=64 model.heads=2 model.context=32 model.vocabulary=512 batch.samples=2' ;;
        *) echo "step.sh: no case '$1': 124m, small or tiny" >&2; exit 2 ;;
    esac
}

# Appends the median milliseconds of the timed steps to the file $3.
run_cairn() {
    rm -rf "$work/run"
    printf 'data:\n  path: %s\n' "$work/bench.h5" >"$work/bench.yaml"
    keys=$(model_keys "$1")
    # shellcheck disable=SC2086 # the keys are words
    "$cairn" train "$work/bench.yaml" run_dir="$work/run" device=cpu precision="$2" threads="$threads" \
        steps=$((warmup + steps)) batch.microbatches=1 optimizer.warmup_steps=1 \
        validation.every=0 checkpoint.every=0 log.every=1 $keys >"$work/cairn.log" 2>&1 || fail "$work/cairn.log"
    sed -n 's/.*"step_seconds": *\([0-9.eE+-]*\).*/\1/p' "$work/run/metrics.jsonl" |
        awk -v skip="$warmup" 'NR > skip { print 1000 * $1 }' >"$work/steps"
    median "$work/steps" >>"$3" || { echo "step.sh: no timed step in Cairn's metrics.jsonl" >&2; exit 1; }
    rm -rf "$work/run"
}

run_pytorch() {
    "$here/pytorch_gpt.py" --case "$1" --precision "$2" --mode "$4" --steps "$steps" --warmup "$warmup" --threads "$threads" \
        ${openblas:+--openblas "$openblas"} >"$work/pytorch.log" 2>&1 || fail "$work/pytorch.log"
    sed -n 's/.*"step_ms": *\[\([^]]*\)\].*/\1/p' "$work/pytorch.log" | tr -d ' ' | tr ',' '\n' >"$work/steps"
    median "$work/steps" >>"$3" || { echo "step.sh: no timed step in what PyTorch's side printed" >&2; exit 1; }
}

. "$here/median.sh"

load() { cut -d ' ' -f 1-3 /proc/loadavg; }

dataset
sed -n 's/^model name[^:]*: */# /p' /proc/cpuinfo | head -n 1
echo "# $(nproc) processors, $threads threads, $rounds rounds of $steps steps, load before: $(load)"
echo '# case precision cairn_ms pytorch pytorch_ms pytorch/cairn'
for case in $cases; do
    for precision in $precisions; do
        times=$work/times.$case.$precision
        rm -f "$times".*
        round=0
        while [ $round -lt "$rounds" ]; do
            run_cairn "$case" "$precision" "$times.cairn"
            for mode in $modes; do run_pytorch "$case" "$precision" "$times.$mode" "$mode"; done
            round=$((round + 1))
        done
        sed -n 's/^cairn: gpt:/#/p' "$work/cairn.log"
        ours=$(median "$times.cairn")
        for mode in $modes; do
            theirs=$(median "$times.$mode")
            paste "$times.cairn" "$times.$mode" | awk '{ print $2 / $1 }' >"$work/ratios"
            printf '%s %s %.1f %s %.1f %.2f\n' "$case" "$precision" "$ours" "$mode" "$theirs" "$(median "$work/ratios")"
        done
    done
done
echo "# load after: $(load)"
