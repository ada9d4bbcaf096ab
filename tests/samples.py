"""Events and commands that tests begin with."""

from __future__ import annotations

import os
from typing import Final

from esper.events.records import LayerInventory
from esper.lifecycle.commands import StartRun

EXAMPLES: Final = int(os.environ.get("ESPER_EXAMPLES", "1"))
"""How many times as many examples a law is tried on as in `make test`."""
VARIANTS: Final = "ESPER_VARIANTS" in os.environ
"""Whether tests marked `variant` are wanted: what another test proves, on one more case."""
LAYER: Final = LayerInventory(
    name="a", kind="Linear", in_features=4, out_features=4, parameters=20, chunks=(2, 2)
)
"""A layer of two seeds."""
START: Final = StartRun(
    incarnation=0,
    recipe="t",
    config="{}",
    seed=0,
    decisions="LIVE",
    total_steps=100,
    layers=(LAYER,),
    parameters=20,
    source_sha256="",
    versions="{}",
    threads=1,
    instruction_set="",
    blas="",
    onednn=False,
)
"""A run of that layer alone, deciding live."""
