#!/bin/sh
# cairn ckpt: what it prints, and its exit codes.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
make() { timeout -k 5 60 "$MPIEXEC" -n 3 "$CAIRN_BUILD/tests/ckpt/make_checkpoint" "$@"; }
run=$scratch/run dir=$scratch/run/checkpoints
mkdir "$run"

hash=$(make "$dir" 10 1 0 1)
again=$(make "$dir" 20 1 2 3)
make "$dir" 30 2 1 2 >/dev/null
mv "$dir/raw" "$scratch/raw"
check 'the hash in memory is the same for all layouts' test -n "$hash" -a "$hash" = "$again"

expect 'list' 0 "$CAIRN" ckpt list "$run" --hash
check 'list: three complete' test "$(grep -c complete "$scratch/got.out")" -eq 3
check 'list: the hash of the weights' test "$(grep -c "$hash" "$scratch/got.out")" -eq 2
expect 'list --json' 0 "$CAIRN" ckpt list "$dir" --json
check 'list --json: steps in order' sh -c "grep '\"step\"' '$scratch/got.out' | tr -dc '0-9\n' | tr '\n' ' ' | grep -qx '10 20 30 '"
expect 'list --json to a full device' 1 sh -c "'$CAIRN' ckpt list '$dir' --json >/dev/full"

expect 'info' 0 "$CAIRN" ckpt info "$dir/step-00000020"
check 'info: the hash' grep -qx "weights $hash" "$scratch/got.out"
check 'info: an array' grep -q 'moments/matrix *bfloat16 *\[1201, 1003\]' "$scratch/got.out"
expect 'info of a run: its newest' 0 "$CAIRN" ckpt info "$run"
check 'info of a run: step 30' grep -q '^step 30,' "$scratch/got.out"
expect 'info --json' 0 "$CAIRN" ckpt info --json "$run"
check 'info --json: extra is an object' grep -q '"loss": 1.5' "$scratch/got.out"

echo 'all arrays are equal' >"$scratch/out"
expect 'diff of equal ones in other layouts' 0 "$CAIRN" ckpt diff "$dir/step-00000010" "$dir/step-00000020"
expect 'diff of different ones' 1 "$CAIRN" ckpt diff "$dir/step-00000010" "$dir/step-00000030"
check 'diff: how many, where' grep -q '^weights/a: 35 elements differ, by at most .* first at \[0, 0\]$' "$scratch/got.out"
expect 'diff --json' 1 "$CAIRN" ckpt diff --json "$dir/step-00000010" "$dir/step-00000030"
check 'diff --json: not equal' grep -q '"equal": false' "$scratch/got.out"

expect 'verify of sound ones' 0 "$CAIRN" ckpt verify "$dir/step-00000010" "$dir/step-00000020"
printf x | dd of="$dir/step-00000020/part-0001.h5" bs=1 seek=1000000 conv=notrunc 2>/dev/null
expect 'verify of a damaged one' 1 "$CAIRN" ckpt verify "$dir/step-00000010" "$dir/step-00000020"
check 'verify: the first is sound' grep -q 'step-00000010: sound' "$scratch/got.out"
check 'verify: the fault is told' grep -q 'step-00000020: damaged: .*part-0001.h5: array .* checksum differs' "$scratch/got.out"
check 'verify renames nothing' test -d "$dir/step-00000020"
expect 'verify --json' 1 "$CAIRN" ckpt verify --json "$dir/step-00000020"
check 'verify --json: not sound' grep -q '"sound": false' "$scratch/got.out"
expect 'diff with a damaged one fails' 1 "$CAIRN" ckpt diff "$dir/step-00000010" "$dir/step-00000020"
check 'diff: the fault is told' grep -q 'checksum differs' "$scratch/got.err"
truncate -s 100 "$dir/step-00000020/state.h5"
expect 'list with a damaged state' 0 "$CAIRN" ckpt list "$run"
check 'list: damaged is told' grep -q '^ *20 .* damaged ' "$scratch/got.out"

golden=$CAIRN_SOURCE/tests/golden/checkpoint-1/step-00000012
expect 'a checkpoint of format 1, as it was first written, is sound' 0 "$CAIRN" ckpt verify "$golden"
expect 'its info' 0 "$CAIRN" ckpt info "$golden"
check 'its hash is as ever' grep -qx 'weights e079bf2e322a691f' "$scratch/got.out"

expect 'a folder that is not there' 1 "$CAIRN" ckpt list "$scratch/none"
expect 'no checkpoint in it' 1 "$CAIRN" ckpt info "$scratch/raw"
expect 'no argument' 2 "$CAIRN" ckpt verify
finish
