#!/bin/sh
# The readers of a checkpoint's table on their corpus and on mutations of it.
exec timeout -k 5 120 "$CAIRN_BUILD/tests/fuzz/fuzz_checkpoint" "$CAIRN_SOURCE/tests/fuzz/corpus-checkpoint"
