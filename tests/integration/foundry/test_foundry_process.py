"""The foundry through the real broker: nothing but topics and its store."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

from esper.config import Settings
from esper.events import Event, Message
from esper.events.records import (
    BlueprintProposed,
    CompilationStarted,
    DeadLettered,
    FieldReport,
    FieldReportAnswered,
    KernelCompiled,
    KernelPublished,
    KernelValidated,
)
from esper.karn import families_for, innovate
from esper.oona.bus.port import Producer
from esper.stack.processes.ports import PortClaims
from esper.urza.artefact import fetch
from esper.urza.catalogue import compatible
from esper.urza.sealed import open_kernels
from tests.commands import run
from tests.integration.foundry.conftest import FoundryProcess, Listener, report
from tests.waiting import eventually

LAYERS = ((43, (23, 23, 23, 23)), (92, (23, 23, 23, 23)), (92, (9, 9, 8, 8)))
"""Like MNIST-1D's, but of widths that no other test's report has: it may have been answered on this
broker before.
"""


def answer_to(asked: FieldReport, listener: Listener) -> FieldReportAnswered:
    """Wait for the answer to a report."""

    def find(events: list[Event]) -> FieldReportAnswered | None:
        return next(
            (
                event
                for event in events
                if isinstance(event, FieldReportAnswered) and event.report_id == asked.event_id
            ),
            None,
        )

    return listener.until(find)


def published(answer: FieldReportAnswered, listener: Listener) -> dict[str, KernelPublished]:
    """The catalogue entries of an answer's kernels: they are in the topic before the answer is."""
    wanted = set(answer.kernels)

    def find(events: list[Event]) -> dict[str, KernelPublished] | None:
        entries = {
            event.kernel_id: event
            for event in events
            if isinstance(event, KernelPublished) and event.kernel_id in wanted
        }
        return entries if set(entries) == wanted else None

    return listener.until(find)


def assert_usable(entries: dict[str, KernelPublished], home: Path) -> None:
    """Every entry's artefact is in the store and says what the entry says."""
    store = open_kernels(Settings(home=home))
    for entry in entries.values():
        ir = fetch(store, kernel_id=entry.kernel_id, address=entry.address, sha256=entry.sha256).ir
        assert (ir.blueprint_id, ir.family, ir.in_features, ir.out_features) == (
            entry.blueprint_id,
            entry.family,
            entry.in_features,
            entry.out_features,
        )
        assert (ir.tap, ir.blend, ir.parameters, ir.flops) == (
            entry.tap,
            entry.blend,
            entry.parameters,
            entry.flops,
        )
        assert ir.geometry.text == entry.geometry


def test_a_report_becomes_kernels_and_an_answer(
    foundry: FoundryProcess, listener: Listener, producer: Producer
) -> None:
    """Each blueprint is proposed, compiled, validated, stored and published before the report is
    answered, once.

    A second run gets the same kernels without any compilation.
    """
    foundry.start()
    asked = report("first", (41, (5, 5)), (12, (5, 4)))
    producer.send(asked)
    answered = answer_to(asked, listener)
    entries = published(answered, listener)
    blueprints = {ir.blueprint_id: ir.alpha_target for ir in innovate(asked)}
    assert answered.failed == ()
    assert answered.kernels == tuple(sorted(entries))
    assert {entry.blueprint_id: entry.alpha_target for entry in entries.values()} == blueprints
    assert sorted(
        event.blueprint_id for event in listener.of(BlueprintProposed, "first")
    ) == sorted(blueprints)
    assert sorted(
        event.blueprint_id for event in listener.of(CompilationStarted, "first")
    ) == sorted(blueprints)
    listener.until(
        lambda _: (
            set(entries) <= {event.kernel_id for event in listener.of(KernelValidated, "")} or None
        )
    )
    listener.until(
        lambda _: (
            set(entries) <= {event.kernel_id for event in listener.of(KernelCompiled, "")} or None
        )
    )
    assert_usable(entries, foundry.home)
    again = report("second", (41, (5, 5)), (12, (5, 4)))
    producer.send(again)
    assert answer_to(again, listener).kernels == answered.kernels
    assert listener.of(CompilationStarted, "second") == []
    assert len(listener.of(BlueprintProposed, "second")) == len(blueprints)


