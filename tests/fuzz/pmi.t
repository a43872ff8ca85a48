#!/bin/sh
# The PMI bridge's conversation on its corpus and on mutations of it.
exec timeout -k 5 120 "$CAIRN_BUILD/tests/fuzz/fuzz_pmi" "$CAIRN_SOURCE/tests/fuzz/corpus-pmi"
