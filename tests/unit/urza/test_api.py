"""Urza's API and the schema registry's paths over a real socket: who may ask, what fits, in which
order, and whole pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest

from esper.clock import ManualClock
from esper.config import Settings
from esper.events import Origin
from esper.events.records import AdaptationOutcome
from esper.oona.bus.memory import MemoryBus
from esper.tezzeret.api import build
from esper.tezzeret.service import Foundry
from esper.urza.catalogue import Catalogue
from esper.urza.memory import MemoryStore
from esper.urza.shelf import Performances
from tests.servicefixtures import (
    HOLDERS,
    Holder,
    Recorder,
    Row,
    assert_answered_by_role,
    assert_every_route_has_a_row,
    assert_problem,
    bearer,
    credentials,
    served,
    token,
)
from tests.unit.urza.test_catalogue import published

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SUBJECT = "audit.events-esper.events.AuditRecorded"
TABLE = (
    Row("GET", "/health", None),
    Row("GET", "/openapi.json", "viewer"),
    Row("GET", "/api/v1/status", "viewer"),
    Row("GET", "/api/v1/kernels", "viewer"),
    Row("GET", "/api/v1/kernels/{kernel_id}", "viewer", "/api/v1/kernels/k1"),
    Row("GET", "/api/v1/kernels/{kernel_id}/artefact", "operator", "/api/v1/kernels/k1/artefact"),
    Row("GET", "/", "viewer"),
    Row("GET", "/schemas/types", "viewer"),
    Row("GET", "/schemas/ids/{schema_id}", "viewer", "/schemas/ids/1"),
    Row("GET", "/schemas/ids/{schema_id}/schema", "viewer", "/schemas/ids/1/schema"),
    Row("GET", "/schemas/ids/{schema_id}/subjects", "viewer", "/schemas/ids/1/subjects"),
    Row("GET", "/schemas/ids/{schema_id}/versions", "viewer", "/schemas/ids/1/versions"),
    Row("GET", "/subjects", "viewer"),
    Row("GET", "/subjects/{subject}/versions", "viewer", f"/subjects/{SUBJECT}/versions"),
    Row(
        "GET",
        "/subjects/{subject}/versions/{version}",
        "viewer",
        f"/subjects/{SUBJECT}/versions/latest",
    ),
    Row(
        "GET",
        "/subjects/{subject}/versions/{version}/schema",
        "viewer",
        f"/subjects/{SUBJECT}/versions/latest/schema",
    ),
    Row(
        "POST",
        "/subjects/{subject}",
        "viewer",
        f"/subjects/{SUBJECT}",
        {"schema": '{"type":"string"}'},
    ),
    Row("GET", "/config", "viewer"),
    Row("GET", "/config/{subject}", "viewer", f"/config/{SUBJECT}"),
    Row("GET", "/mode", "viewer"),
    Row("GET", "/mode/{subject}", "viewer", f"/mode/{SUBJECT}"),
)


@dataclass
class Urza:
    """A served foundry's app, with what stands behind it."""

    client: httpx.Client
    foundry: Foundry
    settings: Settings
    clock: ManualClock
    audit: Recorder

    def get(self, path: str, **query: object) -> httpx.Response:
        """Ask as a viewer."""
        return self.client.get(path, params=query, headers=bearer(token(self.settings, self.clock)))  # type: ignore[arg-type]

    def artefact(self, kernel: str, **headers: str) -> httpx.Response:
        """Ask for a binary as an operator."""
        return self.client.get(
            f"/api/v1/kernels/{kernel}/artefact",
            headers=bearer(token(self.settings, self.clock, "operator")) | headers,
        )

    def ids(self, **query: object) -> list[str]:
        """Kernels on a page."""
        answer = self.get("/api/v1/kernels", **query)
        assert answer.status_code == 200, answer.text
        return [kernel["kernel_id"] for kernel in answer.json()["kernels"]]


