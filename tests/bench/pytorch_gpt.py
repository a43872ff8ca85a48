#!/usr/bin/python3
"""Times training steps of a GPT-2 in PyTorch on the CPU, to compare Cairn with. Prints one line of JSON.

`--mode installed` is the model as one would write it down, on PyTorch as it is installed. `--mode tuned` is the fastest
that PyTorch was found to do the same work (README.md lists the choices): OpenBLAS built for OpenMP, bound
threads, a malloc that keeps its memory, AVX-512 kernels, and a step that reuses its large buffers.

Debian: python3-torch; for `tuned` also libopenblas0-openmp.
"""
import argparse
import json
import math
import os
import statistics
import sys
import time

CASES = {
    '124m': dict(layers=12, width=768, heads=12, context=64, vocabulary=50257, batch=4),
    'small': dict(layers=6, width=384, heads=6, context=256, vocabulary=50257, batch=8),
    'tiny': dict(layers=2, width=64, heads=2, context=32, vocabulary=512, batch=2),
}
OPENBLAS = '/usr/lib/x86_64-linux-gnu/openblas-openmp'

# Settings of each malloc under which memory once obtained is not given back, on huge pages where it can.
MALLOCS = {
    'default': {},
    'glibc': dict(MALLOC_MMAP_MAX_='0', MALLOC_TRIM_THRESHOLD_='1000000000000', MALLOC_TOP_PAD_='268435456',
                  MALLOC_ARENA_MAX='1'),
    'glibc-huge': dict(MALLOC_MMAP_MAX_='0', MALLOC_TRIM_THRESHOLD_='1000000000000', MALLOC_TOP_PAD_='268435456',
                       MALLOC_ARENA_MAX='1', GLIBC_TUNABLES='glibc.malloc.hugetlb=1'),
    'jemalloc': dict(LD_PRELOAD='libjemalloc.so.2', MALLOC_CONF='dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always'),
    'tcmalloc': dict(LD_PRELOAD='libtcmalloc_minimal.so.4', TCMALLOC_RELEASE_RATE='0'),
}


def arguments():
    p = argparse.ArgumentParser(description='times training steps of a GPT-2 in PyTorch on the CPU')
    p.add_argument('--case', choices=CASES, default='124m')
    p.add_argument('--precision', choices=('float32', 'bfloat16'), default='float32')
    p.add_argument('--mode', choices=('installed', 'tuned'), default='tuned')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--steps', type=int, default=10, help='steps that are timed')
    p.add_argument('--warmup', type=int, default=3, help='steps before them')
    p.add_argument('--malloc', choices=MALLOCS, default='glibc-huge', help='for --mode tuned')
    p.add_argument('--openblas', default=OPENBLAS, help='folder of the libraries of libopenblas0-openmp')
    p.add_argument('--capability', choices=('avx2', 'avx512'), default='avx512', help="PyTorch's own kernels when tuned")
    return p.parse_args()


def tuned_environment(a):
    if not os.path.exists(os.path.join(a.openblas, 'libopenblas.so.0')):
        sys.exit(f'{a.openblas} has no libopenblas.so.0: install libopenblas0-openmp, or name its folder by --openblas')
    path = [a.openblas] + [p for p in [os.environ.get('LD_LIBRARY_PATH')] if p]
    return dict(OMP_PROC_BIND='true', ATEN_CPU_CAPABILITY=a.capability, LD_LIBRARY_PATH=':'.join(path),
                **MALLOCS[a.malloc])


def enter_environment(a):
    """What malloc and the dynamic linker read must be there when the program starts: starts it again, once."""
    if os.environ.get('PYTORCH_GPT_ENVIRONMENT') == 'set':
        return
    new = dict(PYTORCH_GPT_ENVIRONMENT='set', OMP_NUM_THREADS=str(a.threads))
    if a.mode == 'tuned':
        new.update(tuned_environment(a))
    os.execve(sys.executable, [sys.executable] + sys.argv, dict(os.environ, **new))


def make_tokens(torch, c):
    g = torch.Generator().manual_seed(1)
    s = torch.randint(c['vocabulary'], (c['batch'], c['context'] + 1), generator=g)
    return s[:, :-1].contiguous(), s[:, 1:].contiguous()


def measure(step, a):
    """Runs `step` and returns (seconds of each timed step, last loss)."""
    for _ in range(a.warmup):
        loss = step()
    seconds = []
    for _ in range(a.steps):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    return seconds, loss


def main():
    a = arguments()
    enter_environment(a)
    sys.dont_write_bytecode = True
    import torch
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if a.mode == 'installed':
        from pytorch_gpt_installed import make_step
    else:
        from pytorch_gpt_tuned import make_step
    c = CASES[a.case]
    tokens, targets = make_tokens(torch, c)
    seconds, loss = measure(make_step(c, a, tokens, targets), a)
    print(json.dumps(dict(program='pytorch', version=torch.__version__, case=a.case, precision=a.precision, mode=a.mode,
                          threads=a.threads, steps=a.steps, median_ms=round(1000 * statistics.median(seconds), 1),
                          min_ms=round(1000 * min(seconds), 1), max_ms=round(1000 * max(seconds), 1),
                          step_ms=[round(1000 * s, 1) for s in seconds],
                          loss=round(loss, 6) if math.isfinite(loss) else None)))


if __name__ == '__main__':
    main()
