"""Classification of the images in the folder beside this file: a subfolder for each class."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import nn

from esper import Splits, read_images

IMAGES = Path(__file__).parent / "images"
SIZE = 8  # pixels of a side; images of other sizes are scaled
CHANNELS = 1  # 3 for colours


def model() -> nn.Module:
    """A small convolutional network: images [B, CHANNELS, SIZE, SIZE] to a logit for each class."""
    classes = [folder for folder in IMAGES.iterdir() if not folder.name.startswith(".")]
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(CHANNELS, 8, 3, stride=2, padding=1),
            relu1=nn.ReLU(),
            second=nn.Conv2d(8, 8, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(8, len(classes)),
        )
    )


def data() -> Splits:
    """Six tenths of each class for training, two for validation, two for the test."""
    return read_images(IMAGES, size=SIZE, channels=CHANNELS)
