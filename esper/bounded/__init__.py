"""Reading what comes from outside, within limits: exports, files that a user names, kernels and
chunks that a store hands out.

Nothing in here believes a size, a name or a depth that the input states. What is too large, too
deep or no plain file is refused in one sentence, which names the setting that allows more.
"""

from __future__ import annotations

from esper.bounded.folders import open_in, open_named, read_in, require_plain_name, walked
from esper.bounded.formats import avro_values, json_of, tensors_header, unpacked_zstd
from esper.bounded.limits import DEFAULT, MIB, Limit, Limits, limits_of

__all__ = [
    "DEFAULT",
    "MIB",
    "Limit",
    "Limits",
    "avro_values",
    "json_of",
    "limits_of",
    "open_in",
    "open_named",
    "read_in",
    "require_plain_name",
    "tensors_header",
    "unpacked_zstd",
    "walked",
]
