"""An export is what its reader makes of it: it needs no key that it has no use for, calls nothing
that it names, and lends no other run its data.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from esper.config import ImportSettings, Settings
from esper.errors import CorruptError, UsageError
from esper.events.records import CheckpointTaken
from esper.journal.importing import Importing
from esper.journal.portable import opened_export
from esper.journal.provenance import Provenance, inherit, note, provenance
from esper.oona.bus.memory import MemoryBus
from esper.tolaria.recipes import digits
from esper.tolaria.recipes.recipe import OWNER, Permit, function, load, shipped
from esper.tolaria.recipes.sources import source_of
from esper.tolaria.recipes.splits import Splits, digest_of, keep, kept, kept_in, packed
from esper.tolaria.record.permits import permit_for
from esper.tolaria.replay.archive import Archived
from esper.tolaria.run.trainee import inputs_of, load_data
from esper.urza.opening import open_store
from esper.vault.boxes import INSTALLATION
from esper.vault.family_keys import family_id, require_own
from tests.attacks.hostile import (
    ALLOW,
    FUNCTIONS,
    RUN,
    Real,
    copy_of,
    esper,
    forget,
    journal_of,
    real,
    reseal,
    result,
    with_config,
)
from tests.unit.tolaria.laboratory import CLOCK, data, splits_of

SOURCE = (
    "import pathlib\npathlib.Path(__file__).with_suffix('.ran').write_text('ran')\n\n\ndef "
    "model():\n    raise SystemExit('called')\n"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Real:
    return real(tmp_path_factory.mktemp("real"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation without anything: no keys, no runs."""
    monkeypatch.setenv("ESPER_HOME", str(tmp_path / "empty"))
    for name in ("ESPER_CHECKPOINTS__MASTER_KEY", "ESPER_IMPORTS__ALLOW"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "empty"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of the reader's own on his path, which leaves a file when it runs."""
    path = tmp_path / "reader" / "canary_of_the_reader.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(path.parent))
    yield path
    forget(path.stem)


def ran(mine: Path) -> bool:
    return mine.with_suffix(".ran").exists() or mine.stem in sys.modules


def names_mine(folder: Path, mine: Path) -> Path:
    """An export whose recipe names the reader's module."""
    with_config(folder, lambda config: config.update(model=f"{mine.stem}:model"))
    return folder


# Keys


@pytest.mark.parametrize("kind", ["export", "sealed"])
def test_a_proof_from_scratch_needs_no_key(world: Real, home: Path, kind: str) -> None:
    """Attack: none; a promise.

    Without any key, from its first step: proven, and it says that no snapshot was compared. No key
    is made.
    """
    proof = result(
        esper(
            "replay",
            "verify",
            RUN,
            "--from",
            getattr(world, kind),
            "--from-scratch",
            "--workers",
            "1",
            "--json",
            *ALLOW,
        )
    )
    assert (proof["proven"], proof["epochs"], proof["snapshots"]) == (True, 2, 0)
    assert proof["notes"] == ["Snapshots were not compared: their key is not available."]
    assert not home.exists()


def test_with_the_passphrase_every_snapshot_is_compared(world: Real, home: Path) -> None:
    """With it the snapshots are opened, with --from-scratch or without.

    Nothing of the installation is used or made.
    """
    taken = sum(isinstance(event, CheckpointTaken) for event in world.events)
    for scratch in ((), ("--from-scratch",)):
        arguments: tuple[str | Path, ...] = (
            "--passphrase-file",
            world.secret,
            "--workers",
            "1",
            "--json",
            *scratch,
        )
        proof = result(esper("replay", "verify", RUN, "--from", world.export, *arguments, *ALLOW))
        assert (proof["proven"], proof["snapshots"]) == (True, taken)
    assert not home.exists()


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [("export", "give its file with --passphrase-file."), ("sealed", "with --passphrase-file.")],
)
@pytest.mark.parametrize(
    "what",
    [
        ("verify", "--workers", "1"),
        ("state", "--step", "9"),
        ("state", "--step", "9", "--only", "model", "--out", "file"),
    ],
)
def test_a_snapshot_without_its_key_names_both_ways_out(
    world: Real, home: Path, tmp_path: Path, kind: str, remedy: str, what: tuple[str, ...]
) -> None:
    """The one sentence has the passphrase and --from-scratch in it."""
    command, *options = (str(tmp_path / word) if word == "file" else word for word in what)
    told = esper("replay", command, RUN, "--from", getattr(world, kind), *options, *ALLOW)
    assert told.code == 2
    assert remedy in told.sentence
    assert told.sentence.endswith("Or use no snapshot, with --from-scratch: that needs no key.")
    assert not home.exists()


