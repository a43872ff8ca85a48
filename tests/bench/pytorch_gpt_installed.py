"""The GPT-2 of pytorch_gpt.py as one would write it down."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

OPTIMIZER = dict(lr=3e-4, betas=(0.9, 0.95), eps=1e-8)
WEIGHT_DECAY = 0.1
CLIP = 1.0


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c['width']
        self.heads = c['heads']
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.projection = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.expand, self.contract = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.register_buffer('future', torch.ones(c['context'], c['context'], dtype=torch.bool).triu(1))

    def attend(self, x):
        b, t, d = x.shape
        q, k, v = (p.view(b, t, self.heads, d // self.heads).transpose(1, 2) for p in self.qkv(x).split(d, dim=2))
        scores = (q @ k.transpose(2, 3)) / math.sqrt(d // self.heads)
        y = scores.masked_fill(self.future, -math.inf).softmax(3) @ v
        return self.projection(y.transpose(1, 2).reshape(b, t, d))

    def forward(self, x):
        x = x + self.attend(self.attention_norm(x))
        return x + self.contract(F.gelu(self.expand(self.mlp_norm(x)), approximate='tanh'))


class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.token_embedding = nn.Embedding(c['vocabulary'], c['width'])
        self.position_embedding = nn.Embedding(c['context'], c['width'])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c['layers']))
        self.final_norm = nn.LayerNorm(c['width'])
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(p)

    def forward(self, tokens):
        x = self.token_embedding(tokens) + self.position_embedding.weight
        for block in self.blocks:
            x = block(x)
        return F.linear(self.final_norm(x), self.token_embedding.weight)


def parameter_groups(parameters):
    parameters = list(parameters)
    return [dict(params=[p for p in parameters if p.dim() >= 2], weight_decay=WEIGHT_DECAY),
            dict(params=[p for p in parameters if p.dim() < 2], weight_decay=0.0)]


def make_step(c, a, tokens, targets):
    model = GPT(c)
    optimizer = torch.optim.AdamW(parameter_groups(model.parameters()), **OPTIMIZER)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=a.precision == 'bfloat16'):
            loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return step
