#!/bin/sh
# Real training on the private cluster, hit once by each kind of fault that only a cluster has (tests/slurm/rounds).
set -u
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
export TMPDIR="$scratch" PATH="$(dirname "$CAIRN"):$PATH"
unset SLURM_CONF
[ "$(basename "$CAIRN")" = cairn ] || CAIRN=$CAIRN_BUILD/cairn

timeout -k 60 1500 "$CAIRN_SOURCE/tests/slurm/rounds" --seed 5 --rounds 1 --fault kill --fault node --fault batch --fault ctld --cairn "$CAIRN" \
    >"$scratch/rounds.log" 2>&1
sed 's/^/# /' "$scratch/rounds.log"
for fault in kill node batch ctld; do
    check "$fault: the same weights as an undisturbed run" grep -q "^$fault-1 .*: equal" "$scratch/rounds.log"
done

# Three ranks are left of data 2 x pipeline 2, one of which no pipeline can use.
timeout -k 60 700 "$CAIRN_SOURCE/tests/slurm/rounds" --seed 6 --rounds 1 --fault node --set parallel.pipeline=2 --cairn "$CAIRN" \
    >"$scratch/pipeline.log" 2>&1
sed 's/^/# /' "$scratch/pipeline.log"
check "node under data 2 x pipeline 2: the same weights as an undisturbed run" grep -q "^node-1 .*: equal" "$scratch/pipeline.log"
finish
