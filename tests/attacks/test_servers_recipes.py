"""Attack: an operator starts a run whose recipe, or a change of it, names code or files of the
attacker's.

Expected: over HTTP nothing is started but what the owner has listed; refused with a sentence, on
record, and not a line of that code runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from rich.console import Console

from esper.clock import SystemClock
from esper.config import KafkaSettings, ServiceSettings, Settings
from esper.errors import UsageError
from esper.oona.bus.memory import MemoryBus
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import Intake
from esper.service import create_app
from esper.stack.processes.parts import with_esper_on_path
from esper.tolaria.control.api import Control, add_routes
from esper.tolaria.control.requests import RequestSender
from esper.tolaria.control.run_ledger import REQUESTS, RunLedger
from esper.tolaria.control.trainers import Trainers
from esper.tolaria.recipes.allowed import Allowed
from esper.tolaria.recipes.recipe import NAMING, Recipe, load, names, text
from esper.tolaria.run.assembly import train
from tests.servicefixtures import Recorder, credentials, served
from tests.stackfixtures import eventually

CLOCK = SystemClock()
LEAK = (
    "from pathlib import Path\nimport os\nPath(os.environ['MARK']).touch()\ndef model(): "
    "...\ndef data(): ...\n"
)


@pytest.fixture
def leak(tmp_path: Path) -> Path:
    """A recipe of the attacker's beside its code, which leaves a mark as soon as it is imported."""
    folder = tmp_path / "leak"
    folder.mkdir()
    (folder / "leak.py").write_text(LEAK)
    made = text("digits").replace("esper.tolaria.recipes.digits:", "leak:")
    assert "leak:model" in made
    (folder / "leak.toml").write_text(made)
    return folder / "leak.toml"


