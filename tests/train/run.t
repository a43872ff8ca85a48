#!/bin/sh
# cairn run over mpiexec, on real training.
. "$CAIRN_SOURCE/tests/train/common.sh"

train 1 run_dir=alone
expected=$(hash_of alone)
export CAIRN_MPIEXEC="$MPIEXEC"

# run KEY=VALUE...: exit status of a supervised training of the same config; its output in train.log
run() { timeout -k 5 100 "$CAIRN" run tiny.yaml supervise.launcher=mpiexec supervise.ranks=3 "$@" >train.log 2>&1; }

run run_dir=quiet
same "a supervised run ends with the same weights" quiet
grep -q "$(printf '\r')" train.log && fail "its output in a file has whole lines" train.log || pass "its output in a file has whole lines"

# A terminal is between: script(1) makes one.
command="timeout -k 5 100 $CAIRN run tiny.yaml supervise.launcher=mpiexec supervise.ranks=2 run_dir=live"
script -qec "$command" /dev/null </dev/null >train.log 2>&1
same "one on a terminal too" live
grep -q "$(printf '\r')"'.*\[K#*\.* step *[0-9]*/8 .* left ' train.log && pass "which sees a live line with the time left" || fail "which sees a live line with the time left" train.log

# A rank is killed in a random step of a longer run.
long='steps=400 optimizer.decay_steps=400 validation.every=0 log.every=100 checkpoint.every=50'
train 1 run_dir=long-alone $long
expected=$(hash_of long-alone)
run run_dir=long $long &
supervisor=$!
tries=0
until grep -q '"step":6[0-9]' long/metrics.jsonl 2>/dev/null || [ $tries -ge 600 ]; do tries=$((tries + 1)); sleep 0.1; done
victim=$(pgrep -f "^$CAIRN train tiny.yaml supervise.launcher=mpiexec supervise.ranks=3 run_dir=long " | tail -n 1)
kill -KILL "$victim"
wait $supervisor
same "and so does one whose rank was killed" long
grep -q '"event":"restart"' long/events.jsonl && pass "after a restart" || fail "after a restart" train.log
finish
