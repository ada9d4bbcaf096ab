"""Claims about the page in a real browser, over runs of a whole stack: what it shows is what the
history has, what happens is seen, and nothing that a run brings is executed.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from scipy import stats  # type: ignore[import-untyped]  # it has no types

from esper.config import Settings
from esper.events import Event, encode
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.stack import status
from tests.browsers import PATIENCE_MS, chromium, needs_chromium
from tests.integration.run.whole import FAMILIES, begin, endpoints, esper, query
from tests.unit.nissa.journal import Run
from tests.waiting import until

__all__ = ["chromium"]
pytestmark = needs_chromium
RUN: Final = "twin-0"
HOSTILE: Final = "<img src=x onerror=hacked=1>"
# noted by the browser itself, before any script of the page
WATCH: Final = """
window.faults = [];
addEventListener("securitypolicyviolation", (event) => faults.push("csp " + event.blockedURI));
addEventListener("error", (event) => faults.push("error " + event.message));
addEventListener("unhandledrejection", (event) => faults.push("rejected " + event.reason));
"""


def address(home: Path, *run: str) -> str:
    """What `esper open` would open."""
    done = esper(home, "open", "--print", *run)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser without a past; as high as any view, since a view draws what can be seen."""
    made = chromium.new_context(viewport={"width": 1280, "height": 6000})
    made.set_default_timeout(PATIENCE_MS)
    made.add_init_script(WATCH)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, home: Path) -> Iterator[Page]:
    """A page of that browser; at its end nothing had failed in it, and nobody else was asked."""
    made = context.new_page()
    asked: list[str] = []
    made.on("request", lambda request: asked.append(request.url))
    expect.set_options(timeout=PATIENCE_MS)
    yield made
    assert made.evaluate("window.faults") == []
    assert made.evaluate("window.hacked") is None
    own = (endpoints(home).nissa_url, (home / "page.html").as_uri())
    assert [url for url in asked if not url.startswith(own)] == []


@pytest.fixture(scope="module")
def forked(home: Path, lockstep: list[dict[str, Any]]) -> str:
    """A run with lineage: that of its parent, and its parent's of it."""
    assert lockstep
    given = ("--step", "250", "--run-id", "page-fork", "--json")
    done = esper(home, "fork", RUN, *given)
    assert done.returncode == 0, done.stderr
    return "page-fork"


def settled(page: Page) -> None:
    """Wait until each curve that can be seen is drawn."""
    expect(page.get_by_text("Loading …").locator("visible=true")).to_have_count(0)


def figure(page: Page, name: str) -> int:
    """A figure of the headline."""
    said = page.locator(".figures").inner_text().split()
    return int(said[said.index(name) + 1].replace(",", ""))


@pytest.mark.usefixtures("lockstep")
def test_the_page_shows_what_the_history_has(page: Page, home: Path) -> None:
    decided = query(
        endpoints(home).history_url,
        f"SELECT command, layer, seed FROM decisions WHERE run_id = '{RUN}'",  # noqa: S608
    )
    assert decided
    page.goto(address(home, RUN))
    expect(page.get_by_role("heading", level=1)).to_have_text(RUN)
    rows = page.get_by_role("table", name="Decisions of the run").locator("tbody tr")
    expect(rows).to_have_count(len(decided))
    settled(page)
    (run,) = query(
        endpoints(home).history_url,
        f"SELECT steps, epochs, grafts, culled FROM runs WHERE run_id = '{RUN}'",  # noqa: S608
    )
    for name in ("epochs", "steps", "grafts", "culled"):
        assert figure(page, name) == run[name]
    # axes and grids are grey: what has a colour is a curve
    coloured = page.locator(".uplot canvas").first.evaluate(
        """one => {
          const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
          let found = 0;
          for (let at = 0; at < data.length; at += 4) {
            const [red, green, blue] = data.slice(at, at + 3);
            found += Math.max(red, green, blue) - Math.min(red, green, blue) > 80;
          }
          return found;
        }"""
    )
    assert coloured > 200