# Functions


@pytest.mark.parametrize(
    "what", [("verify", "--from-scratch"), ("state", "--step", "3", "--from-scratch"), ("fold",)]
)
def test_replay_calls_nothing_that_an_export_names(
    world: Real, home: Path, mine: Path, tmp_path: Path, what: tuple[str, ...]
) -> None:
    """Attack: model = "a module of the reader's:function".

    Refused, or not needed; the module is not even imported, and its source was shown.
    """
    folder = names_mine(copy_of(world.export, tmp_path / "copy"), mine)
    told = esper("replay", *what, RUN, "--from", folder)
    assert not ran(mine)
    if what == ("fold",):
        assert told.code == 0
        return
    assert told.code == 2
    assert f"allow it with --allow {mine.stem}:model" in told.sentence
    assert f"would run {mine}, SHA-256 {source_of(mine.stem).sha256}." in told.said.replace(
        "\n", ""
    )


@pytest.mark.parametrize(
    "reference",
    [
        "os:abort",
        "esper.tolaria.recipes.digits:torch",
        "esper.tolaria.recipes.digits:Splits",
        "esper.cli:main",
        "tests.unit.tolaria.laboratory:recipe",
    ],
)
@pytest.mark.parametrize("key", ["model", "data"])
def test_only_functions_of_shipped_recipes_count_as_espers_own(
    world: Real, home: Path, tmp_path: Path, reference: str, key: str
) -> None:
    """Attack: anything else in Esper's own modules, or of the standard library, by its name."""
    folder = copy_of(world.export, tmp_path / "copy")
    for path in (folder / "data").iterdir():
        path.unlink()  # so that the data function would be called
    with_config(
        folder,
        lambda config: config.update(
            {"model": "esper.tolaria.recipes.digits:model", key: reference}
        ),
    )
    told = esper("replay", "verify", RUN, "--from", folder, "--from-scratch", "--workers", "1")
    assert told.code == 2
    assert f"--allow {reference}" in told.sentence
    with pytest.raises(UsageError, match="allow it with --allow"):
        function(reference, key, Permit())
    assert shipped() == {
        f"esper.tolaria.recipes.{name}:{what}"
        for name in ("digits", "mnist1d")
        for what in ("model", "data")
    }


def test_what_the_reader_allows_by_name_runs_and_nothing_else(
    world: Real, home: Path, mine: Path, tmp_path: Path
) -> None:
    """By option or setting, after its source was shown; an allowed name allows no other."""
    folder = names_mine(copy_of(world.export, tmp_path / "copy"), mine)
    arguments = ("replay", "verify", RUN, "--from", folder, "--from-scratch", "--workers", "1")
    assert esper(*arguments, "--allow", f"{mine.stem}:other").code == 2
    assert not ran(mine)
    told = esper(*arguments, "--allow", f"{mine.stem}:model")
    assert (told.code, "raised SystemExit: called" in told.sentence) == (5, True)
    settings = Settings(home=home, imports=ImportSettings(allow=f"other:model, {mine.stem}:model"))
    permit = permit_for(
        settings,
        journal_of(folder),
        load("digits", [f"model={mine.stem}:model"]),
        say=lambda _: None,
    )
    assert permit.covers(f"{mine.stem}:model", "model")
    assert not permit.covers(f"{mine.stem}:data", "data")
    assert not permit.covers(f"{mine.stem}:model", "optimizer.name")


def test_the_source_as_it_was_recorded_is_shown_against_the_one_here(
    world: Real, home: Path, mine: Path, tmp_path: Path
) -> None:
    """An export brings the source along.

    The difference is shown line by line, without escapes, and a source that was exchanged is told.
    """
    folder = copy_of(world.export, tmp_path / "copy")
    then = SOURCE.replace("'called'", "'harmless'\x1b[2J")
    (folder / "source").mkdir()
    (folder / "source" / f"{mine.stem}.py").write_text(then)
    with_config(
        folder,
        lambda config: config.update(model=f"{mine.stem}:model"),
        versions=json.dumps({f"source of {mine.stem}": "ab" * 32}),
    )
    told = esper("replay", "verify", RUN, "--from", folder, "--from-scratch")
    said = told.said.replace("\n", "")
    assert "-    raise SystemExit('harmless'\\x1b[2J)" in said
    assert "+    raise SystemExit('called')" in said
    assert "\x1b" not in told.said
    assert "the run was trained with another file" in said
    assert "is not the one that it recorded" in said
    assert not ran(mine)


