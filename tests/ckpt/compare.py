"""compare.py STATE RAW: every array of STATE is, byte for byte, the file of its name in RAW."""
import os
import sys

import h5py
import numpy

state, raw = sys.argv[1:]
names = set()


def visit(name, item):
    if isinstance(item, h5py.Dataset) and not name.startswith("checkpoint/"):
        names.add(name.replace("/", "+"))
        want = open(os.path.join(raw, name.replace("/", "+")), "rb").read()
        if item[...].tobytes() != want:
            sys.exit(f"{name} differs")
        stored = {"float32": "<f4", "bfloat16": "<u2", "float64": "<f8", "int32": "<i4"}[item.attrs["dtype"].decode()]
        if item.dtype != numpy.dtype(stored):
            sys.exit(f"{name}: {item.dtype} for {item.attrs['dtype']}")


with h5py.File(state, "r") as f:
    f.visititems(visit)
    facts = f["checkpoint"].attrs
    if facts["format"] != 1 or f["checkpoint/config"][()] != b"name: made\n":
        sys.exit("facts differ")
    if len(f["checkpoint/array_table"]) != len(names):
        sys.exit("the table of arrays differs")
if names != set(os.listdir(raw)):
    sys.exit(f"arrays differ: {names ^ set(os.listdir(raw))}")
