#!/bin/sh
# The command itself: help, unknown subcommands, exit codes.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"

: >"$scratch/out"
expect 'no arguments is bad usage' 2 "$CAIRN"
: >"$scratch/err"
expect '--help is asked for' 0 "$CAIRN" --help
cp "$scratch/got.out" "$scratch/help"
cp "$scratch/help" "$scratch/out"
expect 'help is the same' 0 "$CAIRN" help
check 'the help lists version' grep -q '^  version ' "$scratch/help"

: >"$scratch/out"
echo "cairn: error: unknown command 'trian'; 'cairn --help' lists them" >"$scratch/err"
expect 'an unknown subcommand is bad usage' 2 "$CAIRN" trian

: >"$scratch/err"
expect 'version' 0 "$CAIRN" version
check 'version names Cairn first' sh -c 'head -n 1 "$1" | grep -Eq "^cairn [0-9]+\.[0-9]+\.[0-9]+$"' - "$scratch/got.out"
check 'version names the MPI library' grep -qi 'mpi' "$scratch/got.out"

for name in $(sed -n 's/^  \([a-z][a-z]*\) .*/\1/p' "$scratch/help"); do
    : >"$scratch/err"
    expect "$name --help" 0 "$CAIRN" "$name" --help
    check "$name --help begins with the usage" sh -c 'head -n 1 "$1" | grep -q "^usage: cairn $2"' - "$scratch/got.out" "$name"
    : >"$scratch/out"
    expect "$name --nonsense is bad usage" 2 "$CAIRN" "$name" --nonsense
    check "$name --nonsense is told once" test "$(grep -c -e --nonsense "$scratch/got.err")" = 1
done
finish
