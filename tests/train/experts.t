#!/bin/sh
# What a training with experts tells of them: rows that were dropped, and how even the load is.
. "$CAIRN_SOURCE/tests/train/common.sh"
P=parallel

# told RUN: by step, what was dropped and the load
told() { sed -n 's/.*"kind": *"step", *"step": *\([0-9]*\),.*"expert_dropped": *\([0-9]*\), *"expert_load": *\([0-9.]*\).*/\1 \2 \3/p' "$1/metrics.jsonl"; }

# as_one NAME RANKS KEYS...: the same is told as by the run in alone/
as_one() {
    name=$1
    shift
    rm -rf run
    train "$@" run_dir=run && told run >got && diff told got >>train.log && pass "$name" || fail "$name" train.log
}

# One expert with room for half of the rows: 20 of 40, in 2 blocks, of 8 microbatches.
train 1 run_dir=half model.experts=1 model.expert_choices=1 model.capacity_factor=0.5
told half >got
[ "$(cut -d' ' -f 2- got | sort -u)" = "320 1.0" ] && pass "a case done by hand" || fail "a case done by hand" got

train 1 run_dir=roomy model.experts=4 model.capacity_factor=4
told roomy >got
awk '$2 == 0 && $3 >= 1 && $3 <= 2 { good++ } END { exit good != 8 }' got && pass "with room for all nothing is dropped" ||
    fail "with room for all nothing is dropped" got

tight='model.experts=4 model.capacity_factor=0.6'
train 1 run_dir=alone $tight
told alone >told
awk '$2 > 0 && $2 < 1280 && $3 > 1 { good++ } END { exit good != 8 }' told && pass "with little room much is" || fail "with little room much is" told
grep -Eq '^step 8/8 .*  dropped [0-9.]+ %  load [0-9.]+  ' train.log && pass "the progress line tells it too" ||
    fail "the progress line tells it too" train.log
as_one "copies tell what one rank does" 3 $tight
as_one "and pipelines that compute blocks again" 4 $tight $P.pipeline=2 $P.recompute=block
as_one "and ranks that share experts, hidden columns and sequences" 8 $tight $P.expert=2 $P.tensor=2 $P.context=2

train 1 run_dir=none && grep -q '"kind": *"step"' none/metrics.jsonl && ! grep -q expert_load none/metrics.jsonl && ! grep -q dropped train.log &&
    pass "a model without experts tells nothing" || fail "a model without experts tells nothing" train.log
finish
