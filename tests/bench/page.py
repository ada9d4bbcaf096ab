"""How long the page takes: 100 runs of 10,000 steps each, on a stack and in a browser of its own.

`python -m tests.bench.page [--runs N] [--steps N]` prints a table; it takes some minutes, most of
them to send a million steps.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from esper import stack
from esper.clock import ManualClock, SystemClock
from esper.config import Settings
from esper.events import encode
from esper.history.queries import wait_caught_up
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from tests.browsers import CHROMIUM
from tests.unit.nissa.journal import Run

CLOCK = SystemClock()
ROUNDS = 5
EPOCHS = 20
PATIENCE_S = 600.0
ESPER = (sys.executable, "-m", "esper.cli")
DRAWN = "document.querySelector('.uplot canvas')?.width > 0"


@contextmanager
def whole_stack() -> Iterator[Settings]:
    """A stack in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        os.environ["ESPER_HOME"] = str(home)
        subprocess.run([*ESPER, "up"], check=True, stdout=sys.stderr, timeout=PATIENCE_S)
        try:
            yield Settings(home=home)
        finally:
            subprocess.run([*ESPER, "down"], check=True, stdout=sys.stderr, timeout=PATIENCE_S)


def fill(settings: Settings, runs: int, steps: int) -> None:
    """Send the events of so many runs, and wait until the history has them."""
    endpoints = stack.running(settings)
    assert endpoints is not None
    bus = KafkaBus(Access.of(settings, "trainer", bootstrap=endpoints.bootstrap))
    with bus.producer(sender_id="trainer") as producer:
        for number in range(runs):
            run = Run(name(number), ManualClock(1_790_000_000_000_000 + number * 10_000_000))
            chance = random.Random(number)  # noqa: S311  # noise of a curve
            producer.send_message(encode(run.started()))
            for step in range(1, steps + 1):
                falls = math.exp(-3 * step / steps)
                loss = 2.2 * falls + 0.1 + 0.05 * chance.gauss(0, 1)
                producer.send_message(encode(run.step(step, loss=loss)))
                if step % max(steps // EPOCHS, 1) == 0:
                    ended = run.epoch_ended(validation_accuracy=1 - falls)
                    producer.send_message(encode(ended))
            assert producer.flush(60) == 0
            sys.stderr.write(f"\r{number + 1} of {runs} runs sent")
    sys.stderr.write("\n")
    assert wait_caught_up(endpoints.history_url, bus, timeout=PATIENCE_S, settings=settings)


def name(number: int) -> str:
    return f"bench-{number:03}"


def opened(page: Page) -> str:
    """Give the page a session; its address without a route."""
    asked = subprocess.run(
        [*ESPER, "open", "--print"], check=True, capture_output=True, text=True, timeout=60
    )
    page.goto(asked.stdout.strip())
    page.wait_for_selector("tbody tr")
    return page.url.partition("#")[0]


def seconds(act: Callable[[], object]) -> float:
    began = CLOCK.monotonic()
    act()
    return CLOCK.monotonic() - began


def measured(page: Page, base: str, runs: int, steps: int) -> Iterator[tuple[str, list[float]]]:
    """What is measured, and its seconds in each round."""
    some = ",".join(map(name, range(min(runs, 100))))

    def shown(route: str, condition: str) -> None:
        page.goto("about:blank")
        page.goto(f"{base}#/{route}")
        page.wait_for_function(condition)

    def zoom() -> None:
        box = page.locator(".u-over").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50)
        with page.expect_response(lambda answer: "/page/curves" in answer.url):
            page.mouse.up()
        page.evaluate("new Promise(done => requestAnimationFrame(done))")

    yield (
        f"list of {runs} runs",
        [
            seconds(lambda: shown("", "document.querySelectorAll('tbody tr').length > 0"))
            for _ in range(ROUNDS)
        ],
    )
    yield (
        f"first curve of a run of {steps:,} steps",
        [
            seconds(lambda place=place: shown(f"run/{name(place)}", DRAWN))  # type: ignore[misc]
            for place in range(ROUNDS)
        ],
    )
    zooms = []
    for place in range(ROUNDS):
        shown(f"run/{name(place)}", DRAWN)
        page.wait_for_timeout(1000)
        zooms.append(seconds(zoom))
    yield "zoom into a fifth of its steps, read anew", zooms
    yield (
        f"comparison of {min(runs, 100)} runs",
        [seconds(lambda: shown(f"compare/{some}", DRAWN)) for _ in range(ROUNDS)],
    )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10_000)
    asked = parser.parse_args()
    with whole_stack() as settings, sync_playwright() as playwright:
        fill(settings, asked.runs, asked.steps)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_S * 1e3)
        base = opened(page)
        sys.stdout.write("| what | median | slowest of 5 |\n|---|---|---|\n")
        for what, rounds in measured(page, base, asked.runs, asked.steps):
            ordered = sorted(rounds)
            middle = ordered[len(ordered) // 2]
            sys.stdout.write(f"| {what} | {middle:.2f} s | {ordered[-1]:.2f} s |\n")
        browser.close()


if __name__ == "__main__":
    main()
