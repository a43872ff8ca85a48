#!/usr/bin/env python3
"""Makes the small datasets of tests/golden/dataset with h5py, after doc/formats/dataset.md alone: no code of Cairn has a part in them.
Needs python3-h5py and libxxhash. Token i of a split is (i * i * 7 + i * 3 + split) % vocabulary."""
import ctypes
import os
import sys

import h5py
import numpy as np

xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_64bits.restype = ctypes.c_uint64
xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
TOKENS = {"train": 1000, "validation": 200}
BLOCK = 512


def checksums(raw):
    return np.array([xxhash.XXH3_64bits(raw[i:i + BLOCK], len(raw[i:i + BLOCK])) for i in range(0, len(raw), BLOCK)], dtype="<u8")


def make(path, dtype, vocabulary, libver="earliest", **layout):
    with h5py.File(path, "w", libver=libver) as f:
        f.attrs["format"] = "cairn-dataset"
        f.attrs["version"] = np.int64(1)
        f.attrs["kind"] = "tokens"
        f.attrs["tokenizer"] = "formula"
        f.attrs["vocabulary"] = np.int64(vocabulary)
        f.attrs["created_by"] = "make_dataset.py"
        for number, (split, count) in enumerate(TOKENS.items()):
            i = np.arange(count, dtype=np.int64)
            tokens = ((i * i * 7 + i * 3 + number) % vocabulary).astype(dtype)
            group = f.create_group(split)
            group.create_dataset("tokens", data=tokens, **layout)
            sums = group.create_dataset("checksums", data=checksums(tokens.astype(tokens.dtype.newbyteorder("<")).tobytes()))
            sums.attrs["algorithm"] = "xxh3-64"
            sums.attrs["block_bytes"] = np.int64(BLOCK)


folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "dataset")
make(os.path.join(folder, "contiguous.h5"), "<u1", 256)
make(os.path.join(folder, "chunked.h5"), "<u2", 5000, chunks=(128,))
make(os.path.join(folder, "deflate.h5"), "<u4", 100000, chunks=(128,), compression="gzip", compression_opts=6)
make(os.path.join(folder, "bigendian.h5"), ">u2", 5000, libver="latest", chunks=(128,))
make(os.path.join(folder, "shuffle.h5"), "<u2", 5000, chunks=(128,), libver="latest", compression="gzip", shuffle=True)
