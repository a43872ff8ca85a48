#!/bin/sh
# What ZeRO and recomputation save of a rank's peak memory, measured, beside what the plan says: sh tests/bench/memory.sh BUILD
# Four ranks, float32; differences from the plain layout, so that libraries and MPI's own memory fall out. oneDNN takes and returns packed
# operands within each product: where glibc keeps those in its heap, the holes that they leave come to 4 to 30 MB, by chance.
set -e
build=${1:?usage: memory.sh BUILD}
cairn=$build/cairn
export UCX_TLS=self,sm MALLOC_MMAP_THRESHOLD_=1048576
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
head -c 300000 /dev/urandom | base64 >text.txt
"$cairn" data import text text.txt -o text.h5 >/dev/null 2>&1
cat >m.yaml <<'END'
data: {path: text.h5}
batch: {microbatches: 4, samples: 4}
model: {layers: 8, width: 512, heads: 8, context: 256, vocabulary: 256}
steps: 2
optimizer: {warmup_steps: 0, decay_steps: 10}
threads: 1
validation: {every: 0}
checkpoint: {every: 0}
log: {every: 1}
END

# measured KEYS...: MB of the rank that needs the most
measured() {
    rm -rf run
    "${MPIEXEC:-mpiexec.mpich}" -n 4 "$cairn" train m.yaml run_dir=run "$@" >log 2>&1 || { cat log >&2; exit 1; }
    sed -n 's/.*peak memory of a rank: \([0-9]*\) MB.*/\1/p' log
}

# planned LAYOUT: MB
planned() {
    "$cairn" plan m.yaml --nodes 1 --gpus-per-node 4 --gpu A100-80 --precision float32 --layout "$1" --json |
        sed -n 's/.*"total": \([0-9]*\),.*/\1/p' | awk '{ printf "%.0f", $1 / 1e6 }'
}

m0=$(measured) p0=$(planned data=4,microbatch=4)
printf '%-32s %12s %12s %8s\n' '' 'measured MB' 'planned MB' 'ratio'
printf '%-32s %12s %12s\n' 'plain' "$m0" "$p0"
row() { # NAME PLAN KEYS...
    name=$1 plan=$2
    shift 2
    m=$(measured "$@") p=$(planned "data=4,microbatch=4,$plan")
    printf '%-32s %12s %12s %8s\n' "$name saves" $((m0 - m)) $((p0 - p)) "$(awk "BEGIN { printf \"%.3f\", ($m0 - $m) / ($p0 - $p) }")"
}
row 'zero 1' zero=1 parallel.zero=1
row 'zero 2' zero=2 parallel.zero=2
row 'zero 3' zero=3 parallel.zero=3
row 'recompute attention' recompute=attention parallel.recompute=attention
row 'recompute block' recompute=block parallel.recompute=block
row 'zero 3, recompute block' zero=3,recompute=block parallel.zero=3 parallel.recompute=block
