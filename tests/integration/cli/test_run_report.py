"""`esper audit RUN` as typed, over a run of the shared stack, and over copies of exports in which
something was changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.journal.reading import JOURNAL, from_file, to_file
from tests.attacks.hostile import reseal
from tests.golden.test_golden_reports import RUN as GOLDEN_RUN
from tests.golden.test_golden_runs import RUNS
from tests.integration.run.whole import endpoints, esper, query

Change = Callable[[Path], str]


@pytest.fixture(scope="module")
def report(
    home: Path, lockstep: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The report of a run of the installation in which kernels were kept and given up."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    esper(home, "runs", "note", lockstep[0]["run_id"], "a | <b>note</b>")
    done = esper(home, "audit", lockstep[0]["run_id"], "--report", str(path))
    assert done.returncode == 0, done.stderr
    assert "Verified: every check holds." in done.stdout
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_run_of_the_installation_is_verified(
    home: Path, lockstep: list[dict[str, Any]], report: dict[str, Any]
) -> None:
    """Claim: signatures, chain, fold, snapshots, kernels and Tamiyo's answers hold; what the report
    says is what the history has.
    """
    run = lockstep[0]["run_id"]
    assert {check["name"]: check["status"] for check in report["integrity"]["checks"]} == {
        "Signatures and order of the journal": "verified",
        "State of the run": "verified",
        "Manifests of snapshots": "verified",
        "Chunks of snapshots": "verified",
        "Kernels": "verified",
        "Records beside the journal": "verified",
    }
    url = endpoints(home).history_url
    decided = query(url, f"SELECT * FROM decisions WHERE run_id = '{run}'")  # noqa: S608  # ours
    told = {one["decision_id"]: one for one in report["decisions"]}
    assert told.keys() == {one["decision_id"] for one in decided}
    for one in decided:
        mine = told[one["decision_id"]]
        assert mine["evidence"] == json.loads(one["evidence"])
        names = ("reason", "confidence", "answer", "verdict", "shadow_gap")
        assert {name: mine[name] for name in names} == {name: one[name] for name in names}
    league = query(url, "SELECT kernel_id, parameters, flops FROM kernel_league")
    known = {one["kernel_id"]: one for one in league}
    for kernel in report["kernels"]:
        published = known[kernel["kernel_id"]]
        assert (kernel["parameters"], kernel["flops"]) == (
            published["parameters"],
            published["flops"],
        )
        assert all(check["passed"] for check in kernel["checks"])
    assert report["training"]["parameters_digest"] == lockstep[0]["digest"]
    assert [one["why"] for one in report["requests"] if one["what"] == "note"] == [
        "a | <b>note</b>"
    ]


def test_an_export_tells_the_same(
    home: Path, lockstep: list[dict[str, Any]], report: dict[str, Any], tmp_path: Path
) -> None:
    """Claim: an auditor with the folder alone, no stack and no passphrase, gets the same run,
    decisions and kernels, and is told which check needs the key.
    """
    run, secret = lockstep[0]["run_id"], tmp_path / "secret"
    secret.write_text("a passphrase\n")
    export = tmp_path / "export"
    made = esper(home, "export", run, "--to", str(export), "--passphrase-file", str(secret))
    assert made.returncode == 0, made.stderr
    done = esper(tmp_path / "empty", "audit", run, "--from", str(export), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for part in ("run", "turns", "settings", "environment", "decisions", "kernels", "training"):
        assert found[part] == report[part], part
    unchecked = [one for check in found["integrity"]["checks"] for one in check["unchecked"]]
    assert unchecked == ["The key of the snapshots is not at hand, so no chunk was opened."]
    assert found["integrity"]["head"] == report["integrity"]["head"]


def flipped(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def journal_byte(export: Path) -> str:
    flipped(export / JOURNAL)
    return "journal.avro was changed"


def chunk_byte(export: Path) -> str:
    chunk = next(path for path in sorted((export / "store/chunks").rglob("*")) if path.is_file())
    flipped(chunk)
    return f"{chunk.relative_to(export).as_posix()} was changed"


def chunk_byte_resealed(export: Path) -> str:
    chunk = next(path for path in sorted((export / "store/chunks").rglob("*")) if path.is_file())
    flipped(chunk)
    reseal(export)
    return f"Chunk {chunk.name} is damaged"


def signature(export: Path) -> str:
    messages = list(from_file(export / JOURNAL))
    changed = bytearray(messages[20])
    changed[-10] = ord("B") if changed[-10] == ord("A") else ord("A")
    to_file(export / JOURNAL, [*messages[:20], bytes(changed), *messages[21:]])
    reseal(export)
    return "Message 20: its signature does not fit its content"


def event_gone(export: Path) -> str:
    messages = list(from_file(export / JOURNAL))
    to_file(export / JOURNAL, [*messages[:20], *messages[21:]])
    reseal(export)
    return "lacks event 20"


def kernel_byte(export: Path) -> str:
    kernel = next((export / "store/kernels").iterdir())
    flipped(kernel)
    reseal(export)
    return kernel.stem


def foreign_file(export: Path) -> str:
    (export / "store" / "odd").write_text("odd")
    return "store/odd is no part of this export"


@pytest.mark.parametrize(
    "change",
    [
        journal_byte,
        chunk_byte,
        chunk_byte_resealed,
        signature,
        event_gone,
        kernel_byte,
        foreign_file,
    ],
)
def test_each_thing_that_was_changed_is_named(change: Change, tmp_path: Path) -> None:
    """Attack: one thing in an export is changed, with and without a manifest that fits. Expected:
    exit code 5, and a report that was written and names it.
    """
    export, secret = tmp_path / "export", tmp_path / "secret"
    # without tables, which are not what is changed here, and take seconds to read
    shutil.copytree(RUNS / "avx2", export, ignore=shutil.ignore_patterns("*.parquet"))
    reseal(export)
    secret.write_text("golden\n")
    named, path = change(export), tmp_path / "report.json"
    asked = ("--from", str(export), "--passphrase-file", str(secret), "--report", str(path))
    done = esper(tmp_path / "empty", "audit", GOLDEN_RUN, *asked)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    checks = json.loads(path.read_text())["integrity"]["checks"]
    assert any(named in fault for check in checks for fault in check["faults"]), checks
    assert str(tmp_path) not in path.read_text()


def test_mistakes_are_one_sentence_before_anything_is_read(
    home: Path, lockstep: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Claim: an unknown run, form, folder or export, and a file that is there, end with 2."""
    run, there = lockstep[0]["run_id"], tmp_path / "there.md"
    there.write_text("mine")
    golden = str(RUNS / "avx2")
    cases = {
        ("nobody",): "There is no run nobody",
        (run, "--report", str(tmp_path / "report.pdf")): "let it end in .html, .md or .json",
        (run, "--report", str(there)): "exists already; name another file with --report",
        (run, "--report", str(tmp_path / "no" / "report.md")): "There is no folder",
        (run, "--from", str(there)): "is no folder",
        (run, "--from", str(tmp_path)): "holds no export",
        (run, "--from", golden): f"is an export of run {GOLDEN_RUN}",
        (run, "--passphrase-file", str(there)): "name its folder with --from",
        (GOLDEN_RUN, "--from", golden, "--passphrase-file", str(there)): "is not the one that",
    }
    for arguments, said in cases.items():
        done = esper(home, "audit", *arguments)
        assert (done.returncode, said in done.stderr) == (2, True), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert there.read_text() == "mine"
