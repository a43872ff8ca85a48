#!/usr/bin/env python3
"""Times training steps of a GPT-2 in PyTorch on one GPU, to compare Cairn with. Prints one line of JSON.

The model of tests/bench/pytorch_gpt_installed.py as PyTorch runs it fastest on a GPU: float32 master weights and bfloat16 by autocast,
F.scaled_dot_product_attention by flash kernels or cuDNN's, the fused AdamW, the head's rows padded to a multiple of 128, shapes that
do not change; --compile: all but the optimizer through torch.compile.
"""
import argparse
import json
import math
import statistics
import time

STARTED = time.perf_counter()

CASES = {
    '124m': dict(layers=12, width=768, heads=12, context=1024, vocabulary=50257, batch=32),
    '1.5b': dict(layers=48, width=1600, heads=25, context=1024, vocabulary=50257, batch=8),
    'tiny': dict(layers=2, width=64, heads=1, context=32, vocabulary=512, batch=2),
}
OPTIMIZER = dict(lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
WEIGHT_DECAY = 0.1
CLIP = 1.0


def arguments():
    p = argparse.ArgumentParser(description='times training steps of a GPT-2 in PyTorch on a GPU')
    p.add_argument('--case', choices=CASES, default='124m')
    p.add_argument('--compile', choices=('none', 'default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs'), default='none',
                   help="torch.compile's mode")
    p.add_argument('--steps', type=int, default=50, help='steps that are timed')
    p.add_argument('--warmup', type=int, default=10, help='steps before them')
    p.add_argument('--pad', type=int, default=128, help="the head's rows are a multiple of it")
    p.add_argument('--attention', choices=('flash', 'cudnn'), default='flash', help="whose kernels F.scaled_dot_product_attention takes")
    p.add_argument('--weights', choices=('float32', 'bfloat16'), default='float32',
                   help='bfloat16: no masters; weights, gradients and moments in bfloat16, which is less than Cairn does')
    return p.parse_args()


A = arguments()
import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

ATTENTION = {'flash': SDPBackend.FLASH_ATTENTION, 'cudnn': SDPBackend.CUDNN_ATTENTION}


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c['width']
        self.heads = c['heads']
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.projection = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.expand, self.contract = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def attend(self, x):
        b, t, d = x.shape
        q, k, v = (p.view(b, t, self.heads, d // self.heads).transpose(1, 2) for p in self.qkv(x).split(d, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.projection(y.transpose(1, 2).reshape(b, t, d))

    def forward(self, x):
        x = x + self.attend(self.attention_norm(x))
        return x + self.contract(F.gelu(self.expand(self.mlp_norm(x)), approximate='tanh'))


class GPT(nn.Module):
    def __init__(self, c, pad):
        super().__init__()
        rows = math.ceil(c['vocabulary'] / pad) * pad
        self.token_embedding = nn.Embedding(rows, c['width'])
        self.position_embedding = nn.Embedding(c['context'], c['width'])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c['layers']))
        self.final_norm = nn.LayerNorm(c['width'])
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(p)

    def forward(self, tokens, targets):
        x = (self.token_embedding(tokens) + self.position_embedding.weight).bfloat16()  # what layers add to is, as in Cairn
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.final_norm(x), self.token_embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def parameter_groups(parameters):
    parameters = list(parameters)
    return [dict(params=[p for p in parameters if p.dim() >= 2], weight_decay=WEIGHT_DECAY),
            dict(params=[p for p in parameters if p.dim() < 2], weight_decay=0.0)]


def make_step(c):
    torch.manual_seed(0)
    torch.set_float32_matmul_precision('high')
    with torch.device('cuda'):
        model = GPT(c, A.pad)
        samples = torch.randint(c['vocabulary'], (c['batch'], c['context'] + 1))
    if A.weights == 'bfloat16':
        model.bfloat16()
    tokens, targets = samples[:, :-1].contiguous(), samples[:, 1:].contiguous()
    optimizer = torch.optim.AdamW(parameter_groups(model.parameters()), **OPTIMIZER)
    run = model if A.compile == 'none' else torch.compile(model, mode=A.compile, dynamic=False, fullgraph=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cuda', dtype=torch.bfloat16), sdpa_kernel(ATTENTION[A.attention]):
            loss = run(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP, foreach=True)
        optimizer.step()
        return loss.item()  # as Cairn tells each step's loss

    return step


def main():
    c = CASES[A.case]
    step = make_step(c)
    seconds, first = [], None
    for n in range(A.warmup + A.steps):
        begin = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        end = time.perf_counter()
        first = first or end - STARTED
        if n >= A.warmup:
            seconds.append(end - begin)
    mib = 1 << 20
    print(json.dumps(dict(program='pytorch', version=torch.__version__, device=torch.cuda.get_device_name(), case=A.case, compile=A.compile,
                          attention=A.attention, weights=A.weights, steps=A.steps, median_ms=round(1000 * statistics.median(seconds), 3),
                          min_ms=round(1000 * min(seconds), 3), max_ms=round(1000 * max(seconds), 3),
                          tokens_per_second=round(c['batch'] * c['context'] / statistics.median(seconds)),
                          allocated_mib=round(torch.cuda.max_memory_allocated() / mib),
                          reserved_mib=round(torch.cuda.max_memory_reserved() / mib),
                          startup_seconds=round(first, 2), loss=round(loss, 6) if math.isfinite(loss) else None)))


if __name__ == '__main__':
    main()
