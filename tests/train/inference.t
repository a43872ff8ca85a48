#!/bin/sh
# cairn eval and cairn generate.
. "$CAIRN_SOURCE/tests/train/common.sh"
train 2 run_dir=run
check "eval on one rank" "$CAIRN" eval run --json
"$CAIRN" eval run -m 3 --json | sed 's/, "seconds".*//' >one
timeout 60 "$MPIEXEC" -n 3 "$CAIRN" eval run -m 3 --json | sed 's/, "seconds".*//' >three
[ -s one ] && cmp -s one three && pass "three ranks find the same loss" || fail "three ranks find the same loss" three
loss=$(sed 's/.*"loss": *\([0-9.]*\),.*/\1/' one)
last=$(sed -n 's/.*"validation_loss": *\([0-9.]*\).*/\1/p' run/metrics.jsonl | tail -n 1)
awk -v a="$loss" -v b="$last" 'BEGIN { exit !(a - b < 1e-6 && b - a < 1e-6 && a > 0) }' && pass "it is the loss that training found" ||
    { echo "$loss, training $last" >loss; fail "it is the loss that training found" loss; }
whole() { "$CAIRN" eval run --json "batch.samples=$1" | sed 's/.*"loss": *\([0-9.]*\),.*"tokens": *\([0-9]*\).*/\1 \2/'; }
echo "$(whole 3) $(whole 7)" >whole
awk '{ exit !($2 == $4 && $1 - $3 < 1e-6 && $3 - $1 < 1e-6 && $1 > 0) }' whole && pass "every sample counts once" ||
    fail "every sample counts once" whole
"$CAIRN" generate run --prompt "the " --tokens 30 --seed 5 >a 2>/dev/null
"$CAIRN" generate run --prompt "the " --tokens 30 --seed 5 >b 2>/dev/null
"$CAIRN" generate run/checkpoints/step-00000006 --prompt "the " --tokens 30 --seed 6 >c 2>/dev/null
[ "$(wc -c <a)" -eq 35 ] && cmp -s a b && pass "generate repeats itself for one seed" || fail "generate repeats itself for one seed" a
cmp -s a c && fail "another seed and checkpoint write something else" c || pass "another seed and checkpoint write something else"
expect "no such checkpoint" 1 "$CAIRN" generate nowhere
expect "no checkpoint named" 2 "$CAIRN" eval
cp text.h5 wide.h5
/usr/bin/python3 -c 'import h5py; h5py.File("wide.h5", "a").attrs["vocabulary"] = 257'
expect "a dataset of more tokens than the model knows" 2 "$CAIRN" eval run data.path=wide.h5
expect "a negative count" 2 "$CAIRN" generate run --tokens -3
finish
