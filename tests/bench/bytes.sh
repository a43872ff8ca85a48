#!/bin/sh
# Counts what all ranks send in a step of each mode of parallelism, beside the least that the mode's exchanges need.
set -eu

usage() {
    cat <<'EOT'
usage: tests/bench/bytes.sh [--cairn FILE] [--mpiexec FILE]

Prints for each mode the bytes that all ranks together send in a step, apart by the kind of group they went through, beside what
the formula in the same line says, and their ratio. Fails if a ratio is not within 2 % of 1. Shown apart as "small": statistics of
the classifier over a divided vocabulary. Not counted: the sum of losses and the gradient's norm, less than 2 kB a rank.
EOT
}

cairn=cairn mpiexec=mpiexec.mpich
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --cairn | --mpiexec) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;
        *) echo "bytes.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    case $1 in --cairn) cairn=$2 ;; --mpiexec) mpiexec=$2 ;; esac
    shift 2
done
command -v "$cairn" >/dev/null || { echo "bytes.sh: no command '$cairn': build Cairn and name it by --cairn" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
export UCX_TLS=self,sm

L=4 w=128 c=64 v=512 b=4 V=8
cat >"$work/bench.yaml" <<EOT
data: {path: $work/bench.h5}
steps: 3
batch: {microbatches: $V, samples: $b}
model: {layers: $L, width: $w, heads: 4, context: $c, vocabulary: $v, tied: false}
threads: 1
validation: {every: 0}
checkpoint: {every: 0}
EOT
seq 1 20000 >"$work/bench.txt"
"$cairn" data import text "$work/bench.txt" -o "$work/bench.h5" >"$work/run.log" 2>&1 || { cat "$work/run.log" >&2; exit 1; }

# Bytes, of float32. G: of a gradient, or of all parameters; B, E, H: of those of the blocks, the embeddings, the head with its norm;
# W: of those that tensor ranks hold whole (norms, biases of summed products, positions); S: of a table of tokens; A: of the activations
# of the model's width in a step.
B=$((4 * L * (12 * w * w + 13 * w))) E=$((4 * (v * w + c * w))) H=$((4 * (v * w + 2 * w))) W=$((4 * (L * 6 * w + 2 * w + c * w)))
G=$((B + E + H)) A=$((4 * V * b * c * w)) S=$((4 * v * w))

sent() { grep '"kind": *"step"' "$work/run/metrics.jsonl" | tail -n 1 | sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p"; }

# run RANKS KEY=VALUE...
run() {
    ranks=$1
    shift
    rm -rf "$work/run"
    timeout -k 5 120 "$mpiexec" -n "$ranks" "$cairn" train "$work/bench.yaml" run_dir="$work/run" "$@" >"$work/run.log" 2>&1 ||
        { tail -n 20 "$work/run.log" >&2; echo "bytes.sh: the run failed: $*" >&2; exit 1; }
    echo "$ranks ranks: ${*:-data}"
    told=0
}

# group KIND FORMULA [SMALL]: what went through groups of this kind
group() {
    all=$(sent "$1")
    told=$((told + all))
    awk -v kind="$1" -v all="$all" -v theory="$(($2))" -v small="$((${3:-0}))" -v formula="$2" 'BEGIN {
        ratio = (all - small) / theory
        printf "    %-9s sent %10d, small %7d, theory %10d, ratio %.4f   %s\n", kind, all - small, small, theory, ratio, formula
        exit !(ratio > 0.98 && ratio < 1.02)
    }' || failed=1
}

# Nothing went by groups that the lines above do not tell of.
no_other() {
    others=$(($(sent tensor) + $(sent context) + $(sent pipeline) + $(sent replicas) + $(sent expert) + $(sent expert_replicas) - told))
    [ "$others" -eq 0 ] || { echo "    $others bytes went another way"; failed=1; }
}

failed=0
P=parallel
echo "# $L layers, width $w, context $c, vocabulary $v, $V microbatches of $b samples, float32; all ranks' bytes of a step"
echo "# G $G gradient, B $B blocks, E $E embeddings, H $H head, W $W held whole by tensor ranks, S $S a token table, A $A activations"

run 4
group replicas '2*3*G'
no_other
run 4 model.tied=true
group replicas '2*3*(G-S) + 3*S'
no_other
run 4 $P.zero=1
group replicas '3*G + 3*G'
no_other
run 4 $P.zero=2
group replicas '2*3*G + 3*G'
no_other
run 4 $P.zero=3
group replicas '2*3*G + 3*(E + H + B/L*(2*L-3 + 2*(L-3)))'
no_other
run 2 $P.tensor=2
group tensor '(4*L+2)*2*A' '2*1*3*4*V*b*c'
no_other
run 2 $P.tensor=2 $P.sequence=true
group tensor '(4*L+2)*2*A + 2*L*A' '2*1*3*4*V*b*c + V*2*4*(L*4*w + 2*w)'
no_other
run 2 $P.context=2
group context 'L*3*2*A'
group replicas '2*G'
no_other
run 2 $P.pipeline=2
group pipeline '2*A'
no_other
run 2 $P.pipeline=2 $P.schedule=interleaved $P.chunks=2
group pipeline '3*2*A'
no_other
run 4 $P.tensor=2 $P.data=2
group tensor '(4*L+2)*2*A' '2*1*3*4*V*b*c'
group replicas '2*(G+W)'
no_other
run 4 $P.pipeline=2 $P.data=2 $P.zero=1
group pipeline '2*A'
group replicas 'G + G'
no_other
run 4 $P.pipeline=2 $P.tensor=2 model.tied=true
group pipeline '2*2*A + 2*S'
group tensor '(4*L+2)*2*A' '2*1*3*4*V*b*c'
no_other
run 4 $P.compress=bf16
group replicas '3*G'
no_other
run 4 $P.compress=topk $P.compress_ratio=0.01
group replicas '24*G/100'
no_other
run 4 $P.compress=powersgd $P.compress_rank=4
group replicas '2*3*4*(L*77*w + 2*4*(v + w) + 4*(c + w) + 2*w)'
no_other
run 4 $P.sync=local $P.local_steps=2 # what joins the weights after a step is told with the next
group replicas '2*3*G'
no_other
exit $failed
