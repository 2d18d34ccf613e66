"""An ordinary GPT-2 training loop, written by hand in eager fp32 PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from peers.case import Case, Clock, read_tokens


class Block(nn.Module):
    """Pre-normalised attention and feed-forward."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.heads = case.heads
        self.ln_1 = nn.LayerNorm(case.width)
        self.attn = nn.Linear(case.width, 3 * case.width)
        self.proj = nn.Linear(case.width, case.width)
        self.ln_2 = nn.LayerNorm(case.width)
        self.mlp = nn.Sequential(
            nn.Linear(case.width, 4 * case.width),
            nn.GELU(),
            nn.Linear(4 * case.width, case.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.attn(self.ln_1(x)).chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    """GPT-2: learned positions, tied embeddings."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.tokens = nn.Embedding(case.vocabulary, case.width)
        self.positions = nn.Embedding(case.context, case.width)
        self.blocks = nn.ModuleList(Block(case) for _ in range(case.layers))
        self.norm = nn.LayerNorm(case.width)
        self.head = nn.Linear(case.width, case.vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def run(case: Case) -> None:
    """Train, looking at the loss as often as everyone else."""
    torch.manual_seed(1)
    tokens = read_tokens(case)
    model = Gpt(case)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.95),
    )
    clock = Clock(case)
    shown = float("nan")
    for step in range(1, case.total_steps + 1):
        starts = torch.randint(len(tokens) - case.context - 1, (case.batch,)).tolist()
        rows = [
            torch.from_numpy(tokens[at : at + case.context + 1].astype("int64")) for at in starts
        ]
        batch = torch.stack(rows)
        progress = min(1.0, step / case.total_steps)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * progress))
        loss = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % case.log_every == 0:
            shown = loss.item()
            print(f"step {step} loss {shown:.4f}")
        clock.after_step(step)
    clock.report(shown)
