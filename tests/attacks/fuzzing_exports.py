"""`python -m tests.attacks.fuzzing_exports FOLDER SEED COUNT`: hostile exports, one after another,
given to every command that reads exports.

Prints a JSON line a case: what was done to the export and how each command ended; last, what the
process took, and what it did that it may not: write outside its own folders, read the secret beside
them, import or run what an export names, connect anywhere.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard
from pyarrow import parquet

from esper.checkpoint.manifest import manifest_at, manifests
from esper.config import Settings
from esper.errors import EsperError
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken, EpochEnded
from esper.history.tables.container import varint
from esper.journal.importing import Importing
from esper.journal.portable import MANIFEST, opened_export
from esper.journal.reading import JOURNAL
from esper.oona.bus.memory import MemoryBus
from esper.vault.sealing import seal
from tests.attacks.hostile import (
    ALLOW,
    PASSPHRASE,
    RUN,
    copy_of,
    esper,
    journal_of,
    reseal,
    with_config,
    with_events,
)
from tests.unit.tolaria.laboratory import CLOCK

CANARY = "canary_of_the_fuzzer"
SECRET = "the secret beside the export"  # noqa: S105  # of a test
ODD: tuple[Any, ...] = (
    -1,
    0,
    1 << 31,
    1 << 62,
    -(1 << 62),
    "",
    "../../../escape",
    "/etc/passwd",
    "\x1b[2J\x00é" * 50,
    "x" * 100_000,
    None,
    [],
    {},
    1e308,
    True,
)
NAMES = (
    "../escape",
    "/tmp/escape",  # noqa: S108
    "..",
    "a/../../escape",
    "store/../../escape",
    "a\x00b",
    "é",
    "x" * 300,
    "a/" * 12 + "b",
    ".hidden",
    "",
)


@dataclass(frozen=True, slots=True)
class Ground:
    """Where the fuzzer works: the real export, the folder that it may write to, and its random
    choices.
    """

    real: Path
    work: Path
    rng: random.Random


WIDE = """
import sys, pyarrow as pa
from pyarrow import parquet
wide = pa.array([bytes(64 << 20)] * 12, pa.large_binary())
rows = pa.table({"event_id": wide, "loss": [0.0] * 12, "gradient_norm": [0.0] * 12})
parquet.write_table(rows, sys.argv[1], compression="zstd", use_dictionary=False)
"""

# What is done to an export


def a_file(ground: Ground, folder: Path) -> Path:
    return ground.rng.choice(
        [one for one in sorted(folder.rglob("*")) if one.is_file() and one.name != MANIFEST]
    )


def flip(ground: Ground, folder: Path) -> None:
    """Some bits of one file, with the manifest's hash or without."""
    path = a_file(ground, folder)
    content = bytearray(path.read_bytes() or b"\0")
    for _ in range(ground.rng.choice((1, 1, 3, 20))):
        content[ground.rng.randrange(len(content))] ^= 1 << ground.rng.randrange(8)
    path.write_bytes(content)
    if ground.rng.random() < 0.8:
        reseal(folder)


def cut(ground: Ground, folder: Path) -> None:
    """A file cut off, emptied, or doubled."""
    path = a_file(ground, folder)
    content = path.read_bytes()
    path.write_bytes(
        ground.rng.choice(
            (content[: ground.rng.randrange(len(content) + 1)], b"", content + content)
        )
    )
    reseal(folder)


def other(ground: Ground, folder: Path) -> None:
    """A file in the place of another."""
    a_file(ground, folder).write_bytes(
        ground.rng.choice(
            (ground.rng.randbytes(2000), a_file(ground, folder).read_bytes(), b"{" * 5000)
        )
    )
    reseal(folder)


