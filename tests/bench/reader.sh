#!/bin/sh
# Samples a second of the loader, of plain pread and of h5py, over the dictionary of Debian's package dict-gcide, in several
# layouts, with a cold and a warm page cache.
#   tests/bench/reader.sh BUILD [SAMPLES]     BUILD: the folder Cairn was built in ('make cairn tests/bench/bench_reader')
set -eu
build=$(cd "$1" && pwd)
samples=${2:-20000}
here=$(cd "$(dirname "$0")" && pwd)
text=/usr/share/dictd/gcide.dict.dz
[ -e "$text" ] || { echo "reader.sh: $text is missing: install Debian's package dict-gcide" >&2; exit 1; }
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/cairn-bench-reader.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 143' INT TERM HUP
for layout in "contiguous:" "chunked 64 KiB:--chunk 65536" "deflate 4 KiB:--compress 6 --chunk 4096" "deflate 16 KiB:--compress 6 --chunk 16384" \
    "deflate 64 KiB:--compress 6 --chunk 65536" "deflate 256 KiB:--compress 6 --chunk 262144" "deflate 1 MiB:--compress 6 --chunk 1048576"; do
    "$build/cairn" data import text "$text" -o "$dir/x.h5" --force ${layout#*:} >/dev/null 2>&1
    echo "== ${layout%%:*}: $(stat -c %s "$dir/x.h5") bytes"
    "$build/tests/bench/bench_reader" "$dir/x.h5" --samples "$samples" --order "$dir/order"
    /usr/bin/python3 "$here/reader_h5py.py" "$dir/x.h5" "$dir/order"
done
