#!/usr/bin/python3
"""Makes the golden files of the GPT model: gpt_tied.h5, gpt_untied.h5 and gpt_accumulate.h5.

A GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019) in plain PyTorch is trained for
ten steps in float64 and in float32. The float64 values are stored; the float32 run is there to say how close a float32
implementation can come, which is printed as a table. README.md describes the files.

Usage: make_gpt.py [FOLDER]     Debian: python3-torch, python3-h5py
"""
import math
import os
import sys

import h5py
import numpy as np
import torch
import torch.nn.functional as F

STEPS = 10

# Ten steps see the warm-up, the cosine and the floor behind decay_steps.
COMMON = dict(layer_norm_epsilon=1e-5, learning_rate=3e-3, min_learning_rate=3e-4, warmup_steps=3, decay_steps=8,
              beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)

# Sizes that fit no vector width, so that the tails of loops are used, and that differ from file to file. `clip` lies
# between the smallest and the largest gradient norm, so that some steps are clipped and some are not; make() checks it.
# The seeds are such that no gradient of the first step is so near to 0 that AdamW, which divides it by its own size, blows
# its rounding in float32 up: print_deviations() shows it.
FILES = {
    'gpt_tied.h5': dict(tied=1, layers=2, width=15, heads=3, context=10, vocabulary=31, batch=3, microbatches=1,
                        seed=1, clip=2.5),
    'gpt_untied.h5': dict(tied=0, layers=1, width=20, heads=4, context=9, vocabulary=37, batch=3, microbatches=1,
                          seed=2, clip=2.5),
    'gpt_accumulate.h5': dict(tied=1, layers=3, width=10, heads=2, context=7, vocabulary=41, batch=2, microbatches=4,
                              seed=6, clip=1.5),
}


def tensor_shapes(c):
    """Every tensor's name and shape, in the order in which the files list them."""
    d, shapes = c['width'], {}
    shapes['token_embedding'] = (c['vocabulary'], d)
    shapes['position_embedding'] = (c['context'], d)
    for n in range(c['layers']):
        block = f'block.{n}.'
        for name, rows, columns in (('attention.qkv', 3 * d, d), ('attention.projection', d, d),
                                    ('mlp.expand', 4 * d, d), ('mlp.contract', d, 4 * d)):
            shapes[block + name + '.weight'] = (rows, columns)
            shapes[block + name + '.bias'] = (rows,)
        for name in ('attention_norm', 'mlp_norm'):
            shapes[block + name + '.gain'] = (d,)
            shapes[block + name + '.bias'] = (d,)
    shapes['final_norm.gain'] = (d,)
    shapes['final_norm.bias'] = (d,)
    if not c['tied']:
        shapes['head.weight'] = (c['vocabulary'], d)
    return shapes


def initial_weights(c, random):
    """Weights that leave no term idle: biases are not 0, gains not 1, and attention is far from uniform."""
    weights = {}
    for name, shape in tensor_shapes(c).items():
        spread = 0.3 if len(shape) == 2 else 0.1
        centre = 1.0 if name.endswith('.gain') else 0.0
        weights[name] = (centre + spread * random.standard_normal(shape)).astype(np.float32)
    return weights


def sequences(c, random):
    """Tokens [steps, microbatches, batch, context + 1]; low numbers are more frequent, as in text."""
    shape = (STEPS, c['microbatches'], c['batch'], c['context'] + 1)
    return np.floor(c['vocabulary'] * random.random(shape) ** 2).astype(np.int32)


def linear(w, name, x):
    return x @ w[name + '.weight'].t() + w[name + '.bias']


def layer_norm(w, name, x, c):
    return F.layer_norm(x, x.shape[-1:], w[name + '.gain'], w[name + '.bias'], c['layer_norm_epsilon'])


def attention(w, name, x, c):
    batch, length, width = x.shape
    size = width // c['heads']
    q, k, v = (part.view(batch, length, c['heads'], size).transpose(1, 2)
               for part in linear(w, name + '.qkv', x).split(width, dim=2))
    scores = q @ k.transpose(2, 3) / math.sqrt(size)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    y = scores.masked_fill(future, -math.inf).softmax(dim=3) @ v
    return linear(w, name + '.projection', y.transpose(1, 2).reshape(batch, length, width))


def token_losses(w, tokens, targets, c):
    """Cross-entropy of every token: [batch, context]."""
    x = w['token_embedding'][tokens] + w['position_embedding'][:tokens.shape[1]]
    for n in range(c['layers']):
        block = f'block.{n}.'
        x = x + attention(w, block + 'attention', layer_norm(w, block + 'attention_norm', x, c), c)
        h = F.gelu(linear(w, block + 'mlp.expand', layer_norm(w, block + 'mlp_norm', x, c)), approximate='tanh')
        x = x + linear(w, block + 'mlp.contract', h)
    head = w['token_embedding'] if c['tied'] else w['head.weight']
    logits = layer_norm(w, 'final_norm', x, c) @ head.t()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction='none').view(tokens.shape)