def event(ground: Ground, folder: Path) -> None:
    """A field of an event is an extreme one of its kind."""
    events = list[JournalEvent](journal_of(folder))
    for _ in range(ground.rng.choice((1, 1, 2, 5))):
        number = ground.rng.randrange(len(events))
        one = ground.rng.choice(
            [one for one in fields(events[number]) if one.name not in ("run_id", "event_id")]
        )
        kind = type(getattr(events[number], one.name))
        fitting = [
            value
            for value in (*ODD, "9" * 40, "[" * 3000, '{"a": NaN}', "k" * 64, "../../k")
            if type(value) is kind
        ]
        if fitting:
            events[number] = replace(events[number], **{one.name: ground.rng.choice(fitting)})
    try:
        with_events(folder, events)
    except (ValueError, TypeError, OverflowError):
        reseal(folder)  # no such event can be written


def order(ground: Ground, folder: Path) -> None:
    """Events missing, doubled, in another order, or far too many."""
    events = journal_of(folder)
    number = ground.rng.randrange(len(events))
    changed = ground.rng.choice(
        (
            events[:number],
            events[:number] + events[number + 1 :],
            events + events[number:],
            events[::-1],
            events[:1] * 500,
        )
    )
    with_events(folder, changed or events[:1])


def config(ground: Ground, folder: Path) -> None:
    """A setting of the recipe is another one; or its functions are a stranger's."""

    def change(found: dict[str, Any]) -> None:
        if ground.rng.random() < 0.4:
            found[ground.rng.choice(("model", "data"))] = ground.rng.choice(
                (
                    f"{CANARY}:model",
                    "os:abort",
                    "esper.tolaria.recipes.digits:torch",
                    "builtins:exit",
                )
            )
            return
        section = ground.rng.choice(
            [name for name, value in found.items() if isinstance(value, dict)]
        )
        key = ground.rng.choice(list(found[section])) if found[section] else "x"
        found[section][key] = ground.rng.choice((*ODD, 64, "cuda"))

    with_config(folder, change)
    if ground.rng.random() < 0.5:
        shutil.rmtree(folder / "data")
        reseal(folder)


def manifest(ground: Ground, folder: Path) -> None:
    """Something that the manifest says is another thing, or a name leads out of the folder."""
    found = json.loads((folder / MANIFEST).read_text())
    key = ground.rng.choice(list(found))
    if ground.rng.random() < 0.5:
        found["files"][ground.rng.choice(NAMES)] = ground.rng.choice(
            (sha256(SECRET.encode()).hexdigest(), "ab" * 32, 3)
        )
    else:
        found[key] = ground.rng.choice((*ODD, {"a": "b" * 64}, ["../x"] * 3))
    (folder / MANIFEST).write_text(json.dumps(found))


def text(ground: Ground, folder: Path) -> None:
    """The manifest is deep, endless, or no JSON."""
    path = folder / MANIFEST
    deep = (
        "[" * 200_000,
        '{"a":' * 200_000,
        "[" * 100_000 + "]" * 100_000,
        "[[],[],[]," * 2,
        "",
        "NaN",
        "\xff",
        '{"format": 1, "files": ' + "9" * 100_000 + "}",
    )
    wide = "[" + "[]," * 4_500_000 + "[]]", '"' + "\\u0000" * 6_500_000 + '"'
    path.write_text(ground.rng.choice((*deep, *deep, *wide)))


def links(ground: Ground, folder: Path) -> None:
    """A link, a folder that is one, a pipe or a device in the place of a file."""
    path, secret = a_file(ground, folder), ground.work / "secret"
    kind = ground.rng.randrange(6)
    if kind < 2:
        path.unlink()
        path.symlink_to(secret if kind else os.path.relpath(secret, path.parent))
        reseal(folder)
        names = json.loads((folder / MANIFEST).read_text())["files"]
        reseal(
            folder,
            files=names
            | {path.relative_to(folder).as_posix(): sha256(SECRET.encode()).hexdigest()},
        )
    elif kind == 2:
        (folder / "store").rename(ground.work / "moved")
        (folder / "store").symlink_to(ground.work / "moved")
    elif kind == 3:
        path.unlink()
        os.mkfifo(path)
    elif kind == 4:
        path.unlink()
        path.symlink_to("/dev/zero")
    else:
        (folder / MANIFEST).unlink()
        (folder / MANIFEST).symlink_to(secret)


