"""The one way to the object store of an installation."""

from __future__ import annotations

from pathlib import Path

from esper.config import Settings
from esper.urza.local import LocalStore
from esper.urza.store import Store


def open_store(settings: Settings) -> Store:
    """The store of ESPER_URZA__STORE: kernels and snapshots.

    Raises:
        UsageError: its place makes no sense.
        UnavailableError: its folder cannot be made or written.
    """
    return store_at(settings.store_location, settings.urza.endpoint)


def store_at(location: str, endpoint: str = "") -> Store:
    """The store at a location: s3://bucket/prefix, at `endpoint` if that is not Amazon's, or a
    folder. Raises as `open_store` does.
    """
    if location.startswith("s3://"):
        from esper.urza.s3 import S3Store  # noqa: PLC0415 - boto3 takes 0.3 s, which a folder need not wait for

        return S3Store(location, endpoint=endpoint)
    return LocalStore(Path(location))