@pytest.fixture
def urza(tmp_path: Path) -> Iterator[Urza]:
    """Four kernels: three for a layer of 40 features, one for a sequence.

    K2 was worth more than k3, of the others nothing is known.
    """
    clock, settings, audit = ManualClock(), Settings(home=tmp_path), Recorder()
    foundry = Foundry(
        bus=MemoryBus(),
        store=MemoryStore(),
        clock=clock,
        compiler=lambda: pytest.fail("nothing is compiled here"),
    )
    foundry.store.put_if_absent("kernels/x", CONTENT)
    foundry.shelf.catalogue = Catalogue().evolve(
        [
            published("k1", flops=30, sha256=SHA256),
            published(
                "k2",
                flops=90,
                tags=("family=conv1d", "tap=LAYER_INPUT"),
                family="conv1d",
                parents=("k1",),
            ),
            published("k3", flops=10, tap="HOST_CHUNK", in_features=25, blend="RESIDUAL"),
            published("k4", flops=20, geometry="sequence in 16"),
        ]
    )
    foundry.shelf.compile_ms = MappingProxyType({"k1": 150.5})
    performances = Performances()
    for number, (kernel, reward) in enumerate([("k2", 1.0), ("k2", 0.5), ("k3", 0.25)]):
        performances = performances.evolve(outcome(kernel, str(number), reward))
    foundry.shelf.performances = performances
    with served(build(foundry, settings=settings, clock=clock, audit=audit), settings) as client:
        yield Urza(client, foundry, settings, clock, audit)


def outcome(kernel_id: str, decision_id: str, reward: float) -> AdaptationOutcome:
    """How a decision about a kernel ended."""
    return AdaptationOutcome(
        **Origin("r", "tamiyo", "0" * 32, ManualClock()).envelope(decision_id),
        decision_id=decision_id,
        layer="l",
        seed=0,
        kernel_id=kernel_id,
        family="conv1d",
        context="Linear/s",
        verdict="FOSSILIZED",
        reward=reward,
        shadow_gap=0.1,
        epoch=1,
        step=1,
    )


def test_every_route_has_a_row(urza: Urza) -> None:
    """The table above knows every route."""
    assert_every_route_has_a_row(
        build(urza.foundry, settings=urza.settings, clock=urza.clock, audit=urza.audit),
        TABLE,
    )


@pytest.mark.parametrize("holder", HOLDERS)
def test_each_route_answers_by_role(urza: Urza, holder: Holder) -> None:
    """Each route, for everyone who may come; nothing here changes anything, so nothing
    is audited.
    """
    for row in TABLE:
        assert_answered_by_role(
            lambda row, headers: urza.client.request(
                row.method, row.path or row.route, json=row.body, headers=headers
            ),
            row,
            holder,
            credentials(urza.settings, urza.clock, holder),
        )
    assert urza.audit.entries == []


def test_kernels_that_fit_come_the_best_first(urza: Urza) -> None:
    """With both widths: what fits such a chunk, by mean reward where it is known, then by cost.

    With a geometry, what fits its positions too.
    """
    assert urza.ids() == ["k2", "k3", "k4", "k1"]
    assert urza.ids(in_features=40, out_features=25) == ["k2", "k3", "k1"]
    assert urza.ids(in_features=40, out_features=25, geometry="sequence in 16") == [
        "k2",
        "k3",
        "k4",
        "k1",
    ]
    assert urza.ids(in_features=41, out_features=25) == ["k3"]
    assert urza.ids(in_features=40) == ["k2", "k4", "k1"]
    assert urza.ids(out_features=24) == []
    assert urza.ids(geometry="sequence in 16") == ["k4"]
    assert urza.ids(tag="family=conv1d") == ["k2"]
    assert urza.ids(tag=["family=conv1d", "tap=HOST_CHUNK"]) == []
    assert urza.ids(blend="RESIDUAL") == ["k3"]
    assert urza.ids(tap="LAYER_INPUT") == ["k2", "k4", "k1"]