def container(codec: bytes, blocks: Sequence[tuple[int, bytes]], schema: bytes = b"") -> bytes:
    """A journal file made by hand: blocks of so many messages."""
    head = {
        "type": "record",
        "name": "esper.journal.JournalMessage",
        "fields": [{"name": "value", "type": "bytes"}],
    }
    meta = {b"avro.schema": schema or json.dumps(head).encode(), b"avro.codec": codec}
    pairs = b"".join(
        varint(len(key)) + key + varint(len(value)) + value for key, value in meta.items()
    )
    body = b"".join(
        varint(count) + varint(len(block)) + block + b"S" * 16 for count, block in blocks
    )
    return b"Obj\x01" + varint(len(meta)) + pairs + b"\0" + b"S" * 16 + body


def deflated(pieces: Sequence[tuple[bytes, int]]) -> bytes:
    """Pieces, each so many times, in one raw deflate block."""
    packing = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (
        b"".join(packing.compress(piece) for piece, times in pieces for _ in range(times))
        + packing.flush()
    )


def bomb(ground: Ground, folder: Path) -> None:
    """A journal file that unpacks to gigabytes, as one message, as many, or as many blocks.

    Or that states what it has not.
    """
    mib, real = 1 << 20, (folder / JOURNAL).read_bytes()
    made: tuple[Callable[[], bytes], ...] = (
        lambda: container(
            b"deflate", [(1, deflated([(varint(1 << 30), 1), (b"\0" * mib, 1 << 10)]))]
        ),
        lambda: container(b"deflate", [(30 * mib, deflated([(b"\0" * mib, 30)]))] * 40),
        lambda: container(b"deflate", [(1 << 40, deflated([(b"\0" * mib, 30)]))]),
        lambda: container(b"null", [(1 << 60, b"")]),
        lambda: container(b"null", [(-5, b"\0" * 5)]),
        lambda: container(b"null", [(1, varint(1 << 60) + b"x")]),
        lambda: container(b"snappy", [(1, b"x")]),
        lambda: container(
            b"null", [(1 << 50, b"")], json.dumps({"type": "array", "items": "null"}).encode()
        ),
        lambda: container(b"null", [(1, b"\2x")], b'{"type":' * 5000),
        lambda: real[:4] + varint(1 << 50) + real[5:],
        lambda: real[:4] + varint(1) + varint(1 << 50) + real[5:],
        lambda: b"Obj\x01" + b"\xff" * 40,
    )
    (folder / JOURNAL).write_bytes(ground.rng.choice(made)())
    reseal(folder)


def snapshot(ground: Ground, folder: Path) -> None:
    """A snapshot's manifest, sealed under the family's own key, that says too much.

    Its events name it.
    """
    export = opened_export(folder)
    tensors = export.tensors(Settings(home=ground.work / "none"), PASSPHRASE)
    events = list[JournalEvent](export.events())
    number, one = ground.rng.choice(
        [(number, one) for number, one in enumerate(events) if isinstance(one, CheckpointTaken)]
    )
    found: Any = manifest_at(tensors.store, tensors.family, one.address, one.sha256)
    name = ground.rng.choice(list(found["tensors"]))
    entry = found["tensors"][name]
    kind, plain = ground.rng.randrange(8), b""
    if kind == 0:
        entry.update(shape=[1 << 40], pieces=[[0, 0, 1 << 42]])
    elif kind == 1:
        entry.update(dtype=ground.rng.choice(("load", "__doc__", "float128", 3, "complex64")))
    elif kind == 2:
        entry.update(pieces=[[ground.rng.choice((-1, 1 << 40, "0", None)), 0, 4]])
    elif kind == 3:
        found["tensors"] |= {f"model/{copy}": entry for copy in range(20_000)}
    elif kind == 4:
        found["chunks"] = [
            one | {"size": ground.rng.choice((1 << 40, -1, "x", 1.5))} for one in found["chunks"]
        ]
    elif kind == 5:
        found["notes"] = ground.rng.choice(
            (
                {},
                [],
                {"state": "{"},
                {"state": "[" * 5000},
                found["notes"] | {"random": ground.rng.choice(ODD)},
            )
        )
    elif kind == 6:
        plain = b"[" + b"0," * (40 << 20) + b"0]"
    else:
        found["chunks"] = [one | {"address": "../" * 10} for one in found["chunks"]]
    packed = zstandard.ZstdCompressor().compress(plain or json.dumps(found).encode())
    sealed = seal(tensors.family.manifest_key, packed, b"ESM2", head=b"ESM2")
    address = f"{manifests(tensors.family)}{sha256(sealed).hexdigest()}"
    (folder / "store" / address).write_bytes(sealed)
    events[number] = replace(one, address=address, sha256=sha256(sealed).hexdigest())
    with_events(folder, events)


