#!/usr/bin/python3
"""Makes the golden file of the mixture of experts: experts.h5.

One block, router and experts, is computed in plain PyTorch in float64, forward and, by autograd, backward. A float32 run is there
to say how close a float32 implementation can come, which is printed as a table. README.md describes the file.

Usage: make_experts.py [FOLDER]     Debian: python3-torch, python3-h5py
"""
import math
import os
import sys

import h5py
import numpy as np
import torch
import torch.nn.functional as F

# Sizes that fit no vector width. Each case drops some rows and leaves some places empty; make() checks it.
CASES = {
    'switch': dict(rows=29, width=13, hidden=21, experts=4, choices=1, capacity_factor=1.0, balance=0.02, z=0.003, seed=1),
    'top2': dict(rows=23, width=11, hidden=19, experts=6, choices=2, capacity_factor=1.1, balance=0.7, z=0.05, seed=3),
}


def tensor_shapes(c):
    e, w, h = c['experts'], c['width'], c['hidden']
    return {'x': (c['rows'], w), 'router.weight': (e, w), 'expand.weight': (e, h, w), 'expand.bias': (e, h),
            'contract.weight': (e, w, h), 'contract.bias': (e, w)}


def places(c, chosen):
    """Who gets in: first choices first, then by row. Returns for every expert its (row, choice) pairs."""
    capacity = math.ceil(c['capacity_factor'] * c['rows'] * c['choices'] / c['experts'])
    taken = [[] for _ in range(c['experts'])]
    for choice in range(c['choices']):
        for row in range(c['rows']):
            expert = taken[int(chosen[row, choice])]
            if len(expert) < capacity:
                expert.append((row, choice))
    return capacity, taken


def block(c, t):
    """The output, both losses, and the experts that the rows chose."""
    logits = t['x'] @ t['router.weight'].t()
    probabilities = logits.softmax(dim=1)
    gates, chosen = probabilities.topk(c['choices'], dim=1)
    if c['choices'] > 1:
        gates = gates / gates.sum(dim=1, keepdim=True)
    capacity, taken = places(c, chosen)
    rows_out = [torch.zeros_like(t['x'][0]) for _ in range(c['rows'])]
    for e, pairs in enumerate(taken):
        for row, choice in pairs:
            h = F.gelu(t['x'][row] @ t['expand.weight'][e].t() + t['expand.bias'][e], approximate='tanh')
            rows_out[row] = rows_out[row] + gates[row, choice] * (h @ t['contract.weight'][e].t() + t['contract.bias'][e])
    share = F.one_hot(chosen, c['experts']).to(logits.dtype).mean(dim=(0, 1))
    balance = c['experts'] * (share * probabilities.mean(dim=0)).sum()
    z = (logits.logsumexp(dim=1) ** 2).mean()
    return torch.stack(rows_out), torch.stack((balance, z)), chosen, capacity, taken


def run(c, initial, dtype):
    """What the file stores of a case, by dataset name."""
    t = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in initial.items() if name != 'dy'}
    y, losses, chosen, capacity, taken = block(c, t)
    loss = (torch.tensor(initial['dy'], dtype=dtype) * y).sum() + c['balance'] * losses[0] + c['z'] * losses[1]
    loss.backward()
    results = {'y': y.detach().numpy(), 'losses': losses.detach().numpy(), 'expert': chosen.numpy().astype(np.int32)}
    results.update({'gradient/' + name: p.grad.numpy() for name, p in t.items()})
    return results, capacity, taken


def make(file, name, c):
    random = np.random.Generator(np.random.Philox(c['seed']))
    shapes = dict(tensor_shapes(c), dy=(c['rows'], c['width']))
    initial = {tensor: (random.standard_normal(shape) * (0.5 if len(shape) > 1 else 0.1)).astype(np.float32)
               for tensor, shape in shapes.items()}
    golden, capacity, taken = run(c, initial, torch.float64)
    kept = [len(pairs) for pairs in taken]
    assert sum(kept) < c['rows'] * c['choices'] and min(kept) < capacity, f'{name}: no row is dropped, or no place empty: {kept}'
    float32, _, _ = run(c, initial, torch.float32)
    assert (float32['expert'] == golden['expert']).all(), f'{name}: a choice is too near a tie for float32'
    for tensor, value in golden.items():
        if tensor != 'expert':
            worst = np.abs(float32[tensor] - value).max() / np.abs(value).max()
            print(f'{name:8} {tensor:24} float32 differs by {worst:.1e} of the largest value')
    group = file.create_group(name)
    for attribute, value in dict(c, capacity=capacity).items():
        group.attrs[attribute] = np.float64(value) if isinstance(value, float) else np.int32(value)
    for tensor, value in {**initial, **golden}.items():
        group[tensor] = value


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    with h5py.File(os.path.join(folder, 'experts.h5'), 'w') as file:
        file.attrs['format'] = np.bytes_('cairn golden experts 1')
        file.attrs['torch'] = np.bytes_(torch.__version__)
        for name, c in CASES.items():
            make(file, name, c)


if __name__ == '__main__':
    main()
