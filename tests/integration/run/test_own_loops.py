"""Loops of a user's own over `growth.batches`: killed and interrupted anywhere, they go on to the
bits of a run that nobody disturbed; what cannot go on says so.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from esper.config import Settings
from tests.integration.run.whole import endpoints, esper, query, result
from tests.integration.run.whole import program as run_program

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).parent / "models" / "own_loop.py"


@pytest.fixture(scope="module")
def whole(home: Path) -> str:
    """What the script says of a run that nobody disturbs."""
    done = run_program(home, SCRIPT, "own-whole")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_loop_of_ones_own_goes_on_after_any_death(home: Path, whole: str) -> None:
    """Killed within an epoch, at the end of one, before its first snapshot by steps, and
    asked to end, each time with another fresh model: digest, rate and growth are those of
    the run that nobody disturbed, and the journal proves itself.
    """
    deaths = [("3", {}), ("60", {}), ("74", {"ASKED": "SIGTERM"}), ("113", {})]
    deaths += [("130", {"ASKED": "SIGHUP"})]
    for number, (step, how) in enumerate(deaths):
        died = run_program(
            home,
            SCRIPT,
            "own-killed",
            *(["--resume"] if number else []),
            KILL_AT=step,
            # the first life's model is the run's; later ones have to become it
            MODEL_SEED=str(number or 2),
            **how,
        )
        # Python ends by the signal of Ctrl-C, where that is not switched off
        wanted = (1, 130, -signal.SIGINT) if how else (-signal.SIGKILL,)
        assert died.returncode in wanted, died.stderr
    ended = run_program(home, SCRIPT, "own-killed", "--resume", MODEL_SEED="9")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == whole
    url = endpoints(home).history_url
    moves = query(
        url, "SELECT to_stage FROM seed_transitioned WHERE run_id = 'own-killed' ORDER BY sequence"
    )
    assert {"BLENDING", "FOSSILIZED"} <= {move["to_stage"] for move in moves}, ended.stdout
    folded = esper(home, "replay", "fold", "own-killed", "--json")
    assert '"equals_live": true' in folded.stdout
    assert '"status": "COMPLETED"' in folded.stdout
    # the script runs again, whatever model and deaths the environment gave it then
    proof = result(by_script(home, "replay", "verify", "own-killed", "--json"))
    assert (proof["proven"], proof["steps"], proof["epochs"]) == (True, 140, 7)
    assert proof["snapshots"] > 15


def test_a_script_is_run_killed_and_resumed_by_esper_run(home: Path, whole: str) -> None:
    """With nothing in it about runs: the same digest, its text and arguments on record, and its
    result as JSON.
    """
    asked = ("run", str(SCRIPT), "--run-id", "own-script")
    died = esper(home, *asked, KILL_AT="45", PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    assert died.returncode == -signal.SIGKILL, died.stderr
    ended = esper(home, *asked, "--resume", "--json", PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    said, told = ended.stdout.splitlines()
    assert said == whole.strip()
    assert json.loads(told)["status"] == "COMPLETED"
    assert json.loads(told)["growth"] in said
    (started,) = query(
        endpoints(home).history_url,
        "SELECT versions FROM run_started WHERE run_id = 'own-script'",
    )
    versions = json.loads(started["versions"])
    assert versions["source of own_loop.py"] == hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
    assert json.loads(versions["arguments"]) == []
    kept = Settings(home=home).runs_dir / "own-script" / "source" / "own_loop.py"
    assert kept.read_bytes() == SCRIPT.read_bytes()


@pytest.mark.parametrize(
    ("text", "options", "code", "said"),
    [
        ("import esper\n\nraise ValueError('mine')\n", (), 2, "ValueError: mine in .*line 3;"),
        ("def f(:\n", (), 2, "SyntaxError.*line 1;"),
        ("print('nothing')\n", (), 2, "has begun no run"),
        ("import sys\nsys.exit(7)\n", (), 7, ""),
        ("import sys\nprint(sys.argv[1:])\n", ("--", "--lr", "3"), 2, "has begun no run"),
        ("", ("--set", "run.seed=1"), 2, "leave --set"),
        ("", ("--resume",), 2, "No run of mine"),
        (None, (), 2, "No such file"),
    ],
)
def test_what_a_script_does_wrong_is_named(
    home: Path, tmp_path: Path, text: str | None, options: tuple[str, ...], code: int, said: str
) -> None:
    """By file and line; its own exits are its own."""
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    done = esper(home, "run", str(path), *options, PYTHONPATH=str(ROOT))
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr.replace("\n", " "))
    assert "Traceback" not in done.stderr
    if "--lr" in options:
        assert done.stdout == "['--lr', '3']\n"


def by_script(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that executes the script, with what it imports on the path."""
    return esper(home, *arguments, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


def test_a_script_is_forked(home: Path, whole: str) -> None:
    """A fork of nothing but another beginning ends with the bits of the run."""
    again = by_script(home, "fork", "own-whole", "--step", "100", "--json")
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] == whole.strip()


