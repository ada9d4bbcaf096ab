"""How many messages a topic holds.

Offsets do not say: they also number transaction markers and aborted messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from esper.errors import UnavailableError
from esper.oona.bus.port import Bus

_BATCH = 10_000
_SILENCE_S = 1.0
_PATIENCE = 10


def committed(bus: Bus, topics: Sequence[str]) -> dict[str, int]:
    """Messages in each of `topics` that a `read_committed` reader sees now, by reading them all.

    Raises:
        UnavailableError: no broker answers, or it stops answering on the way.
    """
    counts = Counter(dict.fromkeys(topics, 0))
    with bus.reader(topics, start="beginning", headers=False) as reader:
        ends = reader.stable_end()
        silent = 0
        while any(at < ends[pair] for pair, at in reader.position().items()):
            received = reader.poll(_BATCH, _SILENCE_S)
            counts.update(
                message.topic
                for message in received
                # what came after the count began would make it depend on how long it took
                if message.offset < ends[message.topic, message.partition]
            )
            silent = 0 if received else silent + 1
            # silence alone says nothing: a stretch of aborted messages gives none either
            if silent > _PATIENCE and not bus.available(_SILENCE_S):
                raise UnavailableError(
                    "The broker went away while messages were counted; try again once it is back."
                )
    return dict(counts)
