#!/bin/sh
# The dataset reader on the golden files and on mutations of them.
exec timeout -k 5 300 "$CAIRN_BUILD/tests/fuzz/fuzz_dataset" "$CAIRN_SOURCE/tests/golden/dataset"
