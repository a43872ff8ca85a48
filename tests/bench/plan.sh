#!/bin/sh
# Times cairn plan: seconds to judge all layouts of models on machines of 64 to 10,000 GPUs, and layouts judged a second.
set -eu
cairn=${1:-cairn}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo 'precision: bfloat16' >"$work/gpt.yaml"

# one NAME NODES SAMPLES SETTING...
one() {
    name=$1 nodes=$2 batch=$3
    shift 3
    begin=$(date +%s.%N)
    "$cairn" plan "$work/gpt.yaml" --nodes "$nodes" --gpu H100 --json batch.samples=1 "batch.microbatches=$batch" "$@" >"$work/json"
    end=$(date +%s.%N)
    judged=$(sed -n 's/^ *"judged": \([0-9]*\).*/\1/p' "$work/json")
    awk "BEGIN { s = $end - $begin; printf \"%-6s %6d GPUs %6d samples: %7d layouts in %6.2f s, %8.0f a second\n\", \"$name\", 8 * $nodes, $batch, $judged, s, $judged / s }"
}
one 7B 8 1024 model.layers=32 model.width=4096 model.heads=32 model.context=4096 model.vocabulary=32000
one 70B 128 2048 model.layers=80 model.width=8192 model.heads=64 model.context=4096 model.vocabulary=32000
one 175B 1250 10000 model.layers=96 model.width=12288 model.heads=96 model.context=2048 model.vocabulary=51200
one 1T 1250 12000 model.layers=128 model.width=25600 model.heads=160 model.context=2048 model.vocabulary=51200
