#!/usr/bin/python3
"""Makes the golden file of single layers that no model of make_gpt.py has: layers.h5.

RMS norm and SwiGLU are computed by PyTorch's own functions in float64, forward and, by autograd, backward. A float32 run is there to say how
close a float32 implementation can come, which is printed as a table. README.md describes the file.

Usage: make_layers.py [FOLDER]     PyTorch 2.4 or later (torch.nn.functional.rms_norm), h5py
"""
import os
import sys

import h5py
import numpy as np
import torch
import torch.nn.functional as F

# Sizes that fit no vector width.
ROWS, WIDTH, EPSILON = 19, 37, 1e-5
SHAPES = {
    'rms_norm': {'x': (ROWS, WIDTH), 'gain': (WIDTH,)},
    'swiglu': {'x': (ROWS, 2 * WIDTH)},
}


def rms_norm(t):
    return F.rms_norm(t['x'], (WIDTH,), t['gain'], EPSILON)


def swiglu(t):
    gate, up = t['x'].chunk(2, dim=1)
    return F.silu(gate) * up


LAYERS = {'rms_norm': rms_norm, 'swiglu': swiglu}


def run(name, inputs, dtype):
    """What the file stores of a layer beside its inputs, by dataset name."""
    t = {tensor: torch.tensor(value, dtype=dtype, requires_grad=True) for tensor, value in inputs.items() if tensor != 'dy'}
    y = LAYERS[name](t)
    (torch.tensor(inputs['dy'], dtype=dtype) * y).sum().backward()
    return {'y': y.detach().numpy(), **{'gradient/' + tensor: p.grad.numpy() for tensor, p in t.items()}}


def make(file, name, seed):
    random = np.random.Generator(np.random.Philox(seed))
    shapes = dict(SHAPES[name], dy=(ROWS, WIDTH))
    inputs = {tensor: random.standard_normal(shape).astype(np.float32) for tensor, shape in shapes.items()}
    golden, float32 = run(name, inputs, torch.float64), run(name, inputs, torch.float32)
    for tensor, value in golden.items():
        worst = np.abs(float32[tensor] - value).max() / np.abs(value).max()
        print(f'{name:8} {tensor:16} float32 differs by {worst:.1e} of the largest value')
    group = file.create_group(name)
    for attribute, value in dict(rows=ROWS, width=WIDTH, seed=seed).items():
        group.attrs[attribute] = np.int32(value)
    if name == 'rms_norm':
        group.attrs['epsilon'] = np.float64(EPSILON)
    for tensor, value in {**inputs, **golden}.items():
        group[tensor] = value


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    with h5py.File(os.path.join(folder, 'layers.h5'), 'w') as file:
        file.attrs['format'] = np.bytes_('cairn golden layers 1')
        file.attrs['torch'] = np.bytes_(torch.__version__.split('+')[0])
        for seed, name in enumerate(LAYERS, 1):
            make(file, name, seed)


if __name__ == '__main__':
    main()
