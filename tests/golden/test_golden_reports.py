"""The report of a recorded run has the same bytes forever, and anywhere.

The files in `reports/` are what `esper audit golden-avx2 --from tests/golden/runs/avx2` writes with
the passphrase of the golden runs. A change of the report changes them in its commit.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests import commands
from tests.golden.test_golden_runs import GOLDEN, RUNS, run_id_of

REPORTS = Path(__file__).parent / "reports"
RUN = "golden-avx2"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that opens the snapshots of golden runs."""
    path = tmp_path_factory.mktemp("secret") / "passphrase"
    path.write_text("golden\n")
    return path


def audited(export: Path, run_id: str, report: Path, secret: Path, **environment: str) -> bytes:
    """The bytes of a report that an installation of nothing writes."""
    given = {**os.environ, "ESPER_HOME": str(report.parent / "home"), **environment}
    asked = ("audit", run_id, "--from", export, "--passphrase-file", secret, "--report", report)
    done = commands.run(*asked, environment=given)
    assert done.returncode == 0, done.stderr
    return report.read_bytes()


@pytest.mark.parametrize("form", ["html", "md"])
def test_a_report_has_the_recorded_bytes(form: str, tmp_path: Path, secret: Path) -> None:
    """Claim: a report follows from the export alone; the test below has the JSON."""
    made = audited(RUNS / "avx2", RUN, tmp_path / f"report.{form}", secret)
    assert made == (REPORTS / f"{RUN}.{form}").read_bytes()


def test_a_report_has_the_same_bytes_elsewhere(tmp_path: Path, secret: Path) -> None:
    """Claim: neither the place of the export nor hashing, time zone, locale or width of the
    terminal change a byte; the command is a process of its own.
    """
    shutil.copytree(RUNS / "avx2", tmp_path / "moved")
    elsewhere = {
        "PYTHONHASHSEED": "7",
        "TZ": "Pacific/Auckland",
        "LC_ALL": "C",
        "LANG": "de_DE.UTF-8",
        "COLUMNS": "40",
    }
    report = tmp_path / "report.json"
    given = {**os.environ, "ESPER_HOME": str(tmp_path / "home"), **elsewhere}
    asked = ("audit", RUN, "--from", tmp_path / "moved", "--passphrase-file", secret)
    done = commands.run(*asked, "--report", report, environment=given, cold=True)
    assert done.returncode == 0, done.stderr
    assert report.read_bytes() == (REPORTS / f"{RUN}.json").read_bytes()


@pytest.mark.parametrize(
    "run", [path for path in GOLDEN if path.name != "avx2"], ids=lambda path: path.name
)
def test_every_golden_run_is_verified(run: Path, tmp_path: Path, secret: Path) -> None:
    """Claim: exports of earlier versions are read and verified whole."""
    report = audited(run, run_id_of(run), tmp_path / "report.md", secret).decode()
    assert "Verified: every check holds." in report
    assert str(tmp_path) not in report
    assert str(run) not in report
