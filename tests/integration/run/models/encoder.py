"""A transformer as libraries write them: own attention from three projections, a pre-norm block
with an MLP, dropout, a pooled head.

The task: whether most of a sequence's tokens are of the lower half of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper import Splits

WORDS, LENGTH, WIDTH, HEADS = 12, 9, 16, 2


class SelfAttention(nn.Module):
    """Multi-head self-attention from `query`, `key` and `value`, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        heads = [
            one(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for one in (self.query, self.key, self.value)
        ]
        mixed = functional.scaled_dot_product_attention(*heads)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = SelfAttention()
        self.intermediate, self.output = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        hidden = functional.gelu(self.intermediate(self.norm2(x)))
        result: Tensor = x + self.dropout(self.output(hidden))
        return result


class Encoder(nn.Module):
    """Tokens [B, L] to logits [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList([Block()])
        self.norm, self.classifier = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B, L] to logits [B, 2]."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classifier(self.norm(x).mean(1))
        return logits


def model() -> nn.Module:
    """The host."""
    return Encoder()


def data() -> Splits:
    """1,600 training, 400 held-out and 400 test sequences of an odd number of tokens."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, WORDS, (2400, LENGTH), generator=generator)
    labels = ((ids < WORDS // 2).sum(1) > LENGTH // 2).long()
    return Splits(
        (ids[:1600], labels[:1600]),
        (ids[1600:2000], labels[1600:2000]),
        (ids[2000:], labels[2000:]),
    )
