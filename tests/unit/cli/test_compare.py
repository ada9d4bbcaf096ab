"""`esper compare` shows what differs between runs and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from esper.cli.views.compare import compare
from esper.errors import CorruptError, UsageError
from esper.events.codec import encode
from esper.journal.reading import JOURNAL, to_file
from tests.unit.tolaria.laboratory import GROWTH, Asked, Laboratory, recipe

SHORT = {"epochs": 4, "batch_size": 20}


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Journal files of four runs: one, its equal, one with another learning rate, and one that
    grafts at another place.
    """
    folder = tmp_path_factory.mktemp("journals")
    variants: dict[str, tuple[Any, Any]] = {
        "one": ({}, GROWTH[:2]),
        "equal": ({}, GROWTH[:2]),
        "faster": ({"optimizer": {"learning_rate": 0.01}}, GROWTH[:2]),
        "elsewhere": ({}, (GROWTH[0], Asked(18, "GERMINATE", "second", 1))),
    }
    found = {}
    for name, (sections, asked) in variants.items():
        laboratory = Laboratory(folder / name, recipe(run=SHORT, **sections), asked, run_id=name)
        laboratory.run()
        found[name] = folder / f"{name}.avro"
        to_file(found[name], [encode(event).value for event in laboratory.journal()])
    return found


def told(capsys: pytest.CaptureFixture[str], *files: Path) -> dict[str, Any]:
    """What `--json` says."""
    compare([str(file) for file in files], as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_equal_runs_differ_in_nothing(
    journals: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of the same seed and commands: no setting, no decision, no curve.

    All epochs are equal bit for bit.
    """
    found = told(capsys, journals["one"], journals["equal"])
    assert (found["settings"], found["environment"], found["decisions"]) == ({}, {}, [])
    assert (found["same_epochs"], found["common_decisions"]) == (4, 1)
    compare([str(journals["one"]), str(journals["equal"])])
    shown = capsys.readouterr().out
    assert "The same in all: settings, environment, grafts, curves." in shown
    assert "The first 4 epochs end with the same parameters" in shown


def test_an_export_is_named_by_its_folder(
    journals: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal in the folder is read."""
    (tmp_path / "export").mkdir()
    copy(journals["one"], tmp_path / "export" / JOURNAL)
    found = told(capsys, tmp_path / "export", journals["faster"])
    assert found["settings"] == {"optimizer.learning_rate": {"one": 0.001, "faster": 0.01}}


def test_a_setting_a_graft_and_the_curves_are_shown(
    journals: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The learning rate is the one setting that differs.

    The graft that two of three did not make is named with who made it.
    """
    found = told(capsys, journals["one"], journals["faster"], journals["elsewhere"])
    assert found["settings"] == {
        "optimizer.learning_rate": {"one": 0.001, "faster": 0.01, "elsewhere": 0.001}
    }
    assert found["decisions"] == [
        {
            "epoch": 2,
            "layer": "second",
            "seed": 1,
            "stage": "GERMINATED",
            "family": "mlp",
            "runs": ["elsewhere"],
        }
    ]
    assert found["common_decisions"] == 1
    assert found["same_epochs"] == 0
    assert [len(found["curves"][run]) for run in ("one", "faster", "elsewhere")] == [4, 4, 4]
    compare([str(journals[name]) for name in ("one", "faster", "elsewhere")])
    shown = capsys.readouterr().out
    assert "optimizer.learning_rate" in shown
    assert "grafts mlp at second[1]" in shown
    assert "run.epochs" not in shown


def test_curves_are_drawn(
    journals: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--plot writes a picture of the kind that the file's name says.

    Another ending or folder is refused before anything is read.
    """
    files = [str(journals["one"]), str(journals["elsewhere"])]
    compare(files, plot=tmp_path / "curves.svg")
    compare(files, plot=tmp_path / "curves.png")
    assert "Curves" in capsys.readouterr().out
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.startswith("<?xml")
    assert drawn.count("<!-- elsewhere -->") >= 2
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(
        UsageError,
        match=(
            r"curves\.txt does not say what picture to make: let it end in \.svg, \.png or "
            r"\.pdf\."
        ),
    ):
        compare(files, plot=tmp_path / "curves.txt")
    with pytest.raises(UsageError, match="There is no folder"):
        compare(files, plot=tmp_path / "nowhere" / "curves.svg")


def test_what_cannot_be_compared_is_refused(journals: dict[str, Path], tmp_path: Path) -> None:
    """One run, the same twice, and a file whose journal was changed."""
    with pytest.raises(UsageError, match=r"^Name at least two runs to compare"):
        compare([str(journals["one"])])
    with pytest.raises(UsageError, match=r"^A run is named twice"):
        compare([str(journals["one"]), str(journals["one"])])
    from esper.journal.reading import from_file  # noqa: PLC0415

    messages = list(from_file(journals["one"]))
    to_file(tmp_path / "gap.avro", messages[:1] + messages[2:])
    with pytest.raises(CorruptError, match="lacks event 1"):
        compare([str(tmp_path / "gap.avro"), str(journals["one"])])
