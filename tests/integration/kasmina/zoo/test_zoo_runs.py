"""Models of other people live through a run: killed with grafts under way, they go on; the journal
proves every step; what was grown is exported for use elsewhere.
"""

from __future__ import annotations

import json
import runpy
import signal
import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch

from tests.integration.kasmina.zoo.models import ZOO
from tests.integration.run.whole import esper, result, run_program

LOOP = Path(__file__).parent / "zoo_loop.py"
LIBRARIES = ("timm", "torchvision", "transformers")
OF_LIBRARIES = [name for name in ZOO if name.split()[0] in LIBRARIES]
FEW = ["torchvision resnet18", "transformers gpt2"]
"""A minute each; the others are variants."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.variant) for name in OF_LIBRARIES],
)
def test_it_is_killed_resumed_proven_and_exported(name: str, home: Path, tmp_path: Path) -> None:
    """`replay verify` executes the script again, without any death, to the same bits. The
    harvested model runs without Esper, and as torch's export and as ONNX it computes the same.
    """
    run_id = f"zoo-{name.replace(' ', '-')}"
    died = run_program(home, LOOP, (name, run_id), {"KILL_AT": "13"}, LIBRARIES)
    assert died.returncode == -signal.SIGKILL, died.stderr
    ended = run_program(home, LOOP, (name, run_id, "--resume"), {}, LIBRARIES)
    assert ended.returncode == 0, ended.stderr
    stages = json.loads(ended.stdout.splitlines()[-1])
    assert stages.keys() - {"DORMANT"}, "no kernel came into it"
    proof = result(esper(home, "replay", "verify", run_id, "--json", PYTHONPATH=str(Path.cwd())))
    assert (proof["proven"], proof["steps"], proof["epochs"]) == (True, 20, 4)

    file = tmp_path / "model.safetensors"
    done = esper(home, "harvest", run_id, "-o", str(file))
    assert done.returncode == 0, done.stderr
    load = runpy.run_path(str(tmp_path / "model.py"))["load"]
    plain = load(ZOO[name].model()).eval()
    x = ZOO[name].inputs(torch.Generator().manual_seed(8), 3)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries warn of is theirs
        wanted = plain(x)
        exported = torch.export.export(plain, (x,))
        assert torch.allclose(exported.module()(x), wanted, rtol=1e-4, atol=1e-5)
        onnx = tmp_path / "model.onnx"
        torch.onnx.export(exported, (x,), str(onnx), verbose=False)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert torch.allclose(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-4)