@pytest.mark.usefixtures("lockstep")
def test_a_decision_and_a_step_are_told_with_commands_to_copy(page: Page, home: Path) -> None:
    """By mouse on a curve, and by keyboard alone from the table."""
    page.goto(address(home, RUN))
    settled(page)
    decisions = page.get_by_role("table", name="Decisions of the run")
    decisions.locator("tbody").get_by_role("button").first.focus()
    page.keyboard.press("Enter")
    panel = page.get_by_role("complementary")
    expect(panel).to_contain_text("esper explain")
    assert panel.get_by_role("heading").first.evaluate("one => one === document.activeElement")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    over = page.locator(".u-over").first
    over.scroll_into_view_if_needed()
    over.click()
    expect(panel).to_contain_text("esper replay state")
    expect(panel).to_contain_text("esper fork")


def test_the_code_of_an_address_opens_one_session_and_is_seen_nowhere(
    context: BrowserContext, page: Page, home: Path
) -> None:
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    given = address(home)
    code = given.split("/enter/")[1].split("/")[0]
    page.goto(given)
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    assert code not in page.url
    assert not [url for url in asked if code in url]
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/api")
    assert page.evaluate("document.cookie") == ""
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    other = context.browser.new_context() if context.browser else context
    late = other.new_page()
    late.goto(given)
    expect(late.get_by_role("alert")).to_contain_text("esper open")
    other.close()


@pytest.mark.usefixtures("lockstep")
def test_a_session_that_has_ended_says_what_to_do(page: Page, home: Path) -> None:
    page.goto(address(home))
    page.get_by_role("button", name="End session").click()
    expect(page.get_by_role("alert")).to_contain_text("esper open")
    page.goto(page.url.partition("#")[0] + f"#/run/{RUN}")
    page.reload()
    expect(page.get_by_role("alert").first).to_contain_text("esper open")


def test_a_session_that_is_ended_while_it_opens_stays_ended(page: Page, home: Path) -> None:
    """The answer that would open it comes after the click."""

    def late(route: Route) -> None:
        page.get_by_role("button", name="End session").dispatch_event("click")
        route.continue_()

    page.route("**/api/v1/session", late, times=1)
    page.goto(address(home))
    expect(page.get_by_role("alert")).to_contain_text("esper open")
    settled(page)
    expect(page.get_by_role("alert")).to_contain_text("esper open")
    assert page.evaluate("Object.keys(localStorage)") == []


def test_a_run_that_trains_is_seen_without_a_reload_over_a_kill_of_nissa(
    page: Page, home: Path
) -> None:
    """The list takes it up as it begins; its curves go on after Nissa has been killed, and in the
    end show each epoch.
    """
    page.goto(address(home))
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    page.evaluate("window.loadedOnce = true")
    arguments = ("--set", "run.epochs=10", "--set", FAMILIES, "--run-id", "page-live")
    trains = begin(home, "run", "mnist1d", "--json", *arguments)
    try:
        page.get_by_role("link", name="page-live").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("page-live")
        until(lambda: figure(page, "steps") > 0)
        now = status(Settings(home=home))
        assert now is not None
        nissa = now.part("nissa")
        assert nissa is not None
        assert nissa.process is not None
        os.kill(nissa.process.pid, signal.SIGKILL)
        assert trains.wait(PATIENCE_MS / 1e3) == 0
    finally:
        trains.kill()
    expect(page.get_by_text("finished")).to_be_visible()
    (run,) = query(
        endpoints(home).history_url,
        "SELECT steps, epochs FROM runs WHERE run_id = 'page-live'",
    )
    until(lambda: figure(page, "epochs") == run["epochs"])
    assert page.evaluate("window.loadedOnce")


def test_an_alert_is_on_the_page_of_its_run(page: Page, home: Path) -> None:
    """While it holds, and that it is over, without a reload."""
    run, now = Run("page-alert"), endpoints(home)
    bus = KafkaBus(Access.of(Settings(home=home), "trainer", bootstrap=now.bootstrap))
    with bus.producer(sender_id="trainer") as producer:

        def tell(*events: Event) -> None:
            for event in events:
                producer.send_message(encode(event))
            assert producer.flush(60) == 0

        tell(run.started(), *(run.step(number, loss=1.0) for number in range(1, 5)))
        query(now.history_url, "SELECT 1")
        page.goto(address(home, run.run_id))
        expect(page.get_by_text("Nissa knows of no alert")).to_be_visible()
        tell(*(run.step(number, loss=math.nan) for number in range(5, 8)))
        alerts = page.get_by_role("region", name="Alerts").get_by_role("listitem")
        expect(alerts).to_contain_text("critical, holds")
        tell(*(run.step(number, loss=1.0) for number in range(8, 60)))
        expect(alerts).to_contain_text("critical, over")


