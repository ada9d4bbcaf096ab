"""Claims about the answer to a packet."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

from esper.events import Message, decode, event_id
from esper.events.records import AdaptationOutcome, EpochReviewed, FieldReport, SystemStatePacket
from esper_processors.tamiyo import row as rows
from esper_processors.tamiyo.answers import answer, failed
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.row import KEPT_ANSWERS, Row
from tests.unit.tamiyo.world import Family, World

CONV, MLP, LINEAR = Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03), Family("linear", 0.0)


def small(**changed: object) -> World:
    """One layer of four seeds and three families."""
    return World({"0": 40}, {"0": (CONV, MLP, LINEAR)}, **changed)  # type: ignore[arg-type]


def test_the_report_names_the_layers_geometry() -> None:
    """The first packet's report carries what the packet says of each layer, so that the foundry can
    build for it.
    """
    packet = small().packet()
    image = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 8x8"
    packet = replace(packet, layers=(replace(packet.layers[0], kind="Conv2d", geometry=image),))
    events = [decode(message.value) for message in small().ask(packet).messages]
    (report,) = [event for event in events if isinstance(event, FieldReport)]
    assert [(layer.kind, layer.geometry) for layer in report.layers] == [("Conv2d", image)]


def test_every_packet_gets_exactly_one_review() -> None:
    """Each packet of a run is answered by one EpochReviewed with its own number, in effect at the
    packet's step.
    """
    world = small()
    for epoch in range(world.epochs):
        messages = world.ask().messages
        reviews = [
            event
            for message in messages
            if isinstance(event := decode(message.value), EpochReviewed)
        ]
        assert [(review.packet, review.step, review.effective_step) for review in reviews] == [
            (epoch, epoch * 40, epoch * 40)
        ]
        assert reviews[0].packet_id == world.packet().event_id
        world.epoch += 1


def test_a_packet_that_comes_again_gets_the_same_bytes() -> None:
    """A duplicate is answered byte for byte as before, even when time has passed and the state has
    moved on, and changes nothing.
    """
    world = small()
    asked = []
    for _ in range(30):
        packet = world.packet()
        first = world.ask().messages
        asked.append((packet, first))
        assert answer_again(world, packet) == first
        world.turn_with(first)
    world.clock.advance(1000)
    for packet, messages in asked[-KEPT_ANSWERS:]:
        assert messages
        assert answer_again(world, packet) == messages


def answer_again(world: World, packet: SystemStatePacket) -> tuple[Message, ...]:
    """The messages for a packet that was answered; the row must stay."""
    reply = world.ask(packet)
    assert reply.row is None
    return reply.messages


def test_the_row_survives_its_bytes() -> None:
    """Encoded and decoded, a row of a run in full growth equals itself, and leads to the same next
    answer.
    """
    world = small()
    for _ in range(40):
        world.turn()
        again = rows.decode(rows.encode(world.row))
        assert again == world.row
    assert world.row.state.trials or world.row.state.arms
    packet = world.packet()
    replies = [
        answer(row, packet, prior=lambda _c, _p: Beta(), clock=world.clock)
        for row in (world.row, rows.decode(rows.encode(world.row)))
    ]
    assert replies[0].messages[0].value == replies[1].messages[0].value


def test_without_memory_lockstep_gives_the_same_commands_again() -> None:
    """Two lives of Tamiyo that see the same lockstep packets give the same commands with the same
    ids, whatever the time and earlier runs say.
    """
    first, second = small(), small()
    second.clock.advance(12345)
    for _ in range(60):
        assert first.turn().commands == second.turn().commands
    optimist = answer(
        Row(), small(epoch=5).packet(), prior=lambda _c, _p: Beta(1000, 1), clock=first.clock
    )
    sober = answer(Row(), small(epoch=5).packet(), prior=lambda _c, _p: Beta(), clock=first.clock)
    assert optimist.messages[0].value == sober.messages[0].value


def test_experience_of_other_runs_counts_in_live_mode() -> None:
    """With a prior that is sure of one context, the first live germination is of that family, for
    any run seed.
    """

    def prior(context: str, _: object) -> Beta:
        return Beta(500, 1) if context.endswith("/conv1d") else Beta(1, 500)

    for run_seed in range(10):
        world = small(decisions="LIVE", run_seed=run_seed, epoch=5)
        review = decode(
            answer(Row(), world.packet(), prior=prior, clock=world.clock).messages[0].value
        )
        assert isinstance(review, EpochReviewed)
        assert review.commands[0].family == "conv1d"


def test_the_first_packet_reports_every_layer_once() -> None:
    """A run's first packet leads to one field report of all layers.

    Later ones to none while it is outstanding.
    """
    world = small(with_catalogue=False)
    reports = []
    for _ in range(4):
        reports += [
            event for m in world.ask().messages if isinstance(event := decode(m.value), FieldReport)
        ]
        world.epoch += 1
    assert [report.event_id for report in reports] == [event_id("run", 0, "field-report/0")]
    assert [(layer.name, layer.in_features, layer.chunks) for layer in reports[0].layers] == [
        ("0", 40, (25, 25, 25, 25))
    ]


def test_kernels_that_go_missing_are_reported_again() -> None:
    """A layer whose kernels were in the catalogue and are gone is reported again under
    another id.
    """
    world = small()
    seen = []
    for with_catalogue in (True, True, False, False, True, False):
        world.with_catalogue = with_catalogue
        seen.append(
            [
                event.event_id
                for m in world.ask().messages
                if isinstance(event := decode(m.value), FieldReport)
            ]
        )
        world.epoch += 1
    ids = [event_id("run", 0, f"field-report/{number}") for number in range(3)]
    assert seen == [[ids[0]], [], [ids[1]], [], [], [ids[2]]]


def test_a_decision_has_one_outcome() -> None:
    """Each germination that ended has exactly one AdaptationOutcome, rewarded if and only if its
    kernel passed the gate with a significant gap.
    """
    world = small()
    for _ in range(world.epochs):
        world.turn()
    germinated = {
        c.decision_id: c
        for review in world.answers
        for c in review.commands
        if c.command == "GERMINATE"
    }
    assert len({outcome.decision_id for outcome in world.outcomes}) == len(world.outcomes) >= 4
    assert set(germinated) - {outcome.decision_id for outcome in world.outcomes} == set(
        world.row.state.trials
    )
    for outcome in world.outcomes:
        assert outcome.event_id == event_id("run", 0, f"outcome/{outcome.decision_id}")
        assert outcome.family == germinated[outcome.decision_id].family
        assert (outcome.verdict, outcome.reward) == (
            ("CULLED", 0.0) if outcome.family in ("linear", "mlp") else ("FOSSILIZED", 1.0)
        )


def test_a_wrong_setting_is_answered_in_the_reason() -> None:
    """A policy key that Tamiyo does not know leads to an answer without commands that names it."""
    world = small(policy={"first_epcoh": 1}, epoch=10)
    review = world.turn()
    assert not review.commands
    assert "did you mean first_epoch" in review.reason


def test_a_packet_of_an_earlier_timeline_is_not_answered() -> None:
    """After a rollback a late packet of the old timeline changes nothing.

    Trials that were on the way end as RESET and teach nothing.
    """
    world = small(policy={"first_epoch": 0, "every_epochs": 1})
    for _ in range(3):
        world.turn()
    late = world.packet()
    assert world.row.state.trials
    arms = world.row.state.arms
    world.timeline, world.epoch = 1, 1
    world.seeds = {
        name: [
            replace(seed, stage="DORMANT", decision_id="", family="", kernel_id="")
            for seed in seeds
        ]
        for name, seeds in world.seeds.items()
    }
    events = [decode(message.value) for message in world.ask().messages]
    assert {event.verdict for event in events if isinstance(event, AdaptationOutcome)} == {"RESET"}
    assert world.row.state.arms == arms
    assert world.ask(late).messages == ()


def test_a_row_of_another_version_is_forgotten() -> None:
    """Bytes of another format lead to an empty row and an answer, not to an error."""
    world = small()
    world.turn()
    plain = json.loads(zlib.decompress(rows.encode(world.row))) | {"format": 0}
    assert rows.decode(zlib.compress(json.dumps(plain).encode())) == Row()


def test_a_mistake_of_tamiyo_is_answered_too() -> None:
    """A packet on which the policy fails is answered under its own id, without commands, naming the
    error.
    """
    world = small(epoch=7, policy={"version": "mine-3"})
    review = decode(failed(world.packet(), ZeroDivisionError("by zero"), clock=world.clock).value)
    assert isinstance(review, EpochReviewed)
    assert (review.event_id, review.packet, review.commands) == (
        event_id("run", 0, "review/7"),
        7,
        (),
    )
    assert "ZeroDivisionError: by zero" in review.reason
    assert review.policy_version == "mine-3"