def test_convolutions_and_sequences_get_kernels_of_their_own(
    foundry: FoundryProcess, listener: Listener, producer: Producer
) -> None:
    """A report about a Conv2d layer with a stride and a layer on sequences is answered with
    published kernels of every family for them.

    Their entries name the geometry, and what they name is what fits the layers' chunks and nothing
    else.
    """
    foundry.start()
    image, sentence = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 9x8", "sequence in 7"
    asked = report("spatial", (8, (4, 4)), (13, (7,)))
    convolution, sequence = asked.layers
    layers = (
        replace(convolution, kind="Conv2d", geometry=image),
        replace(sequence, geometry=sentence),
    )
    asked = replace(asked, layers=layers)
    producer.send(asked)
    answered = answer_to(asked, listener)
    entries = published(answered, listener)
    assert answered.failed == ()
    assert_usable(entries, foundry.home)
    fitting = [
        {
            entry.family
            for entry in compatible(
                entries.values(), in_features=reads, chunk_width=width, geometry=geometry
            )
        }
        for reads, width, geometry in (
            (8, 4, image),
            (13, 7, sentence),
            (8, 4, "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 9x8"),
        )
    ]
    assert fitting == [set(families_for("conv2d")), set(families_for("sequence")), set()]
    assert len(entries) == len(families_for("conv2d")) + len(families_for("sequence"))
    listener.until(lambda _: len(listener.of(BlueprintProposed, "spatial")) == len(entries) or None)
    proposed = {
        event.blueprint_id: event.geometry for event in listener.of(BlueprintProposed, "spatial")
    }
    assert proposed == {entry.blueprint_id: entry.geometry for entry in entries.values()}
    assert set(proposed.values()) == {"", image, "conv2d k1x1 s1x1 p0x0 d1x1 g1 in 5x4", sentence}


def test_a_damaged_and_a_missing_artefact_are_built_anew(
    foundry: FoundryProcess, listener: Listener, producer: Producer
) -> None:
    """Who asks again gets the same kernels, usable again, and nothing is announced twice."""
    foundry.start()
    asked = report("before-damage", (33, (6,)), families=("linear", "mlp", "low_rank"))
    producer.send(asked)
    answered = answer_to(asked, listener)
    entries = published(answered, listener)
    damaged, missing, _ = (
        foundry.home / "store" / entries[kernel].address for kernel in answered.kernels
    )
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    missing.unlink()
    again = report("after-damage", (33, (6,)), families=("linear", "mlp", "low_rank"))
    producer.send(again)
    assert answer_to(again, listener).kernels == answered.kernels
    assert_usable(entries, foundry.home)
    assert len(listener.of(CompilationStarted, "after-damage")) == 2
    announced = [event.kernel_id for event in listener.of(KernelPublished, "")]
    assert all(announced.count(kernel) == 1 for kernel in answered.kernels)


def test_poison_is_dead_lettered_and_the_service_goes_on(
    foundry: FoundryProcess, listener: Listener, producer: Producer
) -> None:
    """A message without a frame does not stop the next report from being answered, and can be found
    with its bytes.
    """
    foundry.start()
    foundry.wait_ready()
    producer.send_message(Message("innovation.blueprints", b"poison", b"\x07 foundry test", ()))
    asked = report("after-poison", (21, (2,)), families=("linear",))
    producer.send(asked)
    assert len(answer_to(asked, listener).kernels) == 1

    def find(events: list[Event]) -> DeadLettered | None:
        return next(
            (
                event
                for event in events
                if isinstance(event, DeadLettered) and event.payload == b"\x07 foundry test"
            ),
            None,
        )

    letter = listener.until(find)
    assert letter.source_topic == "innovation.blueprints"
    assert "no Confluent frame" in letter.error


