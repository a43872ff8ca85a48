#!/usr/bin/env python3
"""The samples of bench_reader, read by h5py: reader_h5py.py FILE ORDER [CONTEXT]. ORDER holds a sample's index a line."""
import os
import sys
import time

import h5py
import numpy as np

path, order = sys.argv[1], np.loadtxt(sys.argv[2], dtype=np.int64)
context = int(sys.argv[3]) if len(sys.argv) > 3 else 256


def drop_cache():
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


for state in "cold", "warm":
    if state == "cold":
        drop_cache()
    with h5py.File(path, "r", rdcc_nbytes=16 << 20) as f:  # as much as the loader keeps
        tokens, sum_ = f["/train/tokens"], 0
        begin = time.perf_counter()
        for i in order.tolist():
            sample = tokens[i * context:i * context + context + 1].astype(np.int32)
            sum_ += int(sample[0])
        seconds = time.perf_counter() - begin
    print(f"{'h5py':8} {state:5} {len(order) / seconds:10.0f} samples/s  {len(order) * (context + 1) * 1e-9 / seconds:7.4f} GB/s", flush=True)
