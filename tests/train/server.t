#!/bin/sh
# Parameter servers: at staleness 0 the bits of a bulk run, whoever dies; with staleness, training that goes on without waiting.
. "$CAIRN_SOURCE/tests/train/common.sh"
P=parallel

train 1 run_dir=bulk
expected=$(hash_of bulk)
[ -n "$expected" ] && pass "a bulk run to compare with" || fail "a bulk run to compare with" train.log
for servers in 1 2; do
    for workers in 1 2 3; do
        train $((servers + workers)) "run_dir=s$servers-w$workers" $P.sync=server $P.servers=$servers
        same "$servers servers and $workers workers, staleness 0: the bits of bulk" "s$servers-w$workers"
    done
done
check "the whole state is equal, moments included" "$CAIRN" ckpt diff bulk/checkpoints/step-00000008 s2-w3/checkpoints/step-00000008

# losses RUN: step and loss, and the validations
losses() { sed -n 's/.*"step": *\([0-9]*\), *"\(loss\|validation_loss\)": *\([^,]*\),.*/\1 \2 \3/p' "$1/metrics.jsonl"; }
losses bulk >bulk.losses
losses s2-w3 >server.losses
[ -s bulk.losses ] && cmp -s bulk.losses server.losses && pass "losses of every step and validation are equal too" || fail "losses of every step and validation are equal too" server.losses
finish