def test_what_people_and_runs_say_is_text(page: Page, home: Path) -> None:
    """In names, tags, notes, and in an address."""
    run = "page-hostile"
    begun = esper(home, "run", "digits", "--json", "--set", "run.epochs=1", "--run-id", run)
    assert begun.returncode == 0, begun.stderr
    for command in (("rename", run, HOSTILE), ("note", run, f"{HOSTILE} '\"`${{1}}")):
        done = esper(home, "runs", *command)
        assert done.returncode == 0, done.stderr
    query(endpoints(home).history_url, "SELECT 1")
    page.goto(address(home))
    expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    base = page.url.partition("#")[0]
    page.goto(f"{base}#/run/{HOSTILE}")
    expect(page.get_by_role("alert")).to_contain_text("no run")
    page.goto(f"{base}#/compare/{run},{HOSTILE}")
    expect(page.get_by_text(f"Not in the history: {HOSTILE}")).to_be_visible()
    page.goto(f"{base}#/enter/{HOSTILE}/x")
    expect(page.get_by_role("alert")).to_contain_text("esper open")
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["", f"run/{RUN}", "run/page-fork", f"compare/{RUN},page-fork"])
@pytest.mark.usefixtures("forked")
def test_views_are_for_everybody(page: Page, home: Path, view: str, scheme: Any) -> None:
    """axe-core finds nothing serious; at a phone's width nothing is beside the screen."""
    page.emulate_media(color_scheme=scheme)
    page.goto(address(home))
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    page.goto(page.url.partition("#")[0] + f"#/{view}")
    settled(page)
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in {"serious", "critical"}]
    assert not serious, json.dumps(serious)[:4000]
    page.set_viewport_size({"width": 360, "height": 9000})
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_intervals_are_student_s(page: Page, home: Path) -> None:
    """Of a mean over so many runs, at 95 %."""
    page.goto(address(home))
    counts = [2, 3, 5, 20, 31, 32, 40, 100]
    found = page.evaluate(
        "counts => import('/page/compare_stats.js').then(it => counts.map(it.tQuantile))", counts
    )
    assert found == pytest.approx([stats.t.ppf(0.975, count - 1) for count in counts], rel=1e-3)


def test_a_stream_is_read_however_it_is_cut(page: Page, home: Path) -> None:
    """Text comes from the network in any pieces, and lines may end in either way."""
    page.goto(address(home))
    text = (
        "id: 1.1\nevent: hello\ndata: {}\n\n: here\nid: 1.9\n\n"
        "id: 1.2\r\nevent: steps\r\ndata: a\r\ndata: b: c\r\n\r\nid: 1.3\ndata: cut"
    )
    found = page.evaluate(
        """text => import("/page/stream.js").then(({ makeParser }) =>
        [...text].map((_, at) => {
          const told = [];
          const take = makeParser((message) => told.push(message));
          take(text.slice(0, at));
          take(text.slice(at));
          return told.map(({ id, event, data }) => [id ?? "", event, data]);
        }))""",
        text,
    )
    whole = [["1.1", "hello", "{}"], ["1.9", "message", ""], ["1.2", "steps", "a\nb: c"]]
    assert [one for one in found if one != whole] == []


def test_without_a_stack_open_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    done = esper(tmp_path / "home", "open")
    assert done.returncode != 0
    assert "esper up" in done.stderr
    assert "Traceback" not in done.stderr


def test_open_gives_a_browser_a_file_that_leads_to_the_page(
    page: Page, home: Path, tmp_path: Path
) -> None:
    """The code stands in a file of this user alone, not in the list of processes."""
    program, seen = tmp_path / "browser", tmp_path / "seen"
    program.write_text(f'#!/bin/sh\necho "$@" > {seen}\n')
    program.chmod(0o700)
    done = esper(home, "open", RUN, BROWSER=f"{program} %s")
    assert done.returncode == 0, done.stderr
    until(seen.exists)
    file = home / "page.html"
    assert seen.read_text().strip() == file.as_uri()
    assert file.stat().st_mode & 0o077 == 0
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text(RUN)


def test_a_run_s_id_that_is_none_is_refused(home: Path) -> None:
    done = esper(home, "open", "../x")
    assert done.returncode == 2
    assert "esper runs" in done.stderr