def test_a_package_is_found_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: module names inside a package, whose __init__ runs at a plain look for them."""
    package = tmp_path / "canary_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('ran')\n")
    (package / "inner.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source_of("canary_package.inner").path == package / "inner.py"
    assert source_of("canary_package.nothing").path is None
    assert "canary_package" not in sys.modules


def imported(folder: Path, home: Path, passphrase: str = "") -> MemoryBus:
    """An export taken into an installation, on a bus in memory."""
    bus = MemoryBus(clock=CLOCK)
    Importing(Settings(home=home), opened_export(folder), CLOCK, passphrase).into(bus)
    return bus


def test_an_imported_run_is_foreign_wherever_it_is_executed(
    world: Real, home: Path, mine: Path, tmp_path: Path
) -> None:
    """Attack: what `replay --from` refuses, imported first and replayed, resumed or forked then.

    The same permit guards all of them.
    """
    folder = names_mine(copy_of(world.export, tmp_path / "copy"), mine)
    reseal(folder, master_key="", salt="")
    imported(folder, home)
    events, settings = journal_of(folder), Settings(home=home)
    with pytest.raises(UsageError, match=f"allow it with --allow {mine.stem}:model"):
        Archived(settings, tuple(events)).open(CLOCK)
    (settings.runs_dir / RUN / "outbox").mkdir()  # as the first resumption leaves it
    with pytest.raises(UsageError, match="was not begun here"):
        Archived(settings, tuple(events)).open(CLOCK)
    assert not ran(mine)


def test_a_run_that_was_begun_here_needs_no_permission(tmp_path: Path, world: Real) -> None:
    """Its owner has named its recipe; a run that this installation has never seen is foreign."""
    settings, recipe = Settings(home=tmp_path), load("digits", [f"model={FUNCTIONS[0]}"])
    with pytest.raises(UsageError):
        permit_for(settings, world.events, recipe, say=lambda _: None)
    (settings.runs_dir / RUN / "outbox").mkdir(parents=True)
    assert permit_for(settings, world.events, recipe, say=lambda _: None) == OWNER


# Data


def test_the_data_of_an_import_is_its_runs_alone(world: Real, home: Path, tmp_path: Path) -> None:
    """Attack: an import whose data is named as the reader's own `digits` file, which the next run
    of digits then trained on.
    """
    folder = copy_of(world.export, tmp_path / "copy")
    source = Path(digits.__file__)
    hostile = Splits(*((torch.zeros(10, 1, 8, 8), torch.full((10,), 3)) for _ in range(3)))
    for path in (folder / "data").iterdir():
        path.unlink()
    for more in ("", f"-{digest_of(hostile)}"):
        name = f"digits-{sha256(source.read_bytes()).hexdigest()[:16]}{more}.safetensors"
        (folder / "data" / name).write_bytes(packed(hostile))
    with_config(folder, lambda config: config.update(load("digits").model_dump(mode="json")))
    reseal(folder, master_key="", salt="")
    imported(folder, home)
    settings = Settings(home=home)
    assert not settings.data_dir.exists()
    own = load_data(
        load("digits"), Permit(), run_dir=settings.runs_dir / "another", shared=settings.data_dir
    )
    assert own.train[1].unique().tolist() == list(range(10))
    theirs = load_data(
        load("digits"), Permit(), run_dir=settings.runs_dir / RUN, shared=settings.data_dir
    )
    assert theirs.train[1].unique().tolist() == [3]


def test_a_damaged_or_planted_file_of_the_shared_data_is_made_again(tmp_path: Path) -> None:
    """Attack: another file under the name of the shared data, whole or with a bit turned.

    It is not used, and it is said.
    """
    folder, digest, said = tmp_path / "data", digest_of(data()), list[str]()
    keep(data(), "mine", folder)
    (path,) = kept_in(folder, digest)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    hostile = packed(
        Splits(*((torch.zeros(4, 12), torch.zeros(4, dtype=torch.long)) for _ in range(3)))
    )
    for planted in (bytes(content), hostile, b"", b"\xff" * 64):
        path.write_bytes(planted)
        assert kept(folder, digest, say=said.append) is None
        assert not path.exists()
        keep(data(), "mine", folder)
        found = kept(folder, digest)
        assert found is not None
        assert digest_of(found) == digest
    assert said == [f"{path} is damaged: it is removed, and the data made again."] * 4


def test_the_data_of_an_import_is_held_against_its_hash(
    world: Real, home: Path, tmp_path: Path
) -> None:
    """Attack: data under a run exchanged after the import.

    Refused; a fork inherits data and origin of its parent.
    """
    folder = copy_of(world.export, tmp_path / "copy")
    reseal(folder, master_key="", salt="")
    imported(folder, home)
    settings = Settings(home=home)
    run_dir, child = settings.runs_dir / RUN, settings.runs_dir / "child"
    archive = Archived(settings, world.events, allow=FUNCTIONS).open(CLOCK)
    assert digest_of(splits_of(archive)) == digest_of(data())
    inherit(run_dir, child)
    assert (known := provenance(child)) is not None
    assert known.fork
    assert digest_of(
        load_data(archive.recipe, Permit(), run_dir=child, shared=settings.data_dir)
    ) == digest_of(data())
    (run_dir / "data" / "laboratory.safetensors").write_bytes(
        packed(Splits(data().test, data().test, data().test))
    )
    with pytest.raises(
        CorruptError,
        match=(
            r"laboratory\.safetensors, the data that the run came with, has another hash than "
            r"origin\.json"
        ),
    ):
        Archived(settings, world.events, allow=FUNCTIONS).open(CLOCK)


def test_data_that_are_not_those_of_the_journal_are_refused(
    world: Real, home: Path, tmp_path: Path
) -> None:
    """Attack: an export with other data than the run recorded."""
    folder = copy_of(world.export, tmp_path / "copy")
    with_config(folder, lambda _: None, versions=json.dumps({"data": "ab" * 32}))
    told = esper(
        "replay", "verify", RUN, "--from", folder, "--from-scratch", "--workers", "1", *ALLOW
    )
    assert told.code == 5
    assert "are not those that run hostile-1 has recorded" in told.sentence


def test_an_import_brings_in_nothing_that_its_journal_does_not_need(
    world: Real, home: Path, tmp_path: Path
) -> None:
    """Attack: objects under names of other runs: pins, lists for a sweep to delete, keys of
    families, kernels under ids that are not theirs.
    """
    folder = copy_of(world.export, tmp_path / "copy")
    planted = (
        "pins/" + "a" * 32,
        "condemned/" + "b" * 32 + "/sweep",
        "families/" + "c" * 32 + "/" + "d" * 16,
        "kernels/" + "e" * 64 + ".safetensors",
    )
    for key in planted:
        (folder / "store" / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / "store" / key).write_text("[]")
    for path in (folder / "store" / "kernels").glob("[0-9a-d]*"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    reseal(folder)
    imported(folder, home, "correct horse battery staple")
    keys = set(open_store(Settings(home=home)).list())
    assert not keys & set(planted)
    assert {key.split("/")[0] for key in keys} <= {
        "pins",
        "families",
        "foreign",
        "chunks",
        "manifests",
        "kernels",
    }
    own = {f"families/{family_id(name)}" for name in (RUN, INSTALLATION)}
    assert {key.rpartition("/")[0] for key in keys if key.startswith("families/")} <= own
    with pytest.raises(
        UsageError,
        match="a key that came with an import, and that others know; choose another --run-id",
    ):
        require_own(
            open_store(Settings(home=home)), RUN
        )  # as a family of a fork would be that of a run to come
    require_own(open_store(Settings(home=home)), "another")


def test_the_folder_of_a_run_says_where_it_comes_from_before_anything_else(tmp_path: Path) -> None:
    """A damaged origin.json is no absent one: it is refused, and so is a new run of that id."""
    note(tmp_path / "run", Provenance("/elsewhere"))
    assert provenance(tmp_path / "run") == Provenance("/elsewhere")
    assert provenance(tmp_path / "other") is None
    (tmp_path / "run" / "origin.json").write_text("{")
    with pytest.raises(
        CorruptError, match=r"origin\.json, which says where the run comes from, is damaged"
    ):
        provenance(tmp_path / "run")


def test_the_first_event_has_digests_of_data_and_sources() -> None:
    """What a later reader compares with is recorded, for a user's own functions and not for
    Esper's.
    """
    recipe = load("digits", [f"model={FUNCTIONS[0]}"])
    found = inputs_of(recipe, data())
    assert found == {
        "data": digest_of(data()),
        "source of tests.unit.tolaria.laboratory": source_of(
            "tests.unit.tolaria.laboratory"
        ).sha256,
    }
    assert set(inputs_of(load("digits"), data())) == {"data"}
