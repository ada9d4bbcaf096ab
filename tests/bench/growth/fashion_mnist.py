"""Fashion-MNIST (Xiao et al., 2017) from Debian's `dataset-fashion-mnist`, and a narrow host."""

from __future__ import annotations

import gzip
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from esper import Splits

FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


def model() -> nn.Module:
    """Images [B, 1, 28, 28] to logits [B, 10], by two narrow convolutions; 9,258 parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(128, 32),
            relu3=nn.ReLU(),
            fc2=nn.Linear(32, 10),
        )
    )


def data() -> Splits:
    """The first 10,000 images for training, 1,000 others as validation, the test set of 10,000."""
    train, labels = _images("train"), _labels("train")
    return Splits(
        train=(train[:10_000], labels[:10_000]),
        validation=(train[50_000:51_000], labels[50_000:51_000]),
        test=(_images("t10k"), _labels("t10k")),
    )


def _images(split: str) -> Tensor:
    """Of the range 0 to 1, [N, 1, 28, 28]."""
    return _read(f"{split}-images").unsqueeze(1).float() / 255


def _labels(split: str) -> Tensor:
    return _read(f"{split}-labels").long()


def _read(name: str) -> Tensor:
    """A file of the IDX format: a magic number whose last byte counts dimensions, sizes, bytes."""
    (file,) = FOLDER.glob(f"{name}*")
    raw = gzip.decompress(file.read_bytes())
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4).astype(int)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    return torch.from_numpy(values.reshape(sizes).copy())
