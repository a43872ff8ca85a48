#!/bin/sh
# Replicas that train alone for some steps and then join their weights.
. "$CAIRN_SOURCE/tests/train/common.sh"
sed -i 's/decay_steps: 8/decay_steps: 60/; s/^validation: .*/validation: {every: 0, microbatches: 8}/; s/^log: .*/log: {every: 60}/' tiny.yaml
P=parallel
local="$P.sync=local $P.local_steps=4"
nesterov="$local $P.outer=nesterov"

train 1 run_dir=bulk
expected=$(hash_of bulk)
train 1 run_dir=alone $P.sync=local $P.local_steps=1
same "one replica that joins with itself after each step: the bits of bulk" alone

# again RANKS KEYS...: a run, and one whose ranks died after step 7 and that went on from step 6, between two joinings, end alike.
again() {
    ranks=$1
    shift
    rm -rf whole cut
    train "$ranks" run_dir=whole "$@" && cp -r whole cut && rm -r cut/checkpoints/step-00000008 && train "$ranks" run_dir=cut "$@" &&
        grep -q "goes on from the checkpoint of step 6" train.log && ! grep -q warning train.log &&
        "$CAIRN" ckpt diff whole/checkpoints/step-00000008 cut/checkpoints/step-00000008 >>train.log 2>&1
    if [ $? -eq 0 ]; then pass "cut off and going on, the same bits: $ranks ranks, $*"
    else fail "cut off and going on, the same bits: $ranks ranks, $*" train.log; fi
}
again 2 $local
again 3 $nesterov
again 4 $nesterov $P.tensor=2
again 4 $local $P.pipeline=2 precision=bfloat16
again 2 $nesterov

# Others than those that trained alone: a number, a mode. WHOLE is of 2 replicas that joined after steps 4 and 8.
rm -rf cut
cp -r whole cut
rm -r cut/checkpoints/step-00000008
train 3 run_dir=cut $nesterov
[ "$(grep -c 'warning: .*goes back to step 4' train.log)" -eq 1 ] && [ "$(grep -c '"step":5,' cut/metrics.jsonl)" -eq 2 ] && [ -d cut/checkpoints/step-00000008 ] &&
    pass "another number of replicas goes back to the last joining, and says so" ||
    fail "another number of replicas goes back to the last joining, and says so" train.log
train 3 run_dir=whole steps=9
grep -q 'warning: .*goes back to step 8' train.log && [ -d whole/checkpoints/step-00000009 ] && pass "so does a bulk run" ||
    fail "so does a bulk run" train.log
train 2 run_dir=bulk steps=12 $nesterov
grep -q 'all from the same weights and moments' train.log && ! grep -q 'goes back' train.log && [ -d bulk/checkpoints/step-00000012 ] &&
    pass "replicas begin to train alone at a bulk run's checkpoint" ||
    fail "replicas begin to train alone at a bulk run's checkpoint" train.log

# 8 microbatches are 3, 3 and 2 of three replicas: their weights count so. From step 3 on the learning rate is 0, so that the mean of
# step 4 is of the weights that were saved at step 3.
train 3 run_dir=uneven $local steps=4 optimizer.warmup_steps=1 optimizer.decay_steps=3 optimizer.min_learning_rate=0
cat >mean.py <<'END'
import h5py, numpy
def array(step, name):
    return h5py.File("uneven/checkpoints/step-%08d/state.h5" % step)[name][...].astype(float)
apart, mean = array(3, "local/weights/position_embedding"), array(4, "weights/position_embedding")
far = [numpy.abs(numpy.tensordot(numpy.array(w) / sum(w), apart, 1) - mean).max() for w in ((3, 3, 2), (1, 1, 1))]
print(apart.shape, far)
assert apart.shape == (3, 20, 24) and far[0] < 1e-7 and far[1] > 1e-5
END
check "the mean counts replicas by their microbatches" /usr/bin/python3 mean.py

# ---- 60 steps ----
long='steps=60 checkpoint.every=0 validation.every=60 model.tied=false'
train 2 run_dir=long-bulk $long
for outer in average nesterov; do
    train 2 run_dir=long-$outer $long $P.sync=local $P.local_steps=8 $P.outer=$outer
    loss=$(sed -n 's/.*validation loss \([0-9.]*\).*/\1/p' train.log)
    # 256 different tokens: a model that knows nothing has a loss of ln 256 = 5.55.
    awk -v loss="$loss" 'BEGIN { exit !(loss > 0 && loss < 4.5) }' && pass "with $outer the loss falls: $loss" || fail "with $outer the loss falls" train.log
done
"$CAIRN" ckpt info long-average >info.log
grep -q '"joined_step": 60' info.log && pass "the last step joins, whatever its number" || fail "the last step joins, whatever its number" info.log
bytes_of() { sed -n 's/.*"kind": *"step".*"bytes_sent": *\([0-9]*\).*/\1/p' "long-$1/metrics.jsonl" >bytes; awk '{ sum += $1; some += $1 > 0 } END { print sum, some }' bytes; }
echo "$(bytes_of bulk) $(bytes_of average)" >bytes.log
awk '{ ratio = $1 / $3; exit !($2 == 60 && $4 == 8 && ratio > 7.5 * 0.98 && ratio < 7.5 * 1.02) }' bytes.log &&
    pass "8 joinings in 60 steps send 8/60 of the bytes: $(cat bytes.log)" || fail "8 joinings in 60 steps send 8/60 of the bytes" bytes.log

# refused WORDS KEYS...
refused() {
    words=$1
    shift
    train 2 run_dir=refused $local "$@"
    status=$?
    [ $status -eq 2 ] && grep -q "error: .*$words" train.log && pass "refused: $*" || fail "refused: $*" train.log
}
refused "parallel.zero 1 cannot share" $P.zero=1
refused "reduce fast does not go with it" $P.reduce=fast
refused "compress does not go with it" $P.compress=topk
refused "does not go with parallel.context 2" $P.context=2
finish
