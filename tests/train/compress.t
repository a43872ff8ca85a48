#!/bin/sh
# Compressed gradients: what they lose, what they save, and that a run that was cut off ends with the bits of one that was not.
. "$CAIRN_SOURCE/tests/train/common.sh"
sed -i 's/^steps: .*/steps: 6/; s/decay_steps: 8/decay_steps: 60/; s/^validation: .*/validation: {every: 0, microbatches: 8}/; s/^checkpoint: .*/checkpoint: {every: 3}/; s/^log: .*/log: {every: 60}/' tiny.yaml
P=parallel

# cut_off RUN: what is left of the run in whole/ if its ranks die after step 5: the checkpoint of step 3
cut_off() { rm -rf "$1" && cp -r whole "$1" && rm -r "$1/checkpoints/step-00000006"; }

# again RANKS KEYS...: a run, and one that was cut off and went on, end with the same state, what compression keeps included.
again() {
    ranks=$1
    shift
    rm -rf whole
    train "$ranks" run_dir=whole "$@" && cut_off cut && train "$ranks" run_dir=cut "$@" &&
        grep -q "goes on from the checkpoint of step 3" train.log && ! grep -q warning train.log &&
        "$CAIRN" ckpt diff whole/checkpoints/step-00000006 cut/checkpoints/step-00000006 >>train.log 2>&1
    status=$?
    if [ $status -eq 0 ]; then pass "cut off and going on, the same bits: $ranks ranks, $*"
    else fail "cut off and going on, the same bits: $ranks ranks, $*" train.log; fi
}

for kind in bf16 topk powersgd; do
    again 2 $P.compress=$kind
    again 3 $P.compress=$kind
done

# Copies of the same parameters on tensor ranks and at a pipeline's ends stay copies, or a restart would not be exact.
again 4 $P.compress=topk $P.tensor=2
again 8 $P.compress=powersgd $P.tensor=2 $P.pipeline=2
again 4 $P.compress=topk $P.pipeline=2
again 2 $P.compress=bf16 $P.context=2 $P.data=1
again 2 $P.compress=topk $P.zero=1
expected=$(hash_of whole)
rm -rf whole
train 2 run_dir=whole $P.compress=topk
same "ZeRO 1 changes no bit" whole

# What was kept belongs to its replicas.
cut_off other
train 3 run_dir=other $P.compress=topk
[ "$(grep -c 'warning: what parallel.compress had not sent yet is lost' train.log)" -eq 1 ] && [ -n "$(hash_of other)" ] &&
    pass "another number of replicas begins with nothing kept, and says so once" ||
    fail "another number of replicas begins with nothing kept, and says so once" train.log
cut_off other
train 2 run_dir=other
grep -q 'other settings.*parallel.compress none (was topk)' train.log && pass "so does a run that no longer compresses" ||
    fail "so does a run that no longer compresses" train.log

# ---- 60 steps ----
long='steps=60 checkpoint.every=0 validation.every=60 model.tied=false'
for kind in none bf16 topk powersgd; do
    train 2 run_dir=long-$kind $long $P.compress=$kind || fail "60 steps with $kind" train.log
    sed -n 's/.*validation loss \([0-9.]*\).*/\1/p' train.log >loss-$kind
done
grep . loss-* >losses
near() { awk -v a="$(cat loss-none)" -v b="$(cat "loss-$1")" -v most="$2" 'BEGIN { exit !(b > 0 && b / a - 1 < most && 1 - b / a < most) }'; }
near bf16 0.02 && pass "bf16 ends within 2 % of the loss without" || fail "bf16 ends within 2 % of the loss without" losses
near powersgd 0.05 && pass "powersgd ends within 5 % of it" || fail "powersgd ends within 5 % of it" losses
# 256 different tokens: a model that knows nothing has a loss of ln 256 = 5.55.
awk '{ exit !($1 > 0 && $1 < 5) }' loss-topk && pass "with topk, a hundredth of all, the loss falls" || fail "with topk the loss falls" losses

# The bytes of a step that rank 0 of 2 sends, from the shapes: without, half of all, twice (and gaps between arrays); bf16 half of that;
# top-k an index and a value for each hundredth of each bucket; PowerSGD two factors of rank 4 of each matrix, vectors whole.
bytes_of() { sed -n 's/.*"kind": *"step".*"bytes_sent": *\([0-9]*\).*/\1/p' "long-$1/metrics.jsonl" | sort -u | tr '\n' ' '; }
"$CAIRN" ckpt info long-topk | sed -n 's/^  compress\/residual\/.*\[2, \([0-9]*\)\].*/\1/p' >packs
"$CAIRN" ckpt info long-none | sed -n 's/^  weights\/\([^ ]*\) .*\[\([0-9, ]*\)\].*/\1 \2/p' | tr -d , >shapes
elements=$(awk '{ sum += $1 } END { print sum }' packs)
expected_bytes() {
    case $1 in
    none) echo $((elements * 4)) ;;
    bf16) echo $((elements * 2)) ;;
    topk) awk '{ k = int($1 * 0.01); k += k < $1 * 0.01; sum += 8 * k } END { print sum }' packs ;;
    powersgd)
        awk '{ columns = $NF; rows = 1; for (i = 2; i < NF; i++) rows *= $i; r = columns < rows ? columns : rows; r = r < 4 ? r : 4
               sum += 4 * ($1 ~ /(bias|gain)$/ || r * (rows + columns) >= rows * columns ? rows * columns : r * (rows + columns)) } END { print sum }' shapes ;;
    esac
}
for kind in none bf16 topk powersgd; do
    got=$(bytes_of $kind) want=$(expected_bytes $kind)
    echo "$kind: $got sent, $want expected" >bytes.log
    gaps=$([ $kind = none ] && echo 0.02 || echo 0)
    awk -v got="$got" -v want="$want" -v gaps="$gaps" 'BEGIN { exit !(want > 0 && got + 0 >= want && got + 0 <= want * (1 + gaps)) }' &&
        pass "$kind sends the bytes of its formula: $got of $want" || fail "$kind sends the bytes of its formula" bytes.log
done

# refused WORDS RANKS KEYS...
refused() {
    words=$1 ranks=$2
    shift 2
    train "$ranks" run_dir=refused "$@"
    status=$?
    [ $status -eq 2 ] && grep -q "error: .*$words" train.log && pass "refused: $*" || fail "refused: $*" train.log
}
refused "at most zero 1" 2 $P.compress=topk $P.zero=2
refused "parallel.reduce fast" 2 $P.compress=bf16 $P.reduce=fast
refused "precision float64" 2 $P.compress=powersgd precision=float64 device=reference
finish