def choices(leak: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """What an operator may try, and what the refusal says."""
    (leak.parent / "link.toml").symlink_to(leak)
    for name in (
        str(leak),
        os.path.relpath(leak),
        f"{leak.parent}/../leak/leak.toml",
        f"file://{leak}",
        str(leak.parent / "link.toml"),
        "/dev/stdin",
        "/proc/self/environ",
        "/etc/passwd",
        "~/leak.toml",
        "",
        "digits.toml",
        "./digits",
        "--resume",
    ):
        yield {"recipe": name}, "started over HTTP"
    for change in (
        "model=leak:model",
        " model =leak:model",
        "model='leak:model'",
        'model="leak:model"',
        "data=leak:data",
        "model=os:getcwd",
        "model=esper.tolaria.recipes.digits:load_digits",
        "data=esper.tolaria.recipes.mnist1d:Path",
        "model=esper.stack.control:down",
    ):
        yield {"recipe": "digits", "overrides": [change]}, "is not a function that may be called"
    yield (
        {"recipe": "digits", "overrides": ["run.epochs=1", "model=leak:model"]},
        "is not a function that may be called",
    )


def test_an_operator_starts_listed_recipes_alone(tmp_path: Path, leak: Path) -> None:
    """Each try is 403 with a sentence and a record.

    Nothing goes to Kafka, and no process is started.
    """
    settings, bus, audit = Settings(home=tmp_path / "home"), MemoryBus(), Recorder()
    trainers = Trainers(settings, environment=os.environ, embedded=False, clock=CLOCK)
    app = create_app(
        title="t", part="tolaria", settings=settings, clock=CLOCK, ready=dict, audit=audit
    )
    with bus.producer(sender_id="tolaria") as producer:
        ledger = RunLedger(bus, Intake.of(DeadLetters(producer, "tolaria", CLOCK)))
        ledger.start()
        add_routes(app, Control(ledger, trainers, RequestSender(producer), CLOCK))
        with served(app, settings) as client:
            assert eventually(lambda: ledger.caught_up, 10)
            headers = credentials(settings, CLOCK, "operator")
            for body, sentence in choices(leak):
                audit.entries.clear()
                answer = client.post("/api/v1/runs", json=body, headers=headers)
                assert (answer.status_code, sentence in answer.text) == (403, True), (
                    body,
                    answer.text,
                )
                assert [entry.status for entry in audit.entries] == [0, 403]
                assert audit.entries[0].actor == "tester"
        ledger.stop()
    assert trainers.all() == []
    with bus.reader([REQUESTS], start="beginning") as reader:
        assert reader.poll(10, 0.2) == []


def test_the_trainer_holds_the_list_itself(tmp_path: Path, leak: Path) -> None:
    """A file that was changed after the check, or a journal that was forged, meets the same
    refusal, before its code is imported.
    """
    mark = tmp_path / "mark"
    environment = os.environ | {
        "MARK": str(mark),
        "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{leak.parent}",
    }
    for arguments in (("--", str(leak)), ("--set", "model=leak:model", "--", "digits")):
        command = [sys.executable, "-m", "esper.cli", "run", "--listed", *arguments]
        given = environment | {"ESPER_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            command, env=given, capture_output=True, text=True, check=False, timeout=120
        )
        assert (
            "started over HTTP" in done.stderr,
            "may be called" in done.stderr,
            done.returncode,
        ) in {(True, False, 2), (False, True, 2)}
    assert not mark.exists()
    assert not (tmp_path / "home" / "stack" / "kafka").exists()


def test_a_recipe_that_the_list_forbids_is_never_called(
    tmp_path: Path, broker: str, leak: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where functions are called, whatever way the recipe came: a journal's goes through the same
    place.
    """
    monkeypatch.syspath_prepend(leak.parent)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    settings = Settings(home=tmp_path / "home", kafka=KafkaSettings(bootstrap=broker))
    with pytest.raises(UsageError, match="leak:model"):
        train(
            settings,
            load(str(leak)),
            run_id=f"forged-{tmp_path.name}",
            cluster=broker,
            history_url="",
            clock=CLOCK,
            console=Console(quiet=True),
            require=Allowed().require,
        )
    assert not (tmp_path / "mark").exists()


def test_the_owner_may_name_folders_and_modules(leak: Path) -> None:
    """A folder's recipes, with the functions that they name; a module's functions in any recipe.

    And nothing beside it.
    """
    folder = Allowed.of(f"{leak.parent}/")
    assert folder.recipe(str(leak)) == str(leak.resolve())
    folder.require(load(str(leak)))
    folder.require(load("digits", ["model=leak:model"]))
    with pytest.raises(UsageError, match="os:getcwd"):
        folder.require(load(str(leak), ["model=os:getcwd"]))
    with pytest.raises(UsageError, match="started over HTTP"):
        folder.recipe(str(leak.parent / "other.toml"))
    module = Allowed.of("leak, other.models")
    module.require(load("digits", ["model=leak:anything", "data=other.models.deep:data"]))
    for reference in ("leaky:model", "other:model", "other.modelsx:model"):
        with pytest.raises(UsageError, match=reference):
            module.require(load("digits", [f"model={reference}"]))
    for wrong in ("/nowhere/at/all", "no module!"):
        with pytest.raises(UsageError, match="ESPER_SERVICE__RECIPES"):
            Allowed.of(wrong)
    for name in names():
        Allowed.of("").require(load(Allowed.of("").recipe(name)))


def test_what_others_may_put_into_a_folder_is_not_listed(leak: Path) -> None:
    """A folder or file that others may write, and a link to a file elsewhere."""
    allowed = Allowed.of(ServiceSettings(recipes=f"{leak.parent}/").recipes)
    for path, mode in ((leak.parent, 0o777), (leak.parent, 0o775), (leak, 0o666)):
        before = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(UsageError, match="started over HTTP"):
            allowed.recipe(str(leak))
        path.chmod(before)
    elsewhere = leak.parent.parent / "elsewhere.toml"
    elsewhere.write_text(leak.read_text())
    (leak.parent / "link.toml").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="started over HTTP"):
        allowed.recipe(str(leak.parent / "link.toml"))
    assert allowed.recipe(str(leak))


def test_an_operator_calls_nothing_with_arguments_of_his_own(tmp_path: Path) -> None:
    """A listed model, told where to load weights from, would run what it finds there. As optimizer
    or schedule only what a listed recipe names so, with the arguments that it has.
    """
    folder = tmp_path / "recipes"
    folder.mkdir(mode=0o700)
    (folder / "zoo.toml").write_text(
        'name = "zoo"\nmodel = "zoo:model"\ndata = "zoo:data"\n'
        '[optimizer]\nname = "zoo:make"\narguments = { momentum = 0.9 }\n'
    )
    (folder / "zoo.toml").chmod(0o600)
    allowed = Allowed.of(f"{folder}/, zoo")
    name = allowed.recipe(str(folder / "zoo.toml"))
    allowed.require(load(name))
    allowed.require(load(name, ["optimizer.name=SGD", "optimizer.arguments.nesterov=true"]))
    for overrides in (
        ["optimizer.name=zoo:model", "optimizer.arguments.weights=/tmp/evil.pt"],
        ["optimizer.name=zoo:model"],
        ["optimizer.name=zoo:other"],
        ["optimizer.arguments.weights=/tmp/evil.pt"],
        ["optimizer.arguments.momentum=0.5"],
        ["schedule.name=zoo:make", "schedule.arguments.weights=/tmp/evil.pt"],
        ["schedule.name=zoo:make"],
    ):
        with pytest.raises(UsageError, match=r"add a recipe with it and these arguments to ESPER"):
            allowed.require(load(name, overrides))


HARMLESS = {
    "name",
    "kasmina.include",
    "kasmina.exclude",
    "tamiyo.policy",
    "optimizer.arguments",
    "schedule.arguments",
}
"""Texts of a recipe that name neither code nor files: the run, patterns of layers, values that
Tamiyo checks, and words that an optimizer or schedule knows, which are code on the list themselves.
"""


def test_no_other_value_of_a_recipe_names_code_or_files() -> None:
    """A text that is added to recipes has to be judged: it names functions, and the list is held
    against it, or it is harmless.
    """

    def texts(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from texts(kind, f"{prefix}{name}.")
            elif kind is str or (
                get_origin(kind) is not Literal and any("str" in str(one) for one in get_args(kind))
            ):
                yield f"{prefix}{name}"

    assert set(texts(Recipe)) == HARMLESS | set(NAMING)


def test_a_part_imports_nothing_from_where_it_was_started(tmp_path: Path) -> None:
    """`esper up` in a folder where others write: their modules do not come before Esper's."""
    for name in ("esper", "pydantic", "uvicorn", "asyncio"):
        (tmp_path / f"{name}.py").write_text(LEAK)
    environment = with_esper_on_path(os.environ) | {
        "MARK": str(tmp_path / "mark"),
        "ESPER_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "esper.tolaria.control"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "needs a broker" in done.stderr
    assert not (tmp_path / "mark").exists()