def tensors(ground: Ground, folder: Path) -> None:
    """The data or a kernel is a safetensors file whose header is large, deep, or says what is not
    there.
    """
    path = ground.rng.choice([*folder.glob("data/*"), *folder.glob("store/kernels/*")])
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = ground.rng.choice([one for one in header if one != "__metadata__"])
    kind, text = ground.rng.randrange(6), b""
    if kind == 0:
        text = (
            b"{"
            + b",".join(
                b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % one
                for one in range(120_000)
            )
            + b"}"
        )
    elif kind == 1:
        text = b'{"a":' * 100_000
    elif kind == 2:
        header[name] |= {"shape": [1 << 40, 1 << 30], "data_offsets": [0, 1 << 62]}
    elif kind == 3:
        header[name] |= {"dtype": "F64"}
    elif kind == 4:
        header["__metadata__"] = {
            "esper": ground.rng.choice(
                ("{", "[" * 5000, '{"format": "esper-kernel/1", "ir": 3}', '{"format": []}')
            )
        }
    else:
        text = b"x" * (18 << 20)
    text = text or json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    reseal(folder)


def table(ground: Ground, folder: Path) -> None:
    """What the run told of its steps is a Parquet file that unpacks to much, or is none.

    The journal differs, so that it is read.
    """
    events = [
        replace(one, parameters_digest="ab" * 32) if isinstance(one, EpochEnded) else one
        for one in journal_of(folder)
    ]
    with_events(folder, events)
    (folder / "history").mkdir()
    path, kind = folder / "history" / "training_step.parquet", ground.rng.randrange(4)
    if kind == 0:
        subprocess.run(
            [sys.executable, "-c", WIDE, str(path)], check=True, timeout=600
        )  # which takes more memory than a reader may
    elif kind == 1:
        rows = pa.table(
            {
                "event_id": pa.array(["a b\n"] * 3),
                "loss": ["x", "\x1b", "0x"],
                "gradient_norm": [0.0] * 3,
            }
        )
        parquet.write_table(rows, path)
    elif kind == 2:
        path.write_bytes(
            b"PAR1" + ground.rng.randbytes(500) + (400).to_bytes(4, "little") + b"PAR1"
        )
    else:
        parquet.write_table(pa.table({"other": [1]}), path)
    reseal(folder)


def many(ground: Ground, folder: Path) -> None:
    """More files than are read, or a deep folder."""
    if ground.rng.random() < 0.5:
        (folder / "store" / "many").mkdir()
        for number in range(1_200):
            (folder / "store" / "many" / str(number)).touch()
    else:
        (folder / "store" / "/".join("d" * 40)).mkdir(parents=True)
    reseal(folder)


CHANGES: tuple[Callable[[Ground, Path], None], ...] = (
    *(
        flip,
        cut,
        other,
        event,
        event,
        order,
        config,
        config,
        manifest,
        text,
        links,
        bomb,
        snapshot,
        snapshot,
        tensors,
        table,
        many,
    ),
)


# What a reader does with it


def taken_in(folder: Path, ground: Ground) -> str:
    """`esper import`, on a bus in memory."""
    home = ground.work / "home"
    try:
        Importing(Settings(home=home), opened_export(folder, limits()), CLOCK, PASSPHRASE).into(
            MemoryBus(clock=CLOCK)
        )
    except EsperError as error:
        return str(error)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return ""