@pytest.mark.variant
def test_a_script_is_forked_without_growth(home: Path, whole: str) -> None:
    """It ends with the bits of the same loop that never grew, and is proven."""
    alone = run_program(home, SCRIPT, "own-alone", ALONE="1")
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.split()[0] != whole.split(maxsplit=1)[0]
    ungrown = ("--set", "tamiyo.enabled=false", "--json")
    changed = by_script(home, "fork", "own-whole", "--step", "0", "--run-id", "own-fork", *ungrown)
    assert changed.returncode == 0, changed.stderr
    assert changed.stdout.splitlines()[0] == alone.stdout.strip()
    proof = result(by_script(home, "replay", "verify", "own-fork", "--json"))
    assert proof["proven"], proof


def final_digest(home: Path) -> str:
    """Of the parameters with which the whole run ended."""
    (ended,) = query(
        endpoints(home).history_url, "SELECT digest FROM run_completed WHERE run_id = 'own-whole'"
    )
    return str(ended["digest"])


def asked_what_if(home: Path, mode: str) -> tuple[str, dict[str, Any]]:
    """The last decision before the whole run's end, and what it was worth: a fork without it makes
    no other either, where Tamiyo is not asked.
    """
    (last, *_) = query(
        endpoints(home).history_url,
        "SELECT decision_id FROM adaptation_applied WHERE run_id = 'own-whole' AND epoch < 7 "
        "ORDER BY sequence DESC",
    )
    decision = str(last["decision_id"])
    asked = ("whatif", "own-whole", "--decision", decision, "--orders", "1", "--mode", mode)
    answer = result(by_script(home, *asked, "--json"))
    assert answer["proven"]
    return decision, answer


@pytest.mark.usefixtures("whole")
def test_a_script_is_asked_what_if(home: Path) -> None:
    """An answer ends with the bits of a fork that leaves out the same."""
    decision, answer = asked_what_if(home, "open")
    ungrown = ("--set", "tamiyo.enabled=false", "--json")
    without = result(by_script(home, "fork", "own-whole", "--without", decision, *ungrown))
    assert answer["branches"]["without"][0]["digest"] == without["digest"]
    assert answer["branches"]["with"][0]["digest"] == final_digest(home)


@pytest.mark.variant
@pytest.mark.usefixtures("whole")
def test_tamiyo_decides_anew_in_what_if_of_a_script(home: Path) -> None:
    """With the decision, what follows is the whole run's."""
    _, answer = asked_what_if(home, "closed")
    assert answer["branches"]["with"][0]["digest"] == final_digest(home)


