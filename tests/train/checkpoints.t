#!/bin/sh
# What a training does with checkpoints that are damaged, a full disk, signals.
. "$CAIRN_SOURCE/tests/train/common.sh"

train 2 run_dir=run
expected=$(hash_of run)
[ -n "$expected" ] && pass "a run to compare with" || fail "a run to compare with" train.log

# A bit flip in the newest part: the one before it is used, and the same end is reached.
cp -r run flipped
part=flipped/checkpoints/step-00000008/part-0000.h5
size=$(stat -c %s "$part")
byte=$(od -An -tu1 -j $((size / 2)) -N1 "$part")
printf "$(printf '\\%03o' $((byte ^ 4)))" | dd of="$part" bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null
train 2 run_dir=flipped
grep -q "goes on from the checkpoint of step 6" train.log && pass "a flipped bit: the checkpoint before is used" || fail "a flipped bit: the checkpoint before is used" train.log
grep -q "set aside\|broken" train.log && pass "the user is told" || fail "the user is told" train.log
same "the end is the same" flipped

cp -r run unfinished
mv unfinished/checkpoints/step-00000008 unfinished/checkpoints/step-00000008.tmp
train 3 run_dir=unfinished
grep -q "goes on from the checkpoint of step 6" train.log && pass "an unfinished checkpoint is never loaded" || fail "an unfinished checkpoint is never loaded" train.log
same "the end is the same after it" unfinished

# SIGUSR1: a checkpoint at the next step, exit code 75, and the rest later.
timeout -k 5 100 "$MPIEXEC" -n 2 "$CAIRN" train tiny.yaml run_dir=stopped steps=100000 checkpoint.every=0 validation.every=0 log.every=100000 >stop.log 2>&1 &
launcher=$!
tries=0
until grep -q '"step"' stopped/metrics.jsonl 2>/dev/null || [ $tries -ge 600 ]; do tries=$((tries + 1)); sleep 0.1; done
pkill -USR1 -f "^$CAIRN train tiny.yaml run_dir=stopped" # the ranks alone: their command line begins with the program
wait $launcher
status=$?
[ $status -eq 75 ] && pass "SIGUSR1 ends a run with exit code 75" || { echo "exit status $status" >>stop.log; fail "SIGUSR1 ends a run with exit code 75" stop.log; }
"$CAIRN" ckpt verify stopped/checkpoints/step-* >verify.log 2>&1 && pass "its checkpoint verifies" || fail "its checkpoint verifies" verify.log

# Threads that nobody asked for stay what they were: sums inside products may be split by them.
train 2 run_dir=threads threads=3 steps=4
train 1 run_dir=threads threads=0 steps=5
grep -q '3 threads a rank, as the checkpoint was made with' train.log && pass "a run keeps its threads" || fail "a run keeps its threads" train.log
grep -q 'other numerics' train.log && fail "and so its numerics" train.log || pass "and so its numerics"

# What the arrays' shapes do not show.
train 2 run_dir=threads threads=3 steps=6 optimizer.learning_rate=1e-2
grep -q 'other settings.*steps 6 (was 5).*optimizer.learning_rate 0.01 (was' train.log && pass "other settings are told" || fail "other settings are told" train.log
train 2 run_dir=threads threads=3 steps=7 model.heads=1
status=$?
[ $status -eq 2 ] && grep -q 'model.heads is 1, but the checkpoint of step 6 was trained with 2' train.log && pass "other heads are refused" ||
    { echo "exit status $status" >>train.log; fail "other heads are refused" train.log; }

# Two runs in one folder: the second leaves the first alone.
"$CAIRN" train tiny.yaml run_dir=shared steps=100000 checkpoint.every=0 validation.every=0 log.every=100000 >first.log 2>&1 &
first=$!
tries=0
until grep -q '"step"' shared/metrics.jsonl 2>/dev/null || [ $tries -ge 600 ]; do tries=$((tries + 1)); sleep 0.1; done
"$CAIRN" train tiny.yaml run_dir=shared steps=3 >second.log 2>&1
status=$?
[ $status -eq 2 ] && grep -q "another run writes into shared: process $first on " second.log && pass "a folder that another run uses is refused" ||
    { echo "exit status $status" >>second.log; fail "a folder that another run uses is refused" second.log; }
kill -USR1 $first
wait $first
[ $? -eq 75 ] && pass "and the other run knows nothing of it" || fail "and the other run knows nothing of it" first.log

if [ "$(id -u)" = 0 ] && mkdir full && mount -t tmpfs -o size=800k none full 2>/dev/null; then
    train 2 run_dir=full/run checkpoint.keep=0 checkpoint.every=1 checkpoint.on_full=stop
    status=$?
    [ $status -eq 1 ] && grep -qi "full\|no space" train.log && pass "a full disk stops the run if asked to" || { echo "exit status $status" >>train.log; fail "a full disk stops the run if asked to" train.log; }
    rm -rf full/run
    train 2 run_dir=full/run checkpoint.keep=0 checkpoint.on_full=continue checkpoint.every=1
    grep -q "the run goes on" train.log && pass "or the run goes on, and says so" || fail "or the run goes on, and says so" train.log
    "$CAIRN" ckpt verify full/run/checkpoints/step-00000001 >verify.log 2>&1 && pass "what was committed before is whole" || fail "what was committed before is whole" verify.log
    umount full
else
    skip "a full disk" "mounting a small file system needs root"
fi
finish
