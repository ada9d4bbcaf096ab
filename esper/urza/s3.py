"""The object store in S3, or in anything that speaks its protocol with conditional writes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ResponseStreamingError,
)
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from esper.errors import EsperError, StorageFullError, UnavailableError, UsageError
from esper.urza.store import Listed, Store, require_key

T = TypeVar("T")

MOST_BYTES: Final = 16 << 20
"""Larger objects are uploaded in parts; a snapshot's chunk is half as large, and one request."""
PART_BYTES: Final = 8 << 20

_ATTEMPTS: Final = 5
_MARK: Final = "esper-put"  # in an object's metadata: which put stored it
_AGAIN: Final = frozenset(
    {
        "SlowDown",
        "RequestTimeout",
        "ConditionalRequestConflict",
        "OperationAborted",
        "InternalError",
        "ServiceUnavailable",
    }
)
_FULL: Final = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage"})
_MISSING: Final = frozenset({"404", "NoSuchKey"})
_TAKEN: Final = frozenset({"412", "PreconditionFailed"})
_LOST: Final = frozenset({"NoSuchUpload"})  # a complete whose answer was lost, asked for again


class S3Store(Store):
    """Objects below `location`, as s3://bucket/prefix.

    Credentials and region come from where boto3 looks for them (AWS_ACCESS_KEY_ID, ...).

    A put carries `If-None-Match: *`, and a token in the object's metadata, by which a put that was
    asked for again, because its answer was lost, knows whether it was the one that stored it. Of
    several that delete one key at once, each may receive that it did.

    Raises:
        UsageError: the location is no s3://bucket/prefix.
    """

    def __init__(self, location: str, *, endpoint: str = "") -> None:
        self._location = location
        self._bucket, _, prefix = location.removeprefix("s3://").rstrip("/").partition("/")
        if not self._bucket or not location.startswith("s3://"):
            raise UsageError(
                f"{location} is no place for a store: say s3://bucket or s3://bucket/prefix."
            )
        self._prefix = f"{prefix}/" if prefix else ""
        config = Config(
            # other servers than Amazon's know no checksums in trailers
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={
                "total_max_attempts": 1
            },  # `_asked` does it: boto's own would take its own put for another's
            max_pool_connections=16,
            connect_timeout=5,
            s3={"addressing_style": "path" if endpoint else "auto"},
        )
        try:
            self._client = boto3.session.Session().client(
                "s3", endpoint_url=endpoint or None, config=config
            )
        except (BotoCoreError, ValueError) as error:
            raise UsageError(
                f"The store {self._location} cannot be used: {error}".rstrip(".") + "."
            ) from error

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Store unless taken; see `Store`."""
        # A put whose answer was lost is asked again, and finds itself there: the token says that it
        # was ours.
        place, token = self._place(key), secrets.token_hex(16)
        if len(content) > MOST_BYTES:
            return self._put_parts(place, content, token)
        named = {"Key": place, "Body": content, "Metadata": {_MARK: token}, "IfNoneMatch": "*"}
        return self._stored(
            place, token, lambda: self._client.put_object(Bucket=self._bucket, **named)
        )

    def get(self, key: str) -> bytes | None:
        """The bytes or None; see `Store`."""
        place = self._place(key)

        def read() -> bytes:
            with self._client.get_object(Bucket=self._bucket, Key=place)["Body"] as body:
                content: bytes = body.read()
                return content

        return self._if_there(read)

    def exists(self, key: str) -> bool:
        """Whether it is there; see `Store`."""
        return self._head(self._place(key)) is not None

    def objects(self, prefix: str = "") -> Iterator[Listed]:
        """What there is, sorted; see `Store`."""
        pages = self._client.get_paginator("list_objects_v2")

        def listed() -> list[Listed]:
            answers = pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
            rows = (row for page in answers for row in page.get("Contents", ()))
            return [
                Listed(
                    row["Key"].removeprefix(self._prefix),
                    row["Size"],
                    round(row["LastModified"].timestamp() * 1e6),
                )
                for row in rows
            ]

        # All pages before the first entry: asked again in the middle, pages would double entries.
        yield from sorted(self._asked(listed), key=lambda entry: entry.key)

    def delete(self, key: str) -> bool:
        """Remove; see `Store`."""
        place = self._place(key)
        # S3 answers a delete of nothing as it does any other.
        if self._head(place) is None:
            return False
        self._asked(lambda: self._client.delete_object(Bucket=self._bucket, Key=place))
        return True

    def _place(self, key: str) -> str:
        return self._prefix + require_key(key)

    def _head(self, place: str) -> dict[str, Any] | None:
        return self._if_there(lambda: self._client.head_object(Bucket=self._bucket, Key=place))

    def _put_parts(self, place: str, content: bytes, token: str) -> bool:
        whole = memoryview(content)
        begun = self._asked(
            lambda: self._client.create_multipart_upload(
                Bucket=self._bucket, Key=place, Metadata={_MARK: token}
            )
        )
        named: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": place,
            "UploadId": begun["UploadId"],
        }
        parts = []
        try:
            for number, begin in enumerate(range(0, len(content), PART_BYTES), start=1):
                parts.append(
                    {
                        "PartNumber": number,
                        "ETag": self._put_part(
                            named, number, bytes(whole[begin : begin + PART_BYTES])
                        ),
                    }
                )
            finish = {**named, "MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
            done = self._stored(
                place, token, lambda: self._client.complete_multipart_upload(**finish)
            )
        except EsperError:
            self._abort(named)
            raise
        if not done:
            self._abort(named)
        return done

    def _put_part(self, named: dict[str, Any], number: int, part: bytes) -> str:
        tag: str = self._asked(
            lambda: self._client.upload_part(**named, PartNumber=number, Body=part)
        )["ETag"]
        return tag

    def _abort(self, named: dict[str, Any]) -> None:
        with suppress(BotoCoreError, ClientError):  # what stays is the bucket's to expire
            self._client.abort_multipart_upload(**named)

    def _stored(self, place: str, token: str, put: Callable[[], Any]) -> bool:
        try:
            self._asked(put, known=_TAKEN | _LOST)
        except ClientError as error:
            # The object is there or not, whatever the answer said.
            there = self._head(place)
            if there is None and _code(error) in _LOST:
                self._refuse(error)
            return there is not None and there["Metadata"].get(_MARK) == token
        return True

    def _if_there(self, ask: Callable[[], T]) -> T | None:
        try:
            return self._asked(ask, known=_MISSING)
        except ClientError:
            return None

    def _asked(self, ask: Callable[[], T], *, known: frozenset[str] = frozenset()) -> T:
        """The answer, asked for again where that may help.

        A ClientError of a `known` code is the caller's.
        """
        try:
            for attempt in Retrying(
                retry=retry_if_exception(_passes),
                stop=stop_after_attempt(_ATTEMPTS),
                wait=wait_exponential_jitter(multiplier=0.1, max=3.0, jitter=0.1),
                reraise=True,
            ):
                with attempt:
                    return ask()
        except ClientError as error:
            if _code(error) in known:
                raise
            self._refuse(error)
        except BotoCoreError as error:
            self._refuse(error)
        raise AssertionError("unreachable")

    def _refuse(self, error: ClientError | BotoCoreError) -> NoReturn:
        if isinstance(error, NoCredentialsError):
            raise UnavailableError(
                f"The store {self._location} asks for credentials: set AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            ) from error
        if isinstance(error, ClientError):
            if _code(error) in _FULL:
                raise StorageFullError(
                    f"The store {self._location} is full; free some room and try again: "
                    "nothing was stored."
                ) from error
            if _code(error) == "NoSuchBucket":
                raise UnavailableError(
                    f"The store {self._location} has no bucket {self._bucket}: make it, or "
                    "set ESPER_URZA__STORE."
                ) from error
            raise UnavailableError(
                f"The store {self._location} refuses: {_code(error)}. See that credentials "
                "and bucket are right."
            ) from error
        raise UnavailableError(
            f"The store {self._location} cannot be reached ({type(error).__name__}): see "
            "whether its endpoint answers."
        ) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _passes(error: BaseException) -> bool:
    """Whether the same request may be answered in a moment."""
    if isinstance(error, ClientError):
        return (
            _code(error) in _AGAIN
            or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
        )  # HTTP
    return isinstance(error, HTTPClientError | ResponseStreamingError)
