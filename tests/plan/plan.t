#!/bin/sh
# cairn plan: what it prints, the form of its JSON, what it refuses and how.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
unset CAIRN_HARDWARE
cat >"$scratch/gpt.yaml" <<'END'
precision: bfloat16
model: {layers: 24, width: 2048, heads: 16, context: 2048, vocabulary: 50304}
batch: {microbatches: 64, samples: 4}
END
plan() { "$CAIRN" plan "$scratch/gpt.yaml" "$@"; }

: >"$scratch/err"
expect 'a plan for two nodes' 0 plan --nodes 2 --gpu A100-80
cp "$scratch/got.out" "$scratch/table"
check 'ten layouts' test "$(grep -Ec '^ +[0-9]+ +[0-9]+s? +[0-9]+ .* (none|attn|block) ' "$scratch/table")" = 10
check 'why the others lost' grep -q 'do not fit in a GPU.s memory (the nearest by .* GB: data .*)' "$scratch/table"
check 'the checkpoint interval' grep -Eq '^checkpoints: .* write one every [0-9]+ s, checkpoint.every=[0-9]+;' "$scratch/table"

: >"$scratch/err"
expect 'tensor groups stay within a node' 0 plan --nodes 4 --gpus-per-node 4 --gpu H100
check 'and it is said' grep -q '(axes): tensor 8 would cross nodes of 4 GPUs' "$scratch/got.out"

: >"$scratch/err"
expect 'a model too large' 0 plan --nodes 1 --gpu A100-80 model.layers=96 model.width=12288 model.heads=96
check 'no layout fits' grep -qx 'No layout fits.' "$scratch/got.out"

layout=tensor=4,pipeline=2,chunks=3,microbatch=2,zero=1,recompute=block,sequence=true
: >"$scratch/err"
expect 'one layout' 0 plan --nodes 2 --gpu A100-80 --layout $layout
check 'its name' grep -qx 'data 2, tensor 4, sequence, pipeline 2 interleaved x 3 chunks, microbatch 2, zero 1, recompute block' "$scratch/got.out"
check 'its memory' grep -Eq '^  parameters [0-9.]+, gradients [0-9.]+, optimizer [0-9.]+, activations [0-9.]+, buffers [0-9.]+: [0-9.]+ of [0-9.]+$' "$scratch/got.out"
check 'its time' grep -Eq '^  waiting for other stages +[0-9.]+ s +[0-9.]+ %$' "$scratch/got.out"
check 'both rates' grep -Eq '^model [0-9.]+ Tflop/s a GPU, [0-9.]+ % of peak; with recomputation [0-9.]+, [0-9.]+ %; [0-9]+ tokens/s$' "$scratch/got.out"

# Eight experts in each block: groups of 1, 2, 4 and 8.
: >"$scratch/err"
expect 'a model with experts' 0 plan --nodes 2 --gpu A100-80 model.experts=8
check 'is larger' grep -Eq '^6\.96 B parameters' "$scratch/got.out"
check 'the fastest share them' grep -Eq '^ +[0-9]+ +[0-9]+s? +1 +8 ' "$scratch/got.out"
expect 'groups that the config gives' 0 plan --nodes 2 --gpu A100-80 model.experts=8 parallel=auto parallel.expert=4
grep -E '^ +[0-9]+ +[0-9]+s? +[0-9]+ .* (none|attn|block) ' "$scratch/got.out" >"$scratch/table"
check 'are kept' sh -c 'test -s "$1" && ! grep -Evq "^ +[0-9]+ +[0-9]+s? +[0-9]+ +4 " "$1"' - "$scratch/table"
check 'and said of what does not fit' grep -Eq 'the nearest by .*, expert 4,' "$scratch/got.out"
: >"$scratch/err"
expect 'one layout of it' 0 plan --nodes 2 --gpu A100-80 --layout tensor=2,expert=8,microbatch=2,zero=1 model.experts=8
check 'its group of experts' grep -qx 'data 8, tensor 2, expert 8, microbatch 2, zero 1' "$scratch/got.out"
check 'their exchanges' grep -Eq "^  experts' exchanges +[0-9.]+ s +[0-9.]+ %$" "$scratch/got.out"

