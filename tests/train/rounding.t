#!/bin/sh
# Stochastic rounding of bfloat16 weights: the same bits on any layout and after restarts, other ones than rounding to nearest.
. "$CAIRN_SOURCE/tests/train/common.sh"
sed -i 's/^log: .*/log: {every: 8}/' tiny.yaml
P=parallel
S='precision=bfloat16 optimizer.rounding=stochastic'

train 1 run_dir=nearest precision=bfloat16
nearest=$(hash_of nearest)
train 1 run_dir=one $S
expected=$(hash_of one)
[ -n "$expected" ] && [ "$expected" != "$nearest" ] && pass "another computation than rounding to nearest" ||
    fail "another computation than rounding to nearest" train.log
train 2 run_dir=zero2 $S $P.zero=2
same "2 ranks with zero 2: the bits of one" zero2
train 4 run_dir=zero3 $S $P.zero=3
same "4 ranks with zero 3" zero3
train 4 run_dir=stages $S $P.pipeline=2 $P.zero=1
same "2 stages of 2 ranks with zero 1" stages
train 3 run_dir=servers $S $P.sync=server
same "a parameter server of 2 workers" servers

train 4 run_dir=chain $S $P.zero=1 steps=1
train 1 run_dir=chain $S steps=4
train 2 run_dir=chain $S $P.pipeline=2 steps=5
train 3 run_dir=chain $S $P.sync=server steps=6
train 3 run_dir=chain $S $P.zero=3
same "restarts on other layouts: the bits of a run that was never stopped" chain
grep -q "goes on from the checkpoint of step 6" train.log && pass "the last of which went on" || fail "the last of which went on" train.log

# Replicas that train alone: cut off between two joinings, and at one.
for kept in 4 6; do
    train 2 run_dir=whole$kept $S $P.sync=local $P.local_steps=4 checkpoint.every=2
    cp -r whole$kept cut$kept
    for step in 2 4 6 8; do [ $step -le $kept ] || rm -r cut$kept/checkpoints/step-0000000$step; done
    train 2 run_dir=cut$kept $S $P.sync=local $P.local_steps=4 checkpoint.every=2
    grep -q "goes on from the checkpoint of step $kept" train.log &&
        "$CAIRN" ckpt diff whole$kept/checkpoints/step-00000008 cut$kept/checkpoints/step-00000008 >>train.log 2>&1 &&
        pass "replicas that train alone, cut off after step $kept: the same bits" ||
        fail "replicas that train alone, cut off after step $kept: the same bits" train.log
done

loss=$("$CAIRN" eval one -m 3 --json | sed 's/.*"loss": *\([0-9.]*\),.*/\1/')
last=$(sed -n 's/.*"validation_loss": *\([0-9.]*\).*/\1/p' one/metrics.jsonl | tail -n 1)
awk -v a="$loss" -v b="$last" 'BEGIN { exit !(a - b < 1e-7 && b - a < 1e-7 && a > 0) }' && pass "eval finds the loss that training found" ||
    { echo "$loss, training $last" >loss; fail "eval finds the loss that training found" loss; }
expect "eval of the weights as they are" 0 "$CAIRN" eval one -m 3 precision=float32

train 1 run_dir=chain precision=bfloat16 steps=9
grep -q "other settings than its checkpoint was made with: .*optimizer.rounding nearest (was stochastic)" train.log &&
    pass "a restart tells that the rounding is another" || fail "a restart tells that the rounding is another" train.log
for precision in float32 float64; do
    [ $precision = float64 ] && device=reference || device=cpu
    train 2 run_dir=no optimizer.rounding=stochastic precision=$precision device=$device
    status=$?
    [ $status -eq 2 ] && [ "$(grep -c 'error:' train.log)" -eq 1 ] &&
        grep -q "optimizer.rounding stochastic needs precision bfloat16: weights in $precision are not rounded" train.log &&
        pass "in $precision there is nothing to round: one clear error" || fail "in $precision there is nothing to round: one clear error" train.log
done
finish
