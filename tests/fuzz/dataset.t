#!/bin/sh
# The dataset reader on the golden files and on mutations of them. Damaged sizes make HDF5 ask for terabytes, which malloc refuses and HDF5
# takes: AddressSanitizer shall refuse too instead of ending the program.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}allocator_may_return_null=1"
exec timeout -k 5 600 "$CAIRN_BUILD/tests/fuzz/fuzz_dataset" "$CAIRN_SOURCE/tests/golden/dataset"
