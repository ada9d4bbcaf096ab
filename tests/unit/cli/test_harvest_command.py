"""`esper harvest RUN` gives its owner a model that needs no Esper."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import esper
from esper.cli.runs.model import harvest
from esper.errors import UsageError
from tests.unit.tolaria.laboratory import GROWTH, Laboratory, model, recipe

PROGRAM = """
import sys
sys.modules["esper"] = None  # any import of it fails
sys.path.insert(0, sys.argv[1])
import torch
from grown import load
host, x, want = torch.load("host.pt", weights_only=False)
assert torch.equal(load(host).eval()(x), want)
"""


LEFT_OUT = {0: [], 6: ["mlp at first[0]", "mlp at second[1]"], 7: ["mlp at second[1]"]}
"""By the number of commands of `GROWTH`; the seventh fossilises the first kernel."""


@pytest.mark.parametrize("commands", list(LEFT_OUT))
def test_a_run_is_harvested(
    commands: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a run that grew nothing, of one whose kernels are under way at its end, and of one that
    kept one beside another under way: the files compute what `esper.harvest` does, in a process
    without Esper, and the command says what is left out.
    """
    trained = Laboratory(
        tmp_path / "home",
        recipe(run={"epochs": 4, "batch_size": 20}),
        [one for one in GROWTH if one.command != "SET_ALPHA"][:commands],
        "run-1",
    )
    trained.run()
    monkeypatch.setenv("ESPER_HOME", str(trained.folder))
    out = tmp_path / "grown.safetensors"
    capsys.readouterr()
    harvest("run-1", out=out)
    said = capsys.readouterr().out
    kept = "mlp at first[0]" if commands == 7 else "none was kept"
    assert f"{tmp_path / 'grown.py'} its kernels: {kept}." in said
    left_out = {0: [], 6: ["mlp at first[0]", "mlp at second[1]"], 7: ["mlp at second[1]"]}[
        commands
    ]
    assert [line.partition("ended: ")[2] for line in said.splitlines() if "Left out" in line] == (
        [f"{', '.join(left_out)}."] if left_out else []
    )
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("grown.*")} == {0o600}

    sealed = trained.settings.runs_dir / "run-1" / "model.safetensors"
    grown = esper.load(sealed, model()).eval()
    x = torch.randn(6, 12)
    if left_out:
        with pytest.warns(UserWarning, match="are left out"):
            plain = esper.harvest(grown)
        assert not torch.equal(plain(x), grown(x))
    else:
        plain = esper.harvest(grown)
        assert torch.equal(plain(x), grown(x))
    torch.save((model(), x, plain(x).detach()), tmp_path / "host.pt")
    subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path)],
        check=True,
        timeout=300,
        cwd=tmp_path,
    )

    with pytest.raises(UsageError, match=r"grown\.safetensors exists already"):
        harvest("run-1", out=out)
    out.unlink()
    with pytest.raises(UsageError, match=r"grown\.py exists already"):
        harvest("run-1", out=out)
    assert not out.exists()
    (tmp_path / "grown.py").unlink()
    harvest("run-1", out=out, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["left_out"] == left_out
    assert told["kept"] == (["mlp at first[0]"] if commands == 7 else [])
    for name in ("my-model.safetensors", "1.safetensors", "model.py"):
        with pytest.raises(UsageError, match="could not be imported"):
            harvest("run-1", out=tmp_path / name)
