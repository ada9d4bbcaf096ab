"""A small network that grows in a loop with Hugging Face's Accelerate, on scikit-learn's digits.

    pip install 'esper[accelerate]'
    python docs/examples/accelerate_loop.py FOLDER [RUN]

Killed by anything, the same command goes on from the last checkpoint in FOLDER, bit for bit.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper.integrations.accelerate import Growing
from esper.tolaria.recipes.digits import data, model

EPOCHS = 9


def main(folder: str, run_id: str = "digits-accelerate") -> None:
    """Train, or go on."""
    torch.manual_seed(0)
    splits, accelerator = data(), Accelerator(cpu=True)
    net = esper.germinate(nn.Sequential(model(), nn.Dropout(0.1)), seeds=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * 20)
    net, optimizer, scheduler = accelerator.prepare(net, optimizer, scheduler)
    loader = DataLoader(TensorDataset(*splits.train), batch_size=50, shuffle=True)
    growing = Growing(
        accelerator,
        net,
        optimizer,
        held_out=splits.validation,
        steps=EPOCHS * len(loader),
        run_id=run_id,
        resume=True,
        decisions="lockstep",
    )
    saved = sorted(Path(folder).glob("step-*"), key=lambda path: int(path.name[5:]))
    if saved:
        accelerator.load_state(str(saved[-1]))
    with growing as growth:
        growth.register(scheduler=scheduler)
        for images, labels in growth.batches(loader, epochs=EPOCHS):
            optimizer.zero_grad()
            device = accelerator.device
            accelerator.backward(growth.loss(images.to(device), labels.to(device)))
            growth.step()
            optimizer.step()
            scheduler.step()
            if growth.steps % 10 == 0:
                writing, whole = Path(folder) / "writing", Path(folder) / f"step-{growth.steps}"
                shutil.rmtree(writing, ignore_errors=True)
                accelerator.save_state(str(writing))
                shutil.rmtree(whole, ignore_errors=True)
                writing.rename(whole)  # a checkpoint that is not whole has no such name
    print(growth.report())
    print(growth.as_json()["digest"])


if __name__ == "__main__":
    main(*sys.argv[1:])
