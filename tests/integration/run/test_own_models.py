"""Growth of models that Esper has never seen: a recipe around a transformer and a residual network,
and the README's loop of one's own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from esper.clock import SystemClock
from tests.integration.run.whole import GROWING, endpoints, esper, query, result
from tests.integration.run.whole import program as run_program

ROOT = Path(__file__).parents[3]
MODELS = Path(__file__).parent / "models"


def run(home: Path, name: str) -> dict[str, Any]:
    """A run of the recipe around one of the models beside this test."""
    done = esper(
        home,
        "run",
        str(MODELS / f"{name}.toml"),
        "--json",
        "--run-id",
        name,
        PYTHONPATH=str(MODELS),
    )
    return result(done)


@pytest.mark.parametrize(
    ("name", "chance", "kinds"),
    [
        pytest.param(*("encoder", 0.5, {("Linear", "sequence in 9")}), marks=pytest.mark.variant),
        (
            "residual",
            0.1,
            {
                ("Conv2d", "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 8x8"),
                ("Conv2d", "conv2d k1x1 s2x2 p0x0 d1x1 g1 in 8x8"),
            },
        ),
    ],
)
def test_a_recipe_around_a_model_of_ones_own(
    home: Path, name: str, chance: float, kinds: set[tuple[str, str]]
) -> None:
    """Layers of an unchanged library-style model are seeded in their geometry, kernels that fit are
    compiled, tried and judged, and the run says how.
    """
    found = run(home, name)
    url = endpoints(home).history_url
    layers = query(
        url,
        (
            "SELECT layers.kind AS kind, layers.geometry AS geometry FROM run_started WHERE "  # noqa: S608
            f"run_id = '{name}'"
        ),
    )[0]
    assert kinds <= set(zip(layers["kind"], layers["geometry"], strict=True))
    tried = query(
        url,
        (
            f"SELECT family, to_stage FROM seed_transitioned WHERE run_id = '{name}' AND "  # noqa: S608
            "to_stage = 'TRAINING'"
        ),
    )
    assert tried, found["growth"]
    assert (
        query(url, f"SELECT count() AS n FROM kernel_failed WHERE run_id = '{name}'")[0]["n"] == 0  # noqa: S608
    )
    assert found["growth"].startswith(("Grew ", "No kernel was kept"))
    assert found["accuracy"] > chance


@pytest.mark.parametrize(
    ("change", "sentence", "line"),
    [
        ("model={}:net_raises", "raised ValueError: no weights", True),
        pytest.param(
            *("model={}:training_raises", "raised RuntimeError: shape", True),
            marks=pytest.mark.variant,
        ),
        pytest.param(
            "model={}:net_narrow",
            "on the train split, in its layer 0, raised RuntimeError",
            False,  # a case
            marks=pytest.mark.variant,
        ),
        ("data={}:data_raises", "raised KeyError: 'test'", True),
        ("data={}:data_from_one", "has label 4 at sample 3", False),
        pytest.param(*("task={}:RAISES", "raised IndexError", True), marks=pytest.mark.variant),
        ("optimizer.name={}:make_explodes", "raised ArithmeticError: too far", True),
    ],
)
def test_a_mistake_in_code_of_ones_own_ends_with_2_and_its_line(
    home: Path,
    change: str,
    sentence: str,
    line: bool,  # noqa: FBT001  # a case
) -> None:
    """Never a fault of Esper's, and no traceback."""
    module = "tests.unit.tolaria.mistaken"
    changes = [f"model={module}:net", f"data={module}:data", change.format(module)]
    arguments = [part for one in changes for part in ("--set", one)]
    done = esper(
        home,
        "run",
        "digits",
        *arguments,
        "--set",
        "kasmina.include=['*']",
        "--set",
        "run.batch_size=40",
        PYTHONPATH=str(ROOT),
    )
    (said,) = [one for one in done.stderr.splitlines() if one.startswith("esper: ")]
    assert (done.returncode, sentence in said) == (2, True), done.stderr
    assert ("mistaken.py, line " in said) is line
    assert "Traceback" not in done.stderr


def test_the_loop_of_the_readme_runs(home: Path, tmp_path: Path) -> None:
    """The ten lines of the README are a whole program: it trains in its own loop, says what grew or
    why not, and leaves a journal that folds.
    """
    readme = (ROOT / "README.md").read_text()
    (program,) = re.findall(r"```python\n(import esper, torch\n.*?)```", readme, re.DOTALL)
    script = tmp_path / "mine.py"
    script.write_text(program)
    began = SystemClock().now_us()
    done = run_program(home, script)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^(Grew|No kernel was kept|Nothing was grafted)", done.stdout, re.MULTILINE
    ), done.stdout
    (started,) = query(
        endpoints(home).history_url,
        (
            "SELECT run_id, recipe FROM run_started WHERE recipe = 'own-loop' AND "  # noqa: S608
            f"occurred_at > fromUnixTimestamp64Micro({began})"
        ),
    )
    folded = esper(home, "replay", "fold", started["run_id"], "--json")
    assert '"equals_live": true' in folded.stdout
    assert '"status": "COMPLETED"' in folded.stdout


