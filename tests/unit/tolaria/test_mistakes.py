"""Mistakes of users in what a recipe names: each is one sentence with exit code 2, before the first
step where it can be found there, and names the line of the user's own that raised.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.blame import is_own, mistake, place_of
from esper.errors import UsageError
from esper.lifecycle import RunState
from esper.tolaria.recipes.recipe import OWNER, load
from esper.tolaria.recipes.structures import mapped
from esper.tolaria.run.trainee import load_data, model_of, trainee_of
from esper.tolaria.step.method import method_of
from esper.tolaria.step.preflight import require_usable
from tests.unit.tolaria import mistaken

HERE = "tests.unit.tolaria.mistaken"
LINES = Path(str(mistaken.__file__)).read_text(encoding="utf-8").splitlines()


def begun(folder: Path, *overrides: str) -> None:
    """A recipe as far as its tenth step, in the order of `esper run`."""
    recipe = load(
        "digits",
        [
            f"model={HERE}:net",
            f"data={HERE}:data",
            "run.batch_size=40",
            "run.epochs=10",
            "kasmina.include=['*']",
            *overrides,
        ],
    )
    method = method_of(recipe, OWNER)
    splits = load_data(recipe, OWNER, run_dir=folder / "run", shared=folder / "data")
    trainee = trainee_of(recipe, model_of(recipe, OWNER, ()), splits, method)
    for _ in require_usable(trainee.growing, trainee.task, splits, recipe.run.batch_size):
        pass
    for step in range(10):
        batch = mapped(lambda one: one[: recipe.run.batch_size], splits.train)
        trainee.stepper.step(RunState("it"), step, batch, sample=False)


def marked(name: str) -> int:
    """The line of something in `mistaken` that is marked as the one that raises."""
    source, first = inspect.getsourcelines(getattr(mistaken, name))
    (place,) = [first + index for index, line in enumerate(source) if line.endswith("# here\n")]
    return place


MODELS = {
    "net_raises": "raised ValueError: no weights",
    "net_divides": "raised ZeroDivisionError: integer division or modulo by zero",
    "net_exits": "raised SystemExit: bad host",
    "net_needs": "raised TypeError: .*missing 1 required positional argument: 'width'",
    "net_number": "returns int, and must return a torch.nn.Module",
    "net_class": "returns type, and must return a torch.nn.Module",
    "net_nothing": "returns NoneType, and must return",
    "net_without_layers": "No .* layer matches",
    "net_narrow": "called by task classification on the train split, in its layer 0, raised",
    "net_frozen": "Every parameter of the model is frozen",
    "forward_raises": "raised RuntimeError: shape '.3, 3, 7.' is invalid",
    "training_raises": "raised RuntimeError: shape '.40, 3, 7.' is invalid",
    "batch_raises": "",
    "gives_dict": "gives dict of a, b: let it give a tensor",
    "gives_none": "gives NoneType: let it give a tensor",
    "gives_text": "gives str: let it give a tensor",
    "gives_vector": r"gives \[3\] for the samples of The train split",
    "gives_detached": "raised RuntimeError: element 0 of tensors does not require grad",
    "NUMBER": "is int, and must be a function without arguments",
    "X": "is Tensor, and must be a function without arguments",
    "ne": "has no function ne. Did you mean net?",
}
DATA = {
    "data_raises": "raised KeyError: 'test'",
    "data_reads": "raised FileNotFoundError: .*/nowhere/train.csv",
    "data_exits": "raised SystemExit: 3",
    "data_tuple": "returns tuple, and must return esper.Splits",
    "data_none": "returns NoneType, and must return esper.Splits",
    "data_numpy": "is a numpy ndarray: give torch.from_numpy",
    "data_pair": "raised TypeError: .*missing 1 required positional argument: 'test'",
    "data_uneven": "The train split has 120 inputs and 119 labels",
    "data_empty": "The validation split has 0 inputs and 0 labels",
    "data_tiny": "run.batch_size = 40 is more than the 9 training samples; lower it",
    "data_nan": "The validation split has NaN in inputs at sample 7",
    "data_infinite": "The train split has an infinite number in inputs at sample 0",
    "data_from_one": "The train split has label 4 at sample 3, and the model has outputs for 0 to",
    "data_negative": "The train split has label -1 at sample 0",
    "data_floats": "labels of float32",
    "data_column": r"give labels.squeeze\(1\)",
    "data_one_hot": r"give labels.argmax\(1\)",
    "data_double": "must have the same dtype",
    "data_test_wide": "on the test split, in its layer 0, raised RuntimeError: .*mat1 and mat2",
    "data_test_label": "The test split has label 7 at sample 0",
    "data_unlabelled": "The validation split has 120 of 120 samples whose labels are all -100",
    "data_mapping": "unexpected keyword argument 'input_ids'",
    "data_no_labels": "A batch has input, target, and no labels",
    "NUMBER": "is int, and must be a function without arguments",
    "dta": "has no function dta. Did you mean data",
}
TASKS = {
    "RAISES": "called by task raises on the train split, raised IndexError",
    "TENSOR": "gave Tensor; it must give an esper.Outcome",
    "NUMBER_LOSS": "gave a loss that is float: it must be a tensor without a dimension",
    "VECTOR": r"gave a loss \[3\]: it must be a tensor without a dimension",
    "DETACHED": "raised RuntimeError: element 0 of tensors does not require grad",
    "PLAIN_METRIC": "gave the metric hits that is int: it must be a tensor without a dimension",
    "VECTOR_METRIC": r"gave the metric hits \[3\]: it must be a tensor without a dimension",
    "UNITS": "raised ZeroDivisionError",
    "NUMBER": "is int, and must be a Task",
    "NOTHING": "has no function NOTHING",
}
OTHERS = {
    "optimizer.name=make_raises": "KeyError: 'momentum'",
    "optimizer.name=make_nothing": "gave NoneType, and must give a torch.optim.Optimizer",
    "optimizer.name=make_explodes": "raised ArithmeticError: too far",
    "optimizer.name=NUMBER": "is int: give a class of an optimizer",
    "schedule.name=fraction_raises": "raised ZeroDivisionError for step 5",
    "schedule.name=fraction_negative": "gave -1.0 for step 1",
    "schedule.name=NUMBER": "is int: give a function of step",
}
RAISED_IN = {
    "forward_raises": "Raises",
    "training_raises": "Raises",
    "RAISES": "_raises",
    "UNITS": "_units",
    "make_explodes": "Explodes",
}
CASES = [
    *((f"model={HERE}:{name}", name, said) for name, said in MODELS.items() if said),
    *((f"data={HERE}:{name}", name, said) for name, said in DATA.items()),
    *((f"task={HERE}:{name}", name, said) for name, said in TASKS.items()),
    *(
        (change.replace("=", f"={HERE}:"), change.partition("=")[2], said)
        for change, said in OTHERS.items()
    ),
]


@pytest.mark.parametrize(("change", "name", "said"), CASES)
def test_a_mistake_is_one_sentence_with_the_users_line(
    tmp_path: Path, change: str, name: str, said: str
) -> None:
    """Where a line of theirs raised, it is the one that is named."""
    with pytest.raises(UsageError, match=said) as caught:
        begun(tmp_path, change)
    sentence = str(caught.value)
    assert "\n" not in sentence
    raiser = RAISED_IN.get(name, name)
    target = getattr(mistaken, raiser, None)
    if inspect.isroutine(target) or inspect.isclass(target):
        source = inspect.getsource(target)
    else:
        source = ""
    if "# here\n" in source:
        assert f"mistaken.py, line {marked(raiser)}" in sentence


@pytest.mark.parametrize(
    "change", [f"data={HERE}:data_cached", f"data={HERE}:data_partial", f"model={HERE}:net"]
)
def test_what_is_strange_without_being_wrong_trains(tmp_path: Path, change: str) -> None:
    """A cached function, one that is a partial, and a plain one."""
    begun(tmp_path, change)


def test_a_module_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its code raises, with the line; its own missing imports by their names."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, (code, said, line) in enumerate(
        (
            ("def net(:\n    ...\n", "raised SyntaxError", 1),
            ("x = 1\nx.y\n", "raised AttributeError: 'int' object has no attribute 'y'", 2),
            ("\n\nraise RuntimeError('no')\n", "raised RuntimeError: no", 3),
            ("import sys\nsys.exit(1)\n", "raised SystemExit: 1", 2),
            ("from torch import nothing_there\n", "raised ImportError: cannot import name", 1),
            ("import no_such_module_here\n", "module no_such_module_here cannot be imported", 0),
        )
    ):
        module = f"esper_broken_{number}"
        (tmp_path / f"{module}.py").write_text(code)
        with pytest.raises(UsageError, match=re.escape(said)) as caught:
            begun(tmp_path, f"model={module}:net")
        if line:
            assert f"{module}.py, line {line}" in str(caught.value)


VALUES: list[tuple[str, str]] = [
    ("run.seed=-1", "run.seed = -1 does not fit"),
    ("run.seed=9223372036854775808", "run.seed = 9223372036854775808 does not fit"),
    ("run.seed=1.5", "run.seed = 1.5 does not fit"),
    ("run.seed=many", "run.seed = 'many' does not fit"),
    ("run.order=-1", "run.order = -1 does not fit"),
    ("run.order=99999999999999999999", "does not fit"),
    ("run.epochs=0", "run.epochs = 0 does not fit"),
    ("run.batch_size=0", "run.batch_size = 0 does not fit"),
    ("run.batch_size=-4", "run.batch_size = -4 does not fit"),
    ("run.batch_size=[1]", r"run.batch_size = \[1\] does not fit"),
    ("run.batch_size=200", "run.batch_size = 200 is more than the 120 training samples"),
    ("run.accumulate=41", "run.accumulate = 41 is more than the 40 samples"),
    ("run.threads=0", "run.threads = 0 does not fit"),
    ("run.threads=4096", "run.threads = 4096 does not fit"),
    ("run.device=gpu", "run.device = 'gpu' does not fit"),
    ("run.precision=half", "run.precision = 'half' does not fit"),
    ("run.lr=1", "Unknown key run.lr"),
    ("run.learning_rate=1", "Did you mean optimizer.learning_rate"),
    ("epochs=3", "Did you mean run.epochs"),
    ("optimizer.learning_rate=0", "optimizer.learning_rate = 0 does not fit"),
    ("optimizer.learning_rate=-1", "does not fit"),
    ("optimizer.learning_rate=inf", "does not fit"),
    ("optimizer.learning_rate=nan", "does not fit"),
    ("optimizer.learning_rate=fast", "optimizer.learning_rate = 'fast' does not fit"),
    ("optimizer.learning_rate=", "does not fit"),
    ("optimizer.name=Adamw", "did you mean Adam"),
    ("optimizer.name=LBFGS", "asks for the loss several times"),
    ("optimizer.name=torch.optim.SGD", "There is no optimizer"),
    ("optimizer.arguments.momentun=0.9", "optimizer.arguments does not fit AdamW"),
    ("optimizer.arguments.lr=0.1", "it is optimizer.learning_rate in a recipe"),
    ("optimizer.clip_norm=-1", "does not fit"),
    ("optimizer=SGD", "does not fit"),
    ("schedule.name=cosin", "did you mean cosine"),
    ("schedule.warmup_steps=10000", "is not less than the 30 steps"),
    ("schedule.name=ReduceLROnPlateau", "it asks for a metric"),
    ("kasmina.seeds=0", "kasmina.seeds = 0 does not fit"),
    ("kasmina.include=['nothing']", "layer matches nothing"),
    ("kasmina.include=body", "does not fit"),
    ("kernels.blend_steps=0", "does not fit"),
    ("kernels.shadow_passes=0", "does not fit"),
    ("gates.z=0", "does not fit"),
    ("gates.min_gap=-1", "does not fit"),
    ("tamiyo.policy.exploration=3", "exploration"),
    ("tamiyo.policy.name=nobody", "nobody"),
    ("tamiyo.enabled=perhaps", "does not fit"),
    ("telemetry.every_steps=0", "does not fit"),
    ("checkpoints.every_epochs=-1", "does not fit"),
    ("decisions=lock", "decisions = 'lock' does not fit"),
    ("name=My Recipe", "name = 'My Recipe' does not fit"),
    ("model=mine", "model = 'mine' does not fit"),
    ("model=mine:", "does not fit"),
    ("model=mine.py:net", "module mine"),
    ("model=no_such_module:net", "module no_such_module cannot be imported; put it beside"),
    ("model=.mine:net", "has no module before the colon"),
    ("data=mine/data.csv", "does not fit"),
    ("task=regresion", "did you mean regression"),
    ("task=regression", r"gives \[3, 4\] for targets \[120\]"),
    ("task=multi_label", r"gives \[3, 4\] for targets \[120\]"),
    ("task=language_model", r"language_model needs \[samples, tokens, vocabulary\]"),
    ("task.label_smoothing=2", "task.label_smoothing = 2 does not fit"),
    ("task.weights=[1]", "Unknown key task.weights"),
    ("task.class_weights=[1, 2, 3]", "class_weights has 3 weights, and the model gives 4 classes"),
    ("task.class_weights=1", "does not fit"),
    ("task.shift=true", "task.shift is not for classification"),
    ("=3", "--set takes section.key=value"),
    ("run.epochs", "--set takes section.key=value"),
    ("run.epochs.more=3", "run.epochs.more"),
    ("nothing.more=3", "Unknown key nothing"),
]


@pytest.mark.parametrize(("change", "said"), VALUES)
def test_a_value_that_cannot_be_is_one_sentence(tmp_path: Path, change: str, said: str) -> None:
    """Of a wrong type, size, name or place."""
    with pytest.raises(UsageError, match=said) as caught:
        begun(tmp_path, change)
    assert "\n" not in str(caught.value)


FILES: list[tuple[bytes, str]] = [
    (b"", "The recipe lacks name; add it"),
    (b"name = ", "is not valid TOML"),
    (b"name = 'x'\nname = 'y'\n", "is not valid TOML"),
    (b"[run\n", "is not valid TOML"),
    ("name = 'größe'".encode("latin-1"), "is not UTF-8 at byte 10; save it as UTF-8"),
    (b"\xff\xfen\x00", "is not UTF-8 at byte 0"),
    (b"name = 'x'\x00", "is not valid TOML"),
    (b"name = 'x'\nmodel = 'a:b'\n", "The recipe lacks data; add it"),
    (b"name = 'x'\nmodel = 'a:b'\ndata = 'a:b'\nrun = 3\n", "run = 3 does not fit"),
    (b"name = 'x'\nmodel = 'a:b'\ndata = 'a:b'\n[task]\nnam = 'x'\n", "Did you mean task.name"),
    (b"name = 'x'\nmodel = 'a:b'\ndata = 'a:b'\ntask = 3\n", "task = 3 does not fit"),
    (b"name = 'x'\nmodel = 3\ndata = 'a:b'\n", "model = 3 does not fit"),
    (b'{"name": "x"}', "is not valid TOML"),
    (b"name: x\n", "is not valid TOML"),
]


@pytest.mark.parametrize(("content", "said"), FILES)
def test_a_file_that_is_no_recipe_is_one_sentence(
    tmp_path: Path, content: bytes, said: str
) -> None:
    """Whatever is in it."""
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_file_is_one_sentence(tmp_path: Path) -> None:
    """A folder, nothing, a name with a zero in it, one that is too long, an unknown user's."""
    for name, said in (
        (str(tmp_path), "is a folder; name a recipe's file in it"),
        (str(tmp_path / "nothing.toml"), "There is no recipe or file"),
        ("mnist", "Did you mean mnist1d"),
        ("a\0b", "a.b cannot be read|There is no recipe or file"),
        ("a" * 5000, "cannot be read as a recipe|There is no recipe or file"),
        ("~nobody-of-that-name/x.toml", "cannot be read as a recipe|There is no recipe or file"),
    ):
        with pytest.raises(UsageError, match=said):
            load(name)


def test_umlauts_in_a_recipe_are_read_whatever_the_locale(tmp_path: Path) -> None:
    """TOML is UTF-8; a comment in German is no reason to fail."""
    path = tmp_path / "größe.toml"
    path.write_text("# Größe\n" + "name = 'x'\nmodel = 'a:b'\ndata = 'a:b'\n", encoding="utf-8")
    assert load(str(path)).name == "x"


def test_a_fault_of_esper_is_not_blamed_on_the_user() -> None:
    """A line of Esper's that raises is Esper's, also below a user's; a library's is of whoever
    called it.
    """

    def below(call: Any) -> Exception:
        try:
            call()
        except Exception as error:  # noqa: BLE001  # looked at
            return error
        raise AssertionError

    mine = below(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
    assert is_own(mine)
    assert place_of(mine).startswith(f"{Path(__file__)}, line ")
    espers = below(lambda: mapped(1, torch.zeros(1)))  # type: ignore[arg-type]  # the fault
    assert not is_own(espers)
    long = str(mistake("It", ValueError("one\ntwo " + "x" * 900)))
    assert "\n" not in long
    assert len(long) < 700
