#!/bin/sh
# The config reader on its corpus and on mutations of it.
exec timeout -k 5 "${CAIRN_TEST_SECONDS:-120}" "$CAIRN_BUILD/tests/fuzz/fuzz_config" "$CAIRN_SOURCE/tests/fuzz/corpus-config"
