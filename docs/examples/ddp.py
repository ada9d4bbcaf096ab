"""A small network that grows in DistributedDataParallel of one rank, on scikit-learn's digits.

    python docs/examples/ddp.py FOLDER [RUN]

Killed by anything, the same command goes on where it was, bit for bit: FOLDER says that the run has
begun.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper.tolaria.recipes.digits import data, model

EPOCHS = 9


def main(folder: str, run_id: str = "digits-ddp") -> None:
    """Train, or go on."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    splits, begun = data(), Path(folder) / "begun"
    net = DistributedDataParallel(esper.germinate(nn.Sequential(model(), nn.Dropout(0.1)), seeds=2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(TensorDataset(*splits.train), batch_size=50, shuffle=True)
    with esper.grow(
        net,
        optimizer,
        held_out=splits.validation,
        steps=EPOCHS * len(loader),
        run_id=run_id,
        resume=begun.exists(),
        decisions="lockstep",
    ) as growth:
        for images, labels in growth.batches(loader, epochs=EPOCHS):
            begun.parent.mkdir(parents=True, exist_ok=True)
            begun.touch()
            optimizer.zero_grad()
            growth.loss(images, labels).backward()
            growth.step()
            optimizer.step()
    print(growth.report())
    print(growth.as_json()["digest"])
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
