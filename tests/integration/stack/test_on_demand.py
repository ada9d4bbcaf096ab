"""Parts on demand (ESPER_PARTS=on_demand): who is there, who comes when asked, and what is never
told as if it were all.
"""

from __future__ import annotations

import json
from http.client import HTTPConnection
from pathlib import Path

import pytest

from esper import stack
from esper.config import KafkaSettings, Settings
from esper.service.checks.tokens import PARTS
from esper.stack.processes.ports import HOST
from tests.integration.run.whole import esper, program
from tests.stackfixtures import eventually, part, tiny_stack
from tests.waiting import PATIENCE_S, never, until

TRAIN = """
import sys, torch, esper
from torch import nn
if __name__ == "__main__":
    x, y = torch.linspace(-1, 1, 240).reshape(60, 4), torch.arange(60) % 2
    model = esper.germinate(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), seeds=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with esper.grow(model, optimizer, held_out=(x, y), steps=12, run_id=sys.argv[1]) as growth:
        for inputs, labels in growth.batches((x, y), batch_size=20, epochs=4):
            optimizer.zero_grad()
            growth.backward(growth.loss(inputs, labels))
            growth.step()
            optimizer.step()
"""


def ask(port: int) -> int:
    """The status of a request to a part's port."""
    connection = HTTPConnection(HOST, port, timeout=PATIENCE_S)
    connection.request("GET", "/health")
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_part_on_demand_starts_with_the_first_connection(tmp_path: Path, broker: str) -> None:
    """Until then it has no process and counts as there; who connects is answered; killed, it comes
    back as any part.
    """
    settings = Settings(
        home=tmp_path / "home", kafka=KafkaSettings(bootstrap=broker), parts="on_demand"
    )
    with tiny_stack(settings) as endpoints:
        assert part(settings, "nissa").phase == "on demand"
        assert stack.asleep(settings, "nissa")
        assert not stack.asleep(settings, "tamiyo")
        assert never(lambda: part(settings, "nissa").process is not None)
        port = int(endpoints.nissa_url.rpartition(":")[2])
        assert ask(port) == 200
        assert eventually(lambda: part(settings, "nissa").phase == "ready")
        assert part(settings, "nissa").restarts == 0
        assert not stack.asleep(settings, "nissa")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of its own."""
    return tmp_path / "home"


def rows(home: Path) -> list[tuple[str, int]]:
    """Steps of each run, as `esper sql` tells them."""
    query = "SELECT run_id, count() AS n FROM training_step GROUP BY run_id ORDER BY run_id"
    done = esper(home, "sql", query, "--json", ESPER_PARTS="on_demand")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [(row["run_id"], int(row["n"])) for row in found]


def test_a_loop_is_light_and_its_history_comes_when_asked(home: Path, tmp_path: Path) -> None:
    """A loop of one's own wakes nobody. After a stack that nobody asked, a question is not answered
    by half; the first question to one that is up brings the history, with everything.
    """
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    settings = Settings(home=home, parts="on_demand")
    try:
        done = program(home, script, "first", ESPER_PARTS="on_demand")
        assert done.returncode == 0, done.stderr
        # the stack of a loop ends with it, as soon as its supervisor sees that nobody owns it
        until(lambda: stack.running(settings) is None, "the end of the loop's stack")
        assert {name for name in PARTS if stack.asleep(settings, name)} == {
            "tolaria",
            "nissa",
            "history",
        }
        refused = esper(home, "sql", "SELECT 1", ESPER_PARTS="on_demand")
        assert refused.returncode == 3
        assert "nobody asked for it while that was up" in " ".join(refused.stderr.split())

        assert esper(home, "up", ESPER_PARTS="on_demand").returncode == 0
        assert stack.asleep(settings, "history")
        assert rows(home) == [("first", 12)]
        assert part(settings, "history").phase == "ready"
        assert stack.asleep(settings, "nissa")
    finally:
        esper(home, "down")