# The keys of a JSON object printed with two spaces a level, those of its first inner objects among them, in their order.
keys() { sed -n 's/^ *"\([a-z_]*\)": .*/\1/p' "$1" | tr '\n' ' '; }
: >"$scratch/err"
expect 'one layout as JSON' 0 plan --nodes 2 --gpu A100-80 --layout $layout --json
one='layout data tensor context pipeline chunks expert schedule microbatches samples zero sequence recompute'
one="$one memory_bytes parameters gradients optimizer activations buffers total limit fits"
one="$one seconds step computing tensor expert bubble sending data optimizer model_flops_per_gpu model_percent_of_peak"
one="$one hardware_flops_per_gpu hardware_percent_of_peak tokens_per_second"
request='request parameters batch_samples context nodes gpus_per_node gpu network software precision'
ends='checkpoints bytes write_seconds mtbf_seconds interval_seconds interval_steps lost_share'
echo "$request plan $one $ends " >"$scratch/wanted"
keys "$scratch/got.out" >"$scratch/keys"; echo >>"$scratch/keys"
check 'the keys of one layout' diff "$scratch/wanted" "$scratch/keys"
: >"$scratch/err"
expect 'all as JSON' 0 plan --nodes 2 --gpu A100-80 --json
check 'ten plans' test "$(grep -c '"layout": {' "$scratch/got.out")" = 10
check 'reasons with counts' sh -c 'test "$(grep -c "\"reason\": " "$1")" -gt 1 && test "$(grep -c "\"count\": " "$1")" = "$(grep -c "\"reason\": " "$1")"' - "$scratch/got.out"

# refuse NAME MESSAGE ARGUMENT...: bad usage, said once.
refuse() {
    refuse_name=$1
    : >"$scratch/out"
    echo "cairn: error: $2" >"$scratch/err"
    shift 2
    expect "$refuse_name" 2 "$@"
}
refuse 'no GPU' 'plan needs --gpu, --nodes and --gpus-per-node, of one at least; see cairn plan --help' plan --nodes 1
refuse 'no vocabulary' 'a plan reads no dataset: give model.vocabulary' plan --nodes 1 --gpu H100 model.vocabulary=0
refuse 'groups of experts that are none' '--layout: expert is 2, but model.experts is 0: there are none to share' \
    plan --nodes 1 --gpu H100 --layout expert=2
: >"$scratch/out"
expect 'groups that do not share the experts evenly' 2 plan --nodes 1 --gpu H100 --layout expert=4 model.experts=6
check 'are refused as a run would' grep -q 'parallel.expert is 4, which does not divide the 6 experts of a block; the nearest' "$scratch/got.err"
refuse 'float64' 'precision float64 is for tests; no plan is made for it' plan --nodes 1 --gpu H100 precision=float64
refuse 'bfloat16 on a V100' 'a V100-32 has no products of bfloat16' plan --nodes 1 --gpu V100-32
refuse 'a layout that is no list' "--layout: expected NAME=VALUE, found 'tensor'" plan --nodes 1 --gpu H100 --layout tensor
refuse 'an axis that is none' '--layout: cannot take width=3; see cairn plan --help' plan --nodes 1 --gpu H100 --layout width=3
refuse 'samples that do not divide' '--layout: microbatch 3 does not divide the batch of 256 samples' plan --nodes 1 --gpu H100 --layout microbatch=3
refuse 'chunks without their schedule' '3 chunks a stage need the interleaved schedule; the others take 1' \
    plan --nodes 2 --gpu H100 --layout pipeline=2,schedule=gpipe parallel.chunks=3
: >"$scratch/out"
expect 'a GPU that is not in the table' 2 plan --nodes 1 --gpu TPU
check 'the table is named' grep -q "no GPU 'TPU' in the hardware table; there are V100-16, V100-32, A100-40" "$scratch/got.err"
: >"$scratch/out"
expect 'a layout of another world' 2 plan --nodes 1 --gpu H100 --layout data=3
check 'the nearest is named' grep -q 'nearest layout of 8 ranks that fits' "$scratch/got.err"

echo 'gpus: {H100: {memory_gib: 1}}' >"$scratch/site.yaml"
: >"$scratch/out"
echo "cairn: error: $scratch/site.yaml:1:8: H100: memory_gb_s is missing" >"$scratch/err"
expect 'a mistake in the site'\''s table has its place' 2 plan --nodes 1 --gpu H100 --hardware "$scratch/site.yaml"
: >"$scratch/out"
echo "cairn: error: $scratch/site.yaml:1:8: H100: memory_gb_s is missing" >"$scratch/err"
CAIRN_HARDWARE=$scratch/site.yaml
export CAIRN_HARDWARE
expect 'also by the environment' 2 plan --nodes 1 --gpu H100
unset CAIRN_HARDWARE
printf 'networks:\n  slow:\n    source: a test\n    nic_gbit_s: 1\n    nics_per_gpu: 0.125\n    efficiency: 0.9\n    latency_us: 50\n' >"$scratch/site.yaml"
step() { plan --nodes 2 --gpu H100 --layout data=16 --json "$@" | sed -n 's/^ *"step": \(.*\),/\1/p'; }
step >"$scratch/fast"
step --hardware "$scratch/site.yaml" --network slow >"$scratch/slow"
check 'a slow network of the site makes a slow step' awk "BEGIN { exit !($(cat "$scratch/slow") > 2 * $(cat "$scratch/fast")) }"
finish
