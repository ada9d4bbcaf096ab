"""How much is read of what comes from outside: one limit a kind, each with the setting that raises
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from esper.config import ImportSettings
from esper.errors import CorruptError

MIB: Final = 1 << 20


class Limit(NamedTuple):
    """At most `most` of something, and the setting that says so."""

    most: int
    setting: str

    def require(self, found: int, what: str) -> None:
        """Refuse more than the limit.

        `what` says what has how much, such as "journal.avro unpacks to".

        Raises:
            CorruptError: there is more.
        """
        if found > self.most:
            raise self.refusal(what)

    def refusal(self, what: str) -> CorruptError:
        """The sentence for more than the limit."""
        remedy = (
            ": raise it if you trust where this comes from"
            if self.setting.startswith("ESPER_")
            else ""
        )
        return CorruptError(
            f"{what} more than the {self.most:,} that {self.setting} allows{remedy}."
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits by kind: files in a folder.

    Bytes of a file, of an object in memory, a snapshot, a whole journal, one block of it, JSON, a
    safetensors header, a table.
    """

    files: Limit
    file: Limit
    object: Limit
    snapshot: Limit
    journal: Limit
    block: Limit
    json: Limit
    depth: Limit
    header: Limit
    table: Limit


def limits_of(given: ImportSettings) -> Limits:
    """The limits of an installation's settings."""

    def mib(name: str) -> Limit:
        return Limit(getattr(given, name) * MIB, f"ESPER_IMPORTS__{name.upper()} (in MiB)")

    return Limits(
        files=Limit(given.files, "ESPER_IMPORTS__FILES"),
        file=mib("file_mib"),
        object=mib("object_mib"),
        snapshot=mib("snapshot_mib"),
        journal=mib("journal_mib"),
        block=mib("block_mib"),
        json=mib("json_mib"),
        depth=Limit(given.json_depth, "ESPER_IMPORTS__JSON_DEPTH"),
        header=mib("header_mib"),
        table=mib("table_mib"),
    )


DEFAULT: Final = limits_of(ImportSettings())
"""The limits where nobody has set others."""
