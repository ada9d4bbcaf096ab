"""A denoising autoencoder of scikit-learn's digits, whose decoder doubles the positions twice with
transposed convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper import Splits
from esper.tolaria.recipes import digits


def model() -> nn.Module:
    """[B, 1, 8, 8] to [B, 1, 8, 8] by way of eight channels of 2 x 2."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
    )


def data() -> Splits:
    """The digits recipe's images with noise, and as they were."""
    clean = digits.data()
    generator = torch.Generator().manual_seed(0)

    def noisy(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images = pair[0]
        return images + 0.3 * torch.randn(images.shape, generator=generator), images

    return Splits(noisy(clean.train), noisy(clean.validation), noisy(clean.test))