def test_pages_are_whole_whatever_comes_between(urza: Urza) -> None:
    """Page by page, each kernel comes once, also when others are published meanwhile.

    A made-up cursor is refused.
    """
    seen: list[str] = []
    cursor = ""
    while True:
        page = urza.get("/api/v1/kernels", limit=1, cursor=cursor).json()
        seen += [kernel["kernel_id"] for kernel in page["kernels"]]
        urza.foundry.shelf.catalogue = urza.foundry.shelf.catalogue.evolve(
            [published(f"a{len(seen)}", flops=1)]
        )
        if not (cursor := page["next"]):
            break
    assert [one for one in seen if one.startswith("k")] == ["k2", "k3", "k4", "k1"]
    assert len(seen) == len(set(seen))
    assert page["total"] == 4 + len(seen) - 1
    for wrong in ("nonsense", "%%%", "W10"):
        assert_problem(urza.get("/api/v1/kernels", cursor=wrong), 400)


def test_queries_that_mean_nothing_are_refused(urza: Urza) -> None:
    """A geometry that is none, a limit out of bounds, a blend that does not exist: a sentence."""
    assert_problem(urza.get("/api/v1/kernels", geometry="conv9d"), 422)
    assert_problem(urza.get("/api/v1/kernels", limit=0), 422)
    assert_problem(urza.get("/api/v1/kernels", blend="MIXED"), 422)


def test_metadata_says_what_is_known(urza: Urza) -> None:
    """Shapes follow from the geometry, lineage goes both ways, and what nobody knows is null."""
    kernel = urza.get("/api/v1/kernels/k1").json()
    assert (kernel["input_shape"], kernel["output_shape"]) == (["batch", 40], ["batch", 25])
    assert kernel["compilation_ms"] == 150.5
    assert kernel["performance"] is None
    assert kernel["sha256"] == SHA256
    assert kernel["lineage"] == {
        "blueprint_id": "blueprint of k1",
        "parents": [],
        "children": ["k2"],
    }
    best = urza.get("/api/v1/kernels/k2").json()
    assert best["performance"] == {"score": 0.75, "outcomes": 2}
    assert best["compilation_ms"] is None
    assert best["lineage"]["parents"] == ["k1"]
    assert urza.get("/api/v1/kernels/k4").json()["input_shape"] == ["batch", 16, 40]
    assert_problem(urza.get("/api/v1/kernels/nothing"), 404)


def test_a_convolutions_shapes_follow_from_its_geometry(urza: Urza) -> None:
    """Channels before positions, and the output's positions by stride and padding."""
    entry = published(
        "c", geometry="conv2d k3x3 s2x2 p1x1 d1x1 g1 in 8x8", in_features=3, out_features=6
    )
    urza.foundry.shelf.catalogue = urza.foundry.shelf.catalogue.evolve([entry])
    kernel = urza.get("/api/v1/kernels/c").json()
    assert (kernel["input_shape"], kernel["output_shape"]) == (
        ["batch", 3, 8, 8],
        ["batch", 6, 4, 4],
    )


def test_artefacts_come_with_their_checksum_or_not_at_all(urza: Urza) -> None:
    """The bytes and their SHA-256; not again to who has them; never damaged ones.

    Missing ones are 404.
    """
    assert_problem(
        urza.get("/api/v1/kernels/k1/artefact"), 403
    )  # a viewer sees what there is, not the weights
    answer = urza.artefact("k1")
    assert answer.content == CONTENT
    assert answer.headers["x-content-sha256"] == hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["content-type"] == "application/octet-stream"
    again = urza.artefact("k1", **{"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    store = urza.foundry.store
    store.delete("kernels/x")
    assert_problem(urza.artefact("k1"), 404)
    store.put_if_absent("kernels/x", b"damaged")
    answer = urza.artefact("k1")
    assert_problem(answer, 500)
    assert "damaged" in answer.json()["detail"]
    assert_problem(urza.artefact("nothing"), 404)


def test_outcomes_count_once_a_decision() -> None:
    """Told twice, a decision changes nothing; the mean is over decisions."""
    once = Performances().evolve(outcome("k", "a", 1.0)).evolve(outcome("k", "b", 0.0))
    assert once.evolve(outcome("k", "a", 1.0)) is once
    found = once.of("k")
    assert found is not None
    assert (found.score, found.outcomes) == (0.5, 2)
    assert once.of("other") is None
