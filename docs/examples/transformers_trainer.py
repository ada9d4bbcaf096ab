"""A small vision transformer that grows in Hugging Face's Trainer, on scikit-learn's digits.

    pip install 'esper[transformers]'
    python docs/examples/transformers_trainer.py FOLDER [RUN]

Killed by anything, the same command goes on from the last checkpoint in FOLDER, bit for bit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.trainer_utils import get_last_checkpoint

import esper
from esper.integrations.transformers import GrowthCallback
from esper.tolaria.recipes.digits import data


class Digits(Dataset[dict[str, Any]]):
    """Images and labels by the names that the model's forward has."""

    def __init__(self, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.images, self.labels = pair

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.images[index].view(1, 8, 8), "labels": self.labels[index]}


def main(folder: str, run_id: str = "digits-vit") -> None:
    """Train, or go on."""
    torch.manual_seed(0)
    splits = data()
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.1,
        num_labels=10,
    )
    images, labels = splits.validation
    trainer = Trainer(
        esper.germinate(ViTForImageClassification(config), seeds=2),
        TrainingArguments(
            folder,
            num_train_epochs=9,
            per_device_train_batch_size=50,
            learning_rate=3e-3,
            save_steps=10,
            save_total_limit=3,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=Digits(splits.train),
        callbacks=[
            growing := GrowthCallback(
                held_out={"pixel_values": images.view(-1, 1, 8, 8), "labels": labels},
                run_id=run_id,
                resume=True,
                decisions="lockstep",
            )
        ],
    )
    last = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    print(growing.growth.report())
    print(growing.growth.as_json()["digest"])


if __name__ == "__main__":
    main(*sys.argv[1:])
