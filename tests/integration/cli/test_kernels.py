"""`esper kernels` as typed, over the kernels of a real run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from esper.config import Settings
from tests.integration.run.whole import endpoints, esper, query

pytestmark = pytest.mark.usefixtures("lockstep")


@pytest.fixture(scope="module")
def kept(home: Path, lockstep: list[dict[str, Any]]) -> dict[str, Any]:
    """A kernel that a run has kept, as its events have it."""
    run = lockstep[0]["run_id"]
    (found, *_) = query(
        endpoints(home).history_url,
        "SELECT kernel_id, layer, seed, k.family AS family, k.parameters AS parameters, "  # noqa: S608  # ours
        "k.address AS address FROM seed_transitioned AS s JOIN kernel_published AS k ON "
        f"s.kernel_id = k.kernel_id WHERE run_id = '{run}' AND to_stage = 'FOSSILIZED'",
    )
    return found


def test_kernels_are_listed_by_what_they_were_worth(home: Path, kept: dict[str, Any]) -> None:
    """The kept one among them; a family chooses."""
    done = esper(home, "kernels", "ls", "--json")
    rows = {row["kernel_id"]: row for row in json.loads(done.stdout)}
    assert rows[kept["kernel_id"]]["fossilized"] >= 1
    assert kept["kernel_id"][:12] in esper(home, "kernels", "ls", "--grafted").stdout
    of_family = esper(home, "kernels", "ls", "--family", kept["family"], "--json")
    assert {row["family"] for row in json.loads(of_family.stdout)} == {kept["family"]}
    assert "families are" in esper(home, "kernels", "ls", "--family", "none").stdout


def test_one_is_shown_whole(
    home: Path, kept: dict[str, Any], lockstep: list[dict[str, Any]]
) -> None:
    """What it computes, every check, where it was grafted and how that ended."""
    text = esper(home, "kernels", "show", kept["kernel_id"][:20]).stdout
    assert f"{kept['parameters']:,} parameters" in text
    assert " = linear(input)" in text
    for check in ("shape", "dynamic_batch", "gradient", "finite", "budget", "determinism"):
        assert f" {check}: " in text
    graft = f"{lockstep[0]['run_id']} {kept['layer']}[{kept['seed']}] from step "
    assert ": FOSSILIZED, " in text.partition(graft)[2].partition("\n")[0]
    told = json.loads(esper(home, "kernels", "show", kept["kernel_id"], "--json").stdout)
    assert told["kernel"]["address"] == kept["address"]
    assert {node["name"] for node in told["blueprint"]["nodes"]} >= {"linear1"}
    assert all(check["passed"] for check in told["checks"])


def test_every_kernel_is_verified_and_a_damaged_one_is_named(
    home: Path, kept: dict[str, Any], tmp_path: Path
) -> None:
    """A copy of the store in which one artefact has another byte, one is gone, and one stands in
    for another.
    """
    done = esper(home, "kernels", "verify", "--json")
    assert done.returncode == 0, done.stderr
    count = json.loads(done.stdout)["verified"]
    assert count >= 3
    store = tmp_path / "store"
    shutil.copytree(Settings(home=home).store_location, store)
    files = sorted((store / "kernels").iterdir())
    changed = store / kept["address"]
    others = [file for file in files if file != changed]
    content = bytearray(changed.read_bytes())
    content[-40] ^= 1
    changed.write_bytes(content)
    others[0].write_bytes(others[1].read_bytes())
    others[1].unlink()
    done = esper(home, "kernels", "verify", "--json", ESPER_URZA__STORE=str(store))
    assert done.returncode == 5, done.stderr
    told = json.loads(done.stdout)
    assert told["damaged"].keys() == {changed.stem, others[0].stem, others[1].stem}
    assert told["verified"] == count - 3
    assert f"3 of {count} kernels are not what was published" in done.stderr
    assert "Traceback" not in done.stderr
    alone = esper(home, "kernels", "verify", others[2].stem, ESPER_URZA__STORE=str(store))
    assert (alone.returncode, alone.stdout) == (0, "The kernel is what was published.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "zzzzzz"), "No kernel begins with zzzzzz"),
        (("show", "x' OR 1=1"), "is no beginning of a kernel's id"),
        (("verify", "zzzzzz"), "No kernel begins with zzzzzz"),
        (("show", "abc"), "at least four characters"),
    ],
)
def test_a_mistake_is_one_sentence(home: Path, arguments: tuple[str, ...], said: str) -> None:
    """With exit code 2."""
    done = esper(home, "kernels", *arguments)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
