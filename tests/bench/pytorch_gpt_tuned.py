"""The GPT-2 of pytorch_gpt.py, doing the same work as fast as PyTorch was found to do it."""
import math

import torch
import torch.nn.functional as F

from pytorch_gpt_installed import CLIP, GPT, OPTIMIZER, WEIGHT_DECAY

# AdamW goes over its arrays in pieces of so many elements, all of whose passes then find them in the cache.
PIECE = 1 << 17


class HeadLoss(torch.autograd.Function):
    """Logits, their softmax and their gradient in one buffer; the head's weight gradient goes straight to its place."""

    @staticmethod
    def forward(ctx, x, head, gradient, logits, targets):
        torch.mm(x, head.t(), out=logits)
        torch._softmax(logits, 1, False, out=logits)
        picked = logits.gather(1, targets).float()
        logits.scatter_add_(1, targets, logits.new_full(targets.shape, -1))
        ctx.saved = x, head, gradient, logits
        return picked.log_().mean().neg_()

    @staticmethod
    def backward(ctx, _):
        x, head, gradient, logits = ctx.saved
        torch.mm(logits.t(), x / len(x), out=gradient)
        return logits.mm(head).div_(len(x)), None, None, None, None


class TokenEmbedding(torch.autograd.Function):
    """The tied weight's other use: its gradient is added where HeadLoss, whose backward came first, put its own."""

    @staticmethod
    def forward(ctx, positions, weight, gradient, tokens):
        ctx.saved = gradient, tokens, positions.shape
        return (weight[tokens].view(-1, *positions.shape) + positions).flatten(0, 1)

    @staticmethod
    def backward(ctx, dy):
        gradient, tokens, shape = ctx.saved
        gradient.index_add_(0, tokens, dy)
        return dy.view(-1, *shape).sum(0), None, None, None


class Model:
    """Weights in the precision of the products, activations [tokens, width] throughout."""

    def __init__(self, c, model, dtype, tokens, targets):
        self.c, self.d = c, c['width']
        self.w = {name: p.detach().to(dtype).clone().requires_grad_() for name, p in model.named_parameters()}
        self.table = self.w['token_embedding.weight'].requires_grad_(False)
        self.table.grad = torch.empty_like(self.table)
        self.tokens, self.targets = tokens.flatten(), targets.view(-1, 1)
        self.logits = torch.empty(self.tokens.numel(), c['vocabulary'], dtype=dtype)
        self.mask = torch.full((c['context'], c['context']), -math.inf).triu(1).to(dtype)

    def linear(self, name, x):
        return F.linear(x, self.w[name + '.weight'], self.w[name + '.bias'])

    def norm(self, name, x):
        return F.layer_norm(x, (self.d,), self.w[name + '.weight'], self.w[name + '.bias'])

    def attend(self, name, x):
        c, size = self.c, self.d // self.c['heads']
        b, t = c['batch'], c['context']
        qkv = self.linear(name + '.qkv', x).view(b, t, 3, c['heads'], size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, b * c['heads'], t, size)
        scores = torch.baddbmm(self.mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(size))
        y = scores.softmax(2).bmm(v).view(b, c['heads'], t, size)
        return self.linear(name + '.projection', y.transpose(1, 2).reshape(b * t, self.d))

    def loss(self):
        x = TokenEmbedding.apply(self.w['position_embedding.weight'], self.table, self.table.grad, self.tokens)
        for n in range(self.c['layers']):
            block = f'blocks.{n}.'
            x = self.attend(block[:-1], self.norm(block + 'attention_norm', x)).add_(x)
            h = F.gelu(self.linear(block + 'expand', self.norm(block + 'mlp_norm', x)), approximate='tanh')
            x = self.linear(block + 'contract', h).add_(x)
        return HeadLoss.apply(self.norm('final_norm', x), self.table, self.table.grad, self.logits, self.targets)


class AdamW:
    """Clipping and AdamW in one walk over pieces; float32 masters where the weights are bfloat16."""

    def __init__(self, weights):
        self.weights, self.step_count = list(weights), 0
        self.pieces = [(w, w.detach().float() if w.dtype != torch.float32 else w.detach(),
                        torch.zeros(w.shape), torch.zeros(w.shape)) for w in self.weights]
        self.divisor, self.widened = torch.empty(PIECE), torch.empty(PIECE)

    def clip_scale(self):
        squares = sum(torch.linalg.vector_norm(w.grad, dtype=torch.float32).item() ** 2 for w in self.weights)
        return min(1.0, CLIP / (math.sqrt(squares) + 1e-6))

    def update_piece(self, w, master, g, m, v, decay, scale):
        """Eight passes over one piece; w shares its memory with master unless it is bfloat16."""
        rate, (beta1, beta2), eps = (OPTIMIZER[k] for k in ('lr', 'betas', 'eps'))
        root2 = math.sqrt(1 - beta2 ** self.step_count)
        if g.dtype != torch.float32:
            g = self.widened[:len(g)].copy_(g)
        m.mul_(beta1).add_(g, alpha=(1 - beta1) * scale)
        v.mul_(beta2).addcmul_(g, g, value=(1 - beta2) * scale * scale)
        divisor = torch.sqrt(v, out=self.divisor[:len(v)]).add_(eps * root2)
        if decay:
            master.mul_(1 - rate * decay)
        master.addcdiv_(m, divisor, value=-rate * root2 / (1 - beta1 ** self.step_count))
        if w.dtype != torch.float32:
            w.copy_(master)

    @torch.no_grad()
    def step(self):
        self.step_count += 1
        scale = self.clip_scale()
        for w, master, m, v in self.pieces:
            decay = WEIGHT_DECAY if w.dim() == 2 else 0.0
            parts = (x.view(-1).split(PIECE) for x in (w.detach(), master, w.grad, m, v))
            for part in zip(*parts):
                self.update_piece(*part, decay, scale)
            if w.requires_grad:
                w.grad = None


def make_step(c, a, tokens, targets):
    dtype = torch.bfloat16 if a.precision == 'bfloat16' else torch.float32
    model = Model(c, GPT(c), dtype, tokens, targets)
    optimizer = AdamW(model.w.values())

    def step():
        loss = model.loss()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