def test_an_answer_cut_short_by_kill_9_is_completed_once(
    foundry: FoundryProcess, listener: Listener, producer: Producer
) -> None:
    """Killed in the middle of some twenty kernels, the next foundry completes the answer.

    Each thing is said under one event id only, every kernel is usable, and what was published
    before the kill is not built again.
    """
    foundry.start()
    asked = report("killed", *LAYERS)
    blueprints = {ir.blueprint_id for ir in innovate(asked)}
    producer.send(asked)

    def halfway(events: list[Event]) -> set[str] | None:
        done = {
            event.kernel_id
            for event in events
            if isinstance(event, KernelPublished) and event.blueprint_id in blueprints
        }
        return done if len(done) >= 3 else None

    early = listener.until(halfway)
    foundry.end(signal.SIGKILL)
    assert not listener.of(FieldReportAnswered, "killed")
    foundry.start()
    answered = answer_to(asked, listener)
    entries = published(answered, listener)
    assert answered.failed == ()
    assert early < set(entries)
    assert {entry.blueprint_id for entry in entries.values()} == blueprints
    assert_usable(entries, foundry.home)
    # topics of their own, which the listener may reach after the answer
    listener.until(
        lambda _: (
            {event.blueprint_id for event in listener.of(BlueprintProposed, "killed")} == blueprints
            or None
        )
    )
    listener.until(
        lambda _: (
            {event.blueprint_id for event in listener.of(CompilationStarted, "killed")}
            == blueprints
            or None
        )
    )
    said = [
        event
        for event in listener.events
        if event.run_id == "killed" and isinstance(event, BlueprintProposed | CompilationStarted)
    ]
    for kind in (BlueprintProposed, CompilationStarted):
        ids = {event.event_id for event in said if isinstance(event, kind)}
        subjects = {event.blueprint_id for event in said if isinstance(event, kind)}
        assert len(ids) == len(subjects) == len(blueprints)
    assert len(listener.of(FieldReportAnswered, "killed")) == 1
    announced = [
        event.event_id for event in listener.of(KernelPublished, "") if event.kernel_id in entries
    ]
    assert len(set(announced)) == len(blueprints)
    assert all(
        sum(event.kernel_id == kernel for event in listener.of(KernelPublished, "")) == 1
        for kernel in early
    )


def test_health_from_start_to_end(broker: str, tmp_path: Path) -> None:
    """503 until the topics are read, then 200.

    SIGTERM ends it with exit code 0, also in the middle of its warm-up.
    """
    with PortClaims() as claims:
        port = claims.choose(salt=f"{tmp_path} foundry", preferred=())
        early, foundry = (
            FoundryProcess("127.0.0.1:1", tmp_path, port),
            FoundryProcess(broker, tmp_path, port),
        )
        early.start()
        assert eventually(
            lambda: early.health()[0] == 503
        )  # its topics are read once there is a broker
        assert early.end(signal.SIGTERM) == 0
        foundry.start()
        foundry.wait_ready()
        code, found = foundry.health()
        assert code == 200
        assert (
            found.items()
            >= {
                "alive": True,
                "ready": True,
                "part": "foundry",
                "checks": {"topics_read": True, "progress": True},
            }.items()
        )
        # before the supervisor ends one that is stuck, it has it say where
        assert foundry.process is not None
        foundry.process.send_signal(signal.SIGQUIT)
        assert eventually(lambda: "most recent call first" in foundry.log.read_text())
        assert foundry.health()[0] == 200
        assert foundry.end(signal.SIGTERM) == 0
    assert foundry.health() == (0, {})


def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    """No address of a broker: exit code 2 and one sentence with the remedy."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ESPER_")
    } | {"ESPER_HOME": str(tmp_path)}
    found = run(module="esper.tezzeret", environment=environment)
    assert found.returncode == 2
    assert found.stderr == (
        "The foundry needs a broker: set ESPER_KAFKA__BOOTSTRAP, or start the whole stack "
        "with `esper up`.\n"
    )
