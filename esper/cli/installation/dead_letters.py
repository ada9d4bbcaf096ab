"""`esper dead-letters`: messages that a consumer could not read or apply, with the reason, as they
stand on Kafka.
"""

from __future__ import annotations

import base64
import re
from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import UnavailableError, UsageError
from esper.json_text import json_text

if TYPE_CHECKING:
    from esper.config import Settings
    from esper.events.records import DeadLettered
    from esper.oona.bus.access import Access

_NONE = "There are no dead letters: every message so far could be read and applied."
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHORT = 12  # digits of an id in the list; the rest tells letters of one moment apart no better
_LINE = 16  # bytes in a line of a dump
_DUMPED = 512  # bytes that --show prints
_BATCH = 500
_SILENCE_S = 1.0
_PATIENCE = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dead-letters")(dead_letters)


def dead_letters(
    *,
    topic: Annotated[
        str, typer.Option("--topic", help="Only those of messages of this topic.")
    ] = "",
    consumer: Annotated[
        str, typer.Option("--consumer", help="Only those that this consumer gave up.")
    ] = "",
    since: Annotated[
        str, typer.Option("--since", help="Only those of the last 30s, 15m, 2h or 1d.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="The last N.")] = 50,
    count: Annotated[
        bool, typer.Option("--count", help="Only how many, by topic and consumer.")
    ] = False,
    show: Annotated[
        str,
        typer.Option(
            "--show", metavar="ID", help="One of them whole; the beginning of its id is enough."
        ),
    ] = "",
    payload: Annotated[
        Path | None,
        typer.Option(
            "--payload", metavar="FILE", help="With --show: write its raw bytes to a new file."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="JSON on standard output: an array, or one object with --show or --count.",
        ),
    ] = False,
) -> None:
    """List messages that a consumer could not read or apply, and why."""
    from esper.clock import SystemClock  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.config import Settings  # noqa: PLC0415 - as above

    if payload is not None and not show:
        raise UsageError("--payload writes the bytes of one dead letter; say which with --show ID.")
    oldest = SystemClock().now_us() - round(_seconds(since) * 1e6) if since else 0
    letters = (
        letter
        for letter in _read(Settings.load())
        if (not topic or letter.source_topic == topic)
        and (not consumer or letter.consumer == consumer)
        and letter.occurred_at >= oldest
    )
    if show:
        _show(_matching(letters, show), payload, as_json=as_json)
    elif count:
        _count(letters, as_json=as_json)
    else:
        last = deque(letters, maxlen=limit)
        if as_json:
            print(json_text([_summary(letter) for letter in last]))
        elif last:
            _table(
                [_row(letter) for letter in last],
                ("id", "when (UTC)", "consumer", "from", "bytes", "why"),
            )
        else:
            print(_NONE if not (topic or consumer or since) else "No dead letter fits.")


def _read(settings: Settings) -> Iterator[DeadLettered]:
    """Every dead letter from the oldest to the newest, each once.

    Raises:
        UnavailableError: no broker answers.
    """
    from esper.errors import PoisonError  # noqa: PLC0415 - as above
    from esper.events.codec import decode  # noqa: PLC0415 - as above
    from esper.events.records import DeadLettered  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above

    bus, seen, silent = KafkaBus(_cluster(settings)), set[str](), 0
    with bus.reader([DeadLettered.TOPIC], start="beginning") as reader:
        ends = reader.stable_end()
        while any(at < ends[pair] for pair, at in reader.position().items()):
            received = reader.poll(_BATCH, _SILENCE_S)
            silent = 0 if received else silent + 1
            if silent > _PATIENCE and not bus.available(_SILENCE_S):
                raise UnavailableError(
                    "The broker went away while dead letters were read; try again once it is back."
                )
            for message in received:
                try:
                    letter = decode(message.value, message.headers)
                except PoisonError:
                    continue  # not written by Esper: nothing that could be said of it
                if isinstance(letter, DeadLettered) and letter.event_id not in seen:
                    seen.add(letter.event_id)
                    yield letter


def _cluster(settings: Settings) -> Access:
    from esper import stack  # noqa: PLC0415 - as above
    from esper.oona.bus.access import Access  # noqa: PLC0415 - as above

    if settings.kafka.bootstrap:
        return Access.of(settings, "viewer")
    endpoints = stack.running(settings)
    if endpoints is None:
        raise UnavailableError(
            f"No broker runs for {settings.home}, and dead letters are on Kafka: start it "
            "with `esper up`."
        )
    return Access.of(settings, "viewer", bootstrap=endpoints.bootstrap)


def _seconds(duration: str) -> float:
    matched = _DURATION.fullmatch(duration.strip())
    if matched is None:
        raise UsageError(
            f"--since takes a number with s, m, h or d, such as 15m, not {duration!r}."
        )
    return float(matched[1]) * _SECONDS[matched[2]]


def _matching(letters: Iterator[DeadLettered], beginning: str) -> DeadLettered:
    fitting = [letter for letter in letters if letter.event_id.startswith(beginning)]
    if not fitting:
        raise UsageError(
            f"No dead letter has an id that begins with {beginning}; `esper dead-letters` "
            "lists them."
        )
    if len(fitting) > 1:
        raise UsageError(
            f"{len(fitting)} dead letters have ids that begin with {beginning}; give more digits."
        )
    return fitting[0]


def _show(letter: DeadLettered, payload: Path | None, *, as_json: bool) -> None:
    if payload is not None:
        try:
            with payload.open("xb") as file:
                file.write(letter.payload)
        except FileExistsError:
            raise UsageError(f"{payload} exists already; choose another name.") from None
        except OSError as error:
            raise UsageError(f"{payload} cannot be written: {error.strerror}.") from error
    if as_json:
        print(
            json_text(
                _summary(letter) | {"payload_base64": base64.b64encode(letter.payload).decode()}
            )
        )
        return
    for name, value in _summary(letter).items():
        print(f"{name:<10} {value}")
    print("\n".join(_dump(letter.payload)))
    if payload is not None:
        print(f"Wrote {len(letter.payload)} bytes to {payload}.")


def _dump(content: bytes) -> Iterator[str]:
    """Offset, hexadecimal and ASCII of the first bytes."""
    for start in range(0, min(len(content), _DUMPED), _LINE):
        line = content[start : start + _LINE]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"{start:08x}  {line.hex(' '):<{3 * _LINE}} {text}"
    if len(content) > _DUMPED:
        yield f"... {len(content) - _DUMPED} more bytes; --payload FILE writes all of them."


def _count(letters: Iterator[DeadLettered], *, as_json: bool) -> None:
    counted = Counter((letter.source_topic, letter.consumer) for letter in letters)
    if as_json:
        topics: dict[str, dict[str, int]] = {}
        for (topic, consumer), number in sorted(counted.items()):
            topics.setdefault(topic, {})[consumer] = number
        print(json_text({"total": counted.total(), "topics": topics}))
    elif counted:
        _table(
            [
                (topic, consumer, str(number))
                for (topic, consumer), number in sorted(counted.items())
            ],
            ("topic", "consumer", "letters"),
        )
    else:
        print(_NONE)


def _summary(letter: DeadLettered) -> dict[str, Any]:
    return {
        "id": letter.event_id,
        "when": _when(letter),
        "consumer": letter.consumer,
        "topic": letter.source_topic,
        "partition": letter.source_partition,
        "offset": letter.source_offset,
        "bytes": len(letter.payload),
        "error": letter.error,
    }


def _row(letter: DeadLettered) -> tuple[str, ...]:
    place = f"{letter.source_topic}/{letter.source_partition}/{letter.source_offset}"
    return (
        letter.event_id[:_SHORT],
        _when(letter)[:19],
        letter.consumer,
        place,
        f"{len(letter.payload):,}",
        letter.error,
    )


def _when(letter: DeadLettered) -> str:
    return (
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=letter.occurred_at)
    ).isoformat()


def _table(rows: list[tuple[str, ...]], titles: tuple[str, ...]) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    console = Console()
    if not console.is_terminal:
        console.width = 10_000
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(
            title, justify="right" if title in {"bytes", "letters"} else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
