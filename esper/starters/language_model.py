"""A language model of characters: a small transformer, and the text beside this file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper import Splits

TEXT = Path(__file__).parent / "text.txt"
CHARACTERS = 64  # of a window
WIDTH, HEADS, BLOCKS = 64, 4, 2
VOCABULARY = 128  # ASCII; any other character is read as 0


class Block(nn.Module):
    """Attention to what came before, and an MLP, both residual. [B, T, WIDTH] to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.expand, self.contract = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream after this block."""
        batch, length, _ = x.shape
        heads = self.attention(self.norm1(x)).view(batch, length, 3 * HEADS, WIDTH // HEADS)
        query, key, value = heads.transpose(1, 2).chunk(3, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        out: Tensor = x + self.contract(functional.gelu(self.expand(self.norm2(x))))
        return out


class Transformer(nn.Module):
    """Characters [B, T] to logits [B, T, VOCABULARY]."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(CHARACTERS, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, characters: Tensor) -> Tensor:
        """The logits of each next character."""
        x = self.characters(characters) + self.positions[: characters.shape[1]]
        logits: Tensor = self.output(self.norm(self.blocks(x)))
        return logits


def model() -> nn.Module:
    """The transformer; any module will do that gives logits for each position."""
    return Transformer()


def data() -> Splits:
    """Pairs of characters [N, T] and the same one place later, for each split: the last tenth of
    the text is the test, the tenth before it the validation.
    """
    text = TEXT.read_text(encoding="utf-8")
    codes = torch.tensor([ord(one) if ord(one) < VOCABULARY else 0 for one in text])
    windows = codes[: len(codes) - len(codes) % (CHARACTERS + 1)].view(-1, CHARACTERS + 1)
    inputs, targets = windows[:, :-1], windows[:, 1:]
    first, second = len(windows) * 8 // 10, len(windows) * 9 // 10
    return Splits(
        train=(inputs[:first], targets[:first]),
        validation=(inputs[first:second], targets[first:second]),
        test=(inputs[second:], targets[second:]),
    )