def learning_rate(c, step):
    """Linear warm-up, cosine, floor; `step` counts from 0."""
    top, floor, warmup, end = (c[k] for k in ('learning_rate', 'min_learning_rate', 'warmup_steps', 'decay_steps'))
    if step < warmup:
        return top * (step + 1) / warmup
    t = min(1.0, (step - warmup) / (end - warmup))
    return floor + (top - floor) * 0.5 * (1 + math.cos(math.pi * t))


def adamw(w, c):
    """Decay is for matrices alone; biases and norms have none."""
    groups = [dict(params=[p for p in w.values() if p.dim() == 2], weight_decay=c['weight_decay']),
              dict(params=[p for p in w.values() if p.dim() == 1], weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=0.0, betas=(c['beta1'], c['beta2']), eps=c['epsilon'])


def step_gradients(w, tokens, targets, c):
    """Leaves the mean over microbatches of their mean losses' gradients in w; returns the token losses."""
    losses = []
    for microbatch in range(c['microbatches']):
        loss = token_losses(w, tokens[microbatch], targets[microbatch], c)
        (loss.mean() / c['microbatches']).backward()
        losses.append(loss.detach())
    return torch.stack(losses)


def train(c, initial, sequence, dtype):
    """Ten steps; returns what the file stores, by dataset name."""
    w = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in initial.items()}
    optimizer = adamw(w, c)
    tokens, targets = (torch.tensor(part, dtype=torch.int64) for part in (sequence[..., :-1], sequence[..., 1:]))
    r = dict(loss=[], gradient_norm=[], learning_rate=[])
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(c, step)
        optimizer.zero_grad(set_to_none=True)
        losses = step_gradients(w, tokens[step], targets[step], c)
        if step == 0:
            r['token_loss'] = losses.numpy()
            r.update({'gradient/' + name: p.grad.numpy().copy() for name, p in w.items()})
        norm = torch.nn.utils.clip_grad_norm_(list(w.values()), c['clip'])
        optimizer.step()
        r['loss'].append(losses.mean().item())
        r['gradient_norm'].append(norm.item())
        r['learning_rate'].append(learning_rate(c, step))
    for name, p in w.items():
        r['final/weights/' + name] = p.detach().numpy()
        r['final/moment1/' + name] = optimizer.state[p]['exp_avg'].numpy()
        r['final/moment2/' + name] = optimizer.state[p]['exp_avg_sq'].numpy()
    return {name: np.asarray(value) for name, value in r.items()}


def compared(c, name, value):
    """The part of a dataset that a float32 run can be held to: all but the key rows of qkv.bias (see README.md)."""
    if not name.endswith('qkv.bias'):
        return value
    return np.delete(value, np.s_[c['width']:2 * c['width']])


def deviation(c, name, value, golden):
    value, golden = compared(c, name, value), compared(c, name, golden)
    return np.abs(value - golden).max() / np.abs(golden).max()


def print_deviations(file, c, float32, float64):
    worst = {}
    for name in float64:
        group = name.rsplit('/', 1)[0]
        worst[group] = max(worst.get(group, 0), deviation(c, name, float32[name], float64[name]))
    for group, value in sorted(worst.items()):
        print(f'{file}  {group:16} float32 differs by {value:.1e} of the largest value')


def write(path, c, initial, sequence, results):
    with h5py.File(path, 'w') as f:
        f.attrs['format'] = np.bytes_('cairn golden gpt 1')
        f.attrs['torch'] = np.bytes_(torch.__version__)
        for name, value in c.items():
            f.attrs[name] = np.float64(value) if isinstance(value, float) else np.int32(value)
        f['tokens'] = np.ascontiguousarray(sequence[..., :-1])
        f['targets'] = np.ascontiguousarray(sequence[..., 1:])
        for name, value in initial.items():
            f['initial/weights/' + name] = value
        for name, value in results.items():
            f[name] = value


def make(folder, file, choices):
    c = dict(COMMON, **choices, steps=STEPS)
    random = np.random.Generator(np.random.Philox(c['seed']))
    initial, sequence = initial_weights(c, random), sequences(c, random)
    golden = train(c, initial, sequence, torch.float64)
    norms = golden['gradient_norm']
    assert norms.min() < c['clip'] < norms.max(), f'{file}: clip {c["clip"]} is outside the norms {norms}'
    print_deviations(file, c, train(c, initial, sequence, torch.float32), golden)
    write(os.path.join(folder, file), c, initial, sequence, golden)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for file, choices in FILES.items():
        make(folder, file, choices)


if __name__ == '__main__':
    main()
