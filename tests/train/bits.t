#!/bin/sh
# The same bits whatever the number of ranks, and however often a run was stopped and went on.
. "$CAIRN_SOURCE/tests/train/common.sh"

train 1 run_dir=one
expected=$(hash_of one)
[ -n "$expected" ] && pass "one rank trains" || fail "one rank trains" train.log
for ranks in 2 3 4 5 8; do
    train "$ranks" "run_dir=ranks$ranks"
    same "$ranks ranks end with the same weights" "ranks$ranks"
done

train 4 run_dir=chain steps=2
train 3 run_dir=chain steps=3
train 1 run_dir=chain steps=6
train 4 run_dir=chain steps=8
same "restarts on 4, 3, 1 and 4 ranks end with the same weights" chain
grep -q "goes on from the checkpoint of step 6" train.log && pass "a restart says where it goes on" || fail "a restart says where it goes on" train.log

check "the whole state is equal, moments included" "$CAIRN" ckpt diff one/checkpoints/step-00000008 chain/checkpoints/step-00000008

sed -n 's/.*"step": *\([0-9]*\), *"loss": *\([^,]*\),.*/\1 \2/p' one/metrics.jsonl >one.losses
sed -n 's/.*"step": *\([0-9]*\), *"loss": *\([^,]*\),.*/\1 \2/p' ranks3/metrics.jsonl >three.losses
[ -s one.losses ] && cmp -s one.losses three.losses && pass "losses of every step are equal too" || fail "losses of every step are equal too" three.losses

# bfloat16 with float32 masters, and several threads a rank: alike over ranks and restarts too.
float32=$expected
for kind in 'precision=bfloat16' 'threads=2' 'precision=bfloat16 threads=2'; do
    name=$(printf %s "$kind" | tr ' =' '--')
    train 1 "run_dir=$name-1" $kind
    expected=$(hash_of "$name-1")
    train 3 "run_dir=$name-3" $kind
    same "$kind: 3 ranks end with the weights of 1" "$name-3"
    train 4 "run_dir=$name-chain" $kind steps=3
    train 2 "run_dir=$name-chain" $kind steps=8
    same "$kind: so does a restart on 2 ranks after 4" "$name-chain"
done
[ "$(hash_of precision-bfloat16-1)" != "$float32" ] && pass "bfloat16 is another computation" || fail "bfloat16 is another computation" train.log
expected=$float32

train 2 run_dir=other seed=2
[ "$(hash_of other)" != "$expected" ] && pass "another seed gives other weights" || fail "another seed gives other weights" train.log

train 9 run_dir=many
status=$?
grep -q "9 data-parallel ranks but batch.microbatches is 8" train.log && [ $status -eq 2 ] && [ "$(grep -c 'error:' train.log)" -eq 1 ] &&
    pass "more ranks than microbatches is one clear error" || fail "more ranks than microbatches is one clear error" train.log
finish