def test_a_loop_of_ones_own_is_told_what_is_wrong(home: Path, tmp_path: Path) -> None:
    """A model without seeds, an optimizer of another model, no held-out samples, no steps, an
    unknown setting: a sentence each, and no journal.
    """
    program = """
import torch, esper
from esper.errors import UsageError
model = torch.nn.Linear(4, 2)
own = torch.optim.SGD(model.parameters(), 0.1)
other = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), 0.1)
x, y = torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)
def refused(net, optimizer, **arguments):
    try:
        with esper.grow(net, optimizer, **{"held_out": (x, y), "steps": 10} | arguments):
            raise AssertionError("began")
    except UsageError as error:
        print(error)
refused(model, own)
seeded = esper.germinate(model, seeds=2)
refused(seeded, other)
refused(seeded, own, held_out=(x[:0], y[:0]))
refused(seeded, own, steps=0)
refused(seeded, own, kernels={"learning": 1})
"""
    script = tmp_path / "wrong.py"
    script.write_text(program)
    done = run_program(home, script)
    assert done.returncode == 0, done.stderr
    sentences = done.stdout.splitlines()
    for part, sentence in zip(
        [
            "no seeds",
            "none of the model's parameters",
            "held_out has 0",
            "steps is",
            "kernels.learning",
        ],
        sentences,
        strict=True,
    ):
        assert part in sentence


@pytest.mark.parametrize(
    "ways",
    [
        "compiled held bfloat16 checkpointed",
        pytest.param("plain parallel double", marks=pytest.mark.variant),
    ],
)
def test_models_that_are_wrapped_or_of_another_type_grow(home: Path, ways: str) -> None:
    """Compiled, held by another module, in DataParallel, in float64 and bfloat16, behind reentrant
    checkpoints: shadow validations measure the kernels that were grafted, and none fails.

    Seeds are named as the model that is trained names them.
    """
    program = MODELS / "wrapped.py"
    done = run_program(home, program, *ways.split())
    assert done.returncode == 0, done.stderr
    url = endpoints(home).history_url
    layers = {
        "plain": "second",
        "compiled": "_orig_mod.second",
        "held": "backbone.second",
        "parallel": "module.second",
        "double": "second",
        "bfloat16": "second",
        "checkpointed": "second",
    }
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["way"] for line in lines] == ways.split()
    for line in lines:
        moved = query(
            url,
            (
                "SELECT layer FROM seed_transitioned WHERE run_id = "  # noqa: S608
                f"'{line['run']}'"
            ),
        )
        assert {row["layer"] for row in moved} == {layers[line["way"]]}, line
        assert any(line["gaps"]), line
        failed = query(
            url,
            f"SELECT count() AS n FROM kernel_failed WHERE run_id = '{line['run']}'",  # noqa: S608
        )
        assert failed[0]["n"] == 0, line


def test_a_layer_that_upsamples_grows_and_is_proven_elsewhere(home: Path, tmp_path: Path) -> None:
    """Seeds of a transposed convolution get kernels that double the positions, which train, blend
    and are fossilised; the run is proven bit for bit from its export.
    """
    chosen = ("gates.min_gap=0.0001", 'tamiyo.policy.families=["conv2d", "depthwise"]')
    given = (*GROWING, "decisions=lockstep", *chosen)
    settings = [part for one in given for part in ("--set", one)]
    recipe = str(MODELS / "upsampling.toml")
    done = esper(
        home, "run", recipe, "--json", "--run-id", "upsampling", *settings, PYTHONPATH=str(MODELS)
    )
    found = result(done)
    url = endpoints(home).history_url
    layers = query(
        url,
        "SELECT layers.kind AS kind, layers.geometry AS geometry FROM run_started WHERE "
        "run_id = 'upsampling'",
    )[0]
    geometry = "conv_transpose2d k3x3 s2x2 p1x1 o1x1 d1x1 g1 in 2x2"
    assert list(zip(layers["kind"], layers["geometry"], strict=True)) == [
        ("ConvTranspose2d", geometry)
    ]
    stages = query(
        url,
        "SELECT to_stage, k.geometry AS geometry FROM seed_transitioned AS s "
        "JOIN kernel_published AS k ON s.kernel_id = k.kernel_id WHERE s.run_id = 'upsampling'",
    )
    assert {one["to_stage"] for one in stages} >= {"TRAINING", "BLENDING", "FOSSILIZED"}, found
    assert geometry in {one["geometry"] for one in stages}
    failed = "SELECT count() AS n FROM kernel_failed WHERE run_id = 'upsampling'"
    assert query(url, failed)[0]["n"] == 0
    assert found["growth"].startswith("Grew "), found
    export = tmp_path / "export"
    done = esper(
        home, "export", "upsampling", "--to", str(export), "--json", PYTHONPATH=str(MODELS)
    )
    assert done.returncode == 0, done.stderr
    allowed = ("--allow", "upsampling:model", "--allow", "upsampling:data")
    arguments = (
        "replay",
        "verify",
        "upsampling",
        "--from",
        str(export),
        "--from-scratch",
        *allowed,
    )
    proof = esper(tmp_path / "empty", *arguments, PYTHONPATH=str(MODELS))
    assert proof.returncode == 0, proof.stderr