def limits() -> Any:
    from esper.bounded import limits_of  # noqa: PLC0415 - in one place

    return limits_of(Settings().imports)


def readings(folder: Path, ground: Ground) -> dict[str, str]:
    """How each command ended: empty for success, else its one sentence."""
    found = {
        "check": esper("import", folder, "--check").sentence,
        "fold": esper("replay", "fold", RUN, "--from", folder).sentence,
        "journal": esper("replay", "fold", RUN, "--from", folder / JOURNAL).sentence,
        "compare": esper("compare", folder, ground.real.parent / "other.avro").sentence,
        "audit": esper(
            *("audit", RUN, "--from", folder, "--passphrase-file", ground.real.parent / "secret")
        ).sentence,
    }
    rest: dict[str, Callable[[], str]] = {
        "import": lambda: taken_in(folder, ground),
        "scratch": lambda: (
            esper(
                "replay",
                "verify",
                RUN,
                "--from",
                folder,
                "--from-scratch",
                "--workers",
                "1",
                *ALLOW,
            ).sentence
        ),
        "verify": lambda: (
            esper(
                *(
                    "replay",
                    "verify",
                    RUN,
                    "--from",
                    folder,
                    "--workers",
                    "1",
                    "--passphrase-file",
                    ground.real.parent / "secret",
                    *ALLOW,
                )
            ).sentence
        ),
    }
    name = ground.rng.choice(list(rest))
    return found | {name: rest[name]()}


class Watch:
    """What this process does, by Python's own audit events."""

    def __init__(self, work: Path) -> None:
        self.work, self.seen, self.on = work, list[str](), False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what may not be."""
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str | Path):
            path, flags = str(Path(arguments[0]).absolute()), int(arguments[2] or 0)
            writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (writing and not path.startswith((str(self.work), "/dev/null"))) or (
                path.endswith("/secret") and "real" not in path
            ):
                self.seen.append(f"open {path} {flags}")
        elif event == "import" and arguments[0] == CANARY:
            self.seen.append("import")
        elif event == "subprocess.Popen" and "esper.bounded.parquet" not in arguments[1]:
            self.seen.append(f"subprocess {arguments[1]}")
        elif event in ("os.system", "os.exec", "socket.connect", "exec.dynamic"):
            self.seen.append(event)


def taken() -> int:
    """The most memory that this process has taken so far, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def tell(what: dict[str, Any]) -> None:
    """A line for whoever started this process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    """See the module."""
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    work = folder / "work"
    work.mkdir()
    (work / "secret").write_text(SECRET)
    (work / f"{CANARY}.py").write_text("raise SystemExit('the canary ran')\n")
    sys.path.insert(0, str(work))
    os.environ |= {"ESPER_HOME": str(work / "none"), "ESPER_IMPORTS__FILES": "1000"}
    watch = Watch(work)
    ground = Ground(folder / "real" / "export", work, random.Random(0))  # noqa: S311  # as below
    clean = readings(copy_of(ground.real, work / "clean"), ground)
    tell({"case": "clean", "ended": clean})
    base = taken()
    for number in range(count):
        ground = Ground(ground.real, work, random.Random(seed * 100_003 + number))  # noqa: S311  # repeatable, no secret
        change, hostile = CHANGES[number % len(CHANGES)], work / "hostile"
        copy_of(ground.real, hostile)
        change(ground, hostile)
        watch.on, out = True, io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(out):
                ended: Any = readings(hostile, ground)
        except BaseException as error:  # noqa: BLE001  # whatever comes out is what the test looks for
            ended = {"fault": f"{type(error).__name__}: {error}"}
        watch.on = False
        tell(
            {
                "case": number,
                "change": change.__name__,
                "ended": ended,
                "leak": SECRET in out.getvalue(),
                "kib": taken(),
            }
        )
        for left in (hostile, work / "moved"):
            shutil.rmtree(left, ignore_errors=True)
    tell({"base_kib": base, "most_kib": taken(), "seen": watch.seen[:20]})


if __name__ == "__main__":
    main()
