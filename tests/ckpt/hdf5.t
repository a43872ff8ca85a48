#!/bin/sh
# state.h5 as other HDF5 tools see it: every array whole under its name, also after the folder was copied elsewhere.
. "$CAIRN_SOURCE/tests/cmd/tap.sh"
make() { timeout -k 5 60 "$MPIEXEC" -n 3 "$CAIRN_BUILD/tests/ckpt/make_checkpoint" "$@"; }

check 'a checkpoint of three parts in rows' make "$scratch/a" 120 1 1 3
mkdir "$scratch/elsewhere"
mv "$scratch/a/step-00000120" "$scratch/elsewhere/moved"
check 'it is of three parts' test -e "$scratch/elsewhere/moved/part-0002.h5"
state=$scratch/elsewhere/moved/state.h5

if command -v h5ls >/dev/null; then
    h5ls -r "$state" >"$scratch/h5ls" 2>&1
    for line in '/weights/block.1/row *Dataset {1, 300001}' '/weights/a *Dataset {7, 5}' '/moments/flat *Dataset {1000003}' '/count *Dataset {2, 3, 2, 3}'; do
        check "h5ls: $line" grep -q "$line" "$scratch/h5ls"
    done
else
    skip 'h5ls' 'h5ls is not installed (hdf5-tools)'
fi

if /usr/bin/python3 -c 'import h5py' 2>/dev/null; then
    cd "$scratch/elsewhere"
    check 'h5py reads every array as it was' /usr/bin/python3 "$CAIRN_SOURCE/tests/ckpt/compare.py" "$state" "$scratch/a/raw"
    cd "$CAIRN_BUILD"
    for layout in 0 2 4; do
        make "$scratch/b$layout" 7 "$layout" "$layout" 2 >/dev/null
        check "h5py, layout $layout" /usr/bin/python3 "$CAIRN_SOURCE/tests/ckpt/compare.py" "$scratch/b$layout/step-00000007/state.h5" "$scratch/b$layout/raw"
    done
    cd /
    check 'h5py, another working folder' /usr/bin/python3 "$CAIRN_SOURCE/tests/ckpt/compare.py" "$state" "$scratch/a/raw"
else
    skip 'h5py' "/usr/bin/python3 has no h5py (python3-h5py)"
fi
finish
