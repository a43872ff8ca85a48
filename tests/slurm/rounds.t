#!/bin/sh
# Real training on the private cluster, hit once by each kind of fault that only a cluster has (tests/slurm/rounds).
set -u
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
export TMPDIR="$scratch" PATH="$(dirname "$CAIRN"):$PATH"
unset SLURM_CONF
[ "$(basename "$CAIRN")" = cairn ] || CAIRN=$CAIRN_BUILD/cairn

timeout -k 60 900 "$CAIRN_SOURCE/tests/slurm/rounds" --seed 5 --rounds 1 --fault kill --fault node --fault batch --fault ctld --cairn "$CAIRN" \
    >"$scratch/rounds.log" 2>&1
sed 's/^/# /' "$scratch/rounds.log"
for fault in kill node batch ctld; do
    check "$fault: the same weights as an undisturbed run" grep -q "^$fault-1 .*: equal" "$scratch/rounds.log"
done
finish