PROGRAM = """
import sys, torch, esper
from esper.errors import UsageError
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
torch.manual_seed(0)
x, y = torch.randn(60, 4), torch.randint(0, 2, (60,))
def net():
    layers = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)
    return esper.germinate(torch.nn.Sequential(*layers), seeds=2)
def grow(model=None, steps=6, held_out=(x, y), make=torch.optim.SGD, **more):
    model = model or net()
    optimizer = make(model.parameters(), 0.1)
    more = {"tamiyo": {"enabled": False}, **more}
    return model, optimizer, esper.grow(model, optimizer, held_out=held_out, steps=steps, **more)
def refused(act):
    try:
        act()
    except UsageError as error:
        print(error)
    else:
        print("nothing was said of", act)
def one(growth, optimizer, batch):
    optimizer.zero_grad(); growth.loss(*batch).backward(); growth.step(); optimizer.step()
pair = dict(data=(x, y), batch_size=20, epochs=2)
model, optimizer, growing = grow(run_id="misused")
with growing as growth:
    weighted = DataLoader(TensorDataset(x, y), 20, sampler=WeightedRandomSampler([1.0] * 60, 60))
    refused(lambda: growth.batches(weighted, epochs=2))
    refused(lambda: growth.batches(iter([(x, y)]), epochs=2))
    refused(lambda: growth.batches((x, y), epochs=2))
    refused(lambda: growth.batches((x, y[:5]), batch_size=20, epochs=2))
    refused(lambda: growth.batches((x, y), batch_size=0, epochs=2))
    refused(lambda: growth.batches((x, y), batch_size=10, epochs=2))
    refused(lambda: growth.register(odd=object()))
    class Odd:
        def state_dict(self): return {"inner": [lambda: 0]}
        def load_state_dict(self, state): pass
    refused(lambda: growth.register(odd=Odd()))
    refused(growth.step)
    refused(lambda: growth.register(swa=torch.optim.swa_utils.AveragedModel(model)))
    refused(lambda: growth.loss(x.numpy(), y))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    growth.register(scheduler=scheduler)
    refused(lambda: growth.register(scheduler=scheduler))
    taken = growth.batches(**pair)
    one(growth, optimizer, next(taken))
    refused(lambda: growth.batches(**pair))
    refused(lambda: growth.register(other=scheduler))
    refused(growth.epoch)
    batch = next(taken)
    optimizer.zero_grad()
    loss = growth.loss(*batch)
    refused(growth.step)
    refused(lambda: growth.loss(*batch))
    loss.backward(); growth.step(); optimizer.step()
import signal
if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
    print("our signal handlers are still there")
refused(lambda: growth.loss(*batch))
refused(lambda: growth.batches(**pair))

model, optimizer, growing = grow(run_id="skipped")
def skipping():
    with growing as growth:
        for batch in growth.batches(**pair):
            pass
refused(skipping)

def resumed(**more):
    def act():
        with grow(**{"run_id": "stopped", "resume": True} | more)[2] as growth:
            refused(lambda: growth.loss(x, y))
            refused(lambda: growth.batches(**pair))
            growth.register(scheduler=torch.optim.lr_scheduler.StepLR(torch.optim.SGD([x], 1.0), 2))
            refused(lambda: growth.batches((x + 1, y), batch_size=20, epochs=2))
            refused(lambda: growth.batches((x, y), batch_size=20, epochs=2, shuffle=False))
            raise KeyboardInterrupt
    return act
model, optimizer, growing = grow(run_id="stopped")
try:
    with growing as growth:
        growth.register(scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2))
        for number, batch in enumerate(growth.batches(**pair)):
            one(growth, optimizer, batch)
            if number == 3:
                raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
try:
    resumed()()
except KeyboardInterrupt:
    pass
refused(resumed(run_id=""))
refused(resumed(run_id="never-begun"))
refused(resumed(run_id="misused"))
refused(resumed(steps=9))
refused(resumed(kernels={"learning_rate": 0.1}))
refused(resumed(held_out=(x + 1, y)))
refused(resumed(make=torch.optim.Adam))
refused(resumed(make=torch.optim.LBFGS))
refused(resumed(model=esper.germinate(torch.nn.Linear(4, 2), seeds=2)))
refused(resumed(run_id="stopped", resume=False))
"""
SAID = [
    "no sampler of its own",
    "only iterable",
    "give batch_size",
    "as many of one as of the other",
    "batch_size has to be",
    "steps=6, and 2 epochs of 6 batches are 12",
    "no state_dict",
    "odd/inner/0 is of type function",
    "Call growth.step() after growth.loss",
    "take esper.AveragedModel",
    "is a numpy ndarray",
    "scheduler is registered already",
    "once, before the first step",
    "before growth.batches",
    "ends epochs by itself",
    "No parameter of the model has a gradient",
    "called twice without growth.step",
    "has ended with its",
    "has ended with its",
    "once for each batch",
    "goes on with the batches of growth.batches",
    "holds the state of scheduler",
    "another first batch",
    "shuffle differs",
    "say which by run_id",
    "never-begun has no journal",
    "misused is finished",
    "steps (6 then, 9 now)",
    "kernels.learning_rate",
    "another value of held_out",
    "another value of the optimizer",
    "LBFGS cannot train here",
    "layers or their seeds",
    "stopped already has a journal",
]


def test_a_loop_over_batches_is_told_what_is_wrong(home: Path, tmp_path: Path) -> None:
    """Data whose order cannot be Esper's, calls out of order, a resumption with something else: a
    sentence each, and the run goes on where it can.
    """
    program = tmp_path / "wrong.py"
    program.write_text(PROGRAM)
    done = run_program(home, program)
    assert done.returncode == 0, done.stderr
    for part, sentence in zip(SAID, done.stdout.splitlines(), strict=True):
        assert part in sentence
