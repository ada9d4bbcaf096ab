"""A small network that grows in Lightning's Trainer, on scikit-learn's digits.

    pip install 'esper[lightning]'
    python docs/examples/lightning_trainer.py FOLDER [RUN]

Killed by anything, the same command goes on from the last checkpoint in FOLDER, bit for bit, also
within an epoch.
"""

from __future__ import annotations

import sys

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper.integrations.lightning import GrowthCallback
from esper.tolaria.recipes.digits import data, model


class Digits(lightning.LightningModule):
    """A classifier with dropout, as Lightning wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = esper.germinate(nn.Sequential(model(), nn.Dropout(0.1)), seeds=2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self.net(images), labels))

    def configure_optimizers(self) -> object:
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)]


def main(folder: str, run_id: str = "digits-lightning") -> None:
    """Train, or go on."""
    torch.manual_seed(0)
    splits = data()
    growing = GrowthCallback(
        held_out=splits.validation, part="net", run_id=run_id, resume=True, decisions="lockstep"
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=9,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        callbacks=[growing, ModelCheckpoint(folder, every_n_train_steps=7, save_last=True)],
    )
    train = DataLoader(TensorDataset(*splits.train), batch_size=50, shuffle=True)
    validation = DataLoader(TensorDataset(*splits.validation), batch_size=100)
    trainer.fit(Digits(), growing.loader(train), validation, ckpt_path="last")
    print(growing.growth.report())
    print(growing.growth.as_json()["digest"])


if __name__ == "__main__":
    main(*sys.argv[1:])
