"""Alerts at work: what is known of every run, kept on a compacted topic, and what is said of it.

Each message counts once, whenever the process is killed. What is known of a run is saved together
with the places up to which its events were read, and a message is acknowledged to Kafka only once
that is on the topic: so whatever was not saved comes again, and whatever comes again that was
saved is passed over. What has to be said is saved first, then sent, unless the topic of alerts has
it already.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import faust
from aiokafka.errors import KafkaError

from esper.anomalies import READ, AlertRules, Subject
from esper.clock import Clock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import Event, encode
from esper.events.records import AlertResolved, AnomalyDetected
from esper.oona.bus.port import Received
from esper_processors.cluster import Followed
from esper_processors.consumers import fitting
from esper_processors.nissa.alerting import conditions, notices, silences, stored
from esper_processors.nissa.alerting.alert_list import AlertList, as_row
from esper_processors.nissa.alerting.mail import Mail
from esper_processors.nissa.alerting.posting import Alertmanager, Webhook
from esper_processors.nissa.alerting.routes import Dispatcher, Route
from esper_processors.nissa.alerting.run_alerts import KnownAlerts, RunAlerts, Unsent
from esper_processors.nissa.alerting.silences import SilenceRule
from esper_processors.streams import FramedSender, kafka_errors, own_topic

STATE: Final = "esper-nissa-alerts"
"""What is known of each run, under its id: Nissa's own, compacted, one partition."""
SILENCES: Final = "esper-nissa-silences"
"""Silences of people under their ids: the same."""
SAVE_S: Final = 5.0
"""Seconds after which what has changed is saved, where no alert did; see the README for why."""
LOOK_S: Final = 60.0
HELD_BACK: Final = 2_000
"""Messages that are read and not acknowledged at most."""
RUNS: Final = 256
"""Runs of which something is known; those that ended leave first, then those silent longest."""
_LISTED_US: Final = 7 * 24 * 3_600_000_000
_COMPACTION: Final[Mapping[str, Any]] = {
    # Kafka compacts no segment that is written to; its default of 1 GiB would be read at each start
    "segment.bytes": 16 << 20,
    "segment.ms": 3_600_000,
    "min.cleanable.dirty.ratio": 0.1,
}
_STACK: Final = b"\0stack"
"""The key of what is about no run."""
_log = logging.getLogger(__name__)

Acknowledge = Callable[[], Awaitable[None]]
Reading = Mapping[tuple[str, int], tuple[int, int]]
"""Where topics and partitions end, and how far they have been read, as offsets."""


def routes_of(settings: Settings, clock: Clock) -> list[Route]:
    """The routes that are set."""
    alerts, routes = settings.alerts, list[Route]()
    if alerts.webhook_url:
        routes.append(
            Webhook(alerts.webhook_url, alerts.webhook_secret_file, alerts.webhook_severity, clock)
        )
    if alerts.alertmanager_url:
        routes.append(Alertmanager(alerts.alertmanager_url, alerts.alertmanager_severity, clock))
    if alerts.mail_to:
        routes.append(Mail(alerts))
    return routes


class AlertDesk:
    """Everything about live alerts in one Nissa.

    There is one Nissa in an installation; a second would say everything twice.

    `reading` says how far topics have been read, `caught_up` whether those of `followed` have been
    read whole; `opened` gives the event in a message, `said` hears what is sent to the topic of
    alerts.
    """

    def __init__(
        self,
        app: faust.App,
        settings: Settings,
        clock: Clock,
        *,
        reading: Callable[[], Reading],
        caught_up: Callable[..., bool],
        opened: Callable[[Received], Event],
        said: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._opened, self._said = opened, said
        self._clock, self._reading, self._caught_up = clock, reading, caught_up
        self._home: Path = settings.home.resolve()
        self._state, self._silenced = (
            own_topic(app, name, **_COMPACTION) for name in (STATE, SILENCES)
        )
        self._outbound = FramedSender(app, notices.TOPIC)
        self.dispatcher = Dispatcher(
            routes_of(settings, clock), log_from=settings.alerts.log_severity
        )
        self.list = AlertList()
        self._rows: dict[bytes, bytes] = {}
        self._runs: dict[str, RunAlerts] = {}
        self._silences: dict[str, SilenceRule] = {}
        self._loaded = False
        self._changed: set[str] = set()
        self._held_back: list[Acknowledge] = []
        self._saving = asyncio.Lock()
        self._lags: list[int] = []
        self._before: tuple[int, Reading] | None = None
        app.service(self.dispatcher)  # type: ignore[arg-type]  # Faust takes instances too
        app.timer(SAVE_S)(self._save_in_time)
        app.timer(LOOK_S)(self.look)

    def followed(self) -> Iterable[Followed]:
        """The topics that are read whole before anything is judged."""
        since_ms = max(self._clock.now_us() - _LISTED_US, 0) // 1000
        return (
            Followed(STATE, 0, self._learn_state),
            Followed(SILENCES, 0, self._learn_silence),
            Followed(notices.TOPIC, since_ms, lambda one: self.list.take(self._opened(one))),
        )

    def ready(self) -> bool:
        """Whether what was known before is known again."""
        if not self._loaded and self._caught_up(STATE, SILENCES, notices.TOPIC):
            for data in self._rows.values():
                kept = stored.decode(data)
                self._runs[kept.run_id] = RunAlerts(kept, self._clock)
            # what was to be said when the process ended is said with the next saving
            self._changed |= {run_id for run_id, run in self._runs.items() if run.unsent}
            self._rows.clear()
            self._loaded = True
        return self._loaded

    async def take(self, event: Event, received: Received) -> None:
        """Look at an event; returns once what it makes known has been said.

        Raises:
            KafkaError: it cannot be said now; given again, the event is not counted again.
        """
        while not self.ready():  # noqa: ASYNC110  # a follower has no event to wait for
            await asyncio.sleep(0.05)
        if type(event) not in READ:
            return
        run = self._run(event.run_id)
        place = (received.topic, received.partition, received.offset)
        try:
            if run.take(event, place, self._rules()):
                self._changed.add(event.run_id)
        except Exception:  # noqa: BLE001  # whatever a detector does wrong
            # the message is sound, and all else has been done with it
            _log.exception("A detector failed at %s/%d/%d; alerts go on without it", *place)
        if run.unsent:
            await self.save()

    async def acknowledge(self, acknowledge: Acknowledge) -> None:
        """Have a message acknowledged once what it changed is saved."""
        self._held_back.append(acknowledge)
        if len(self._held_back) >= HELD_BACK:
            await self._save_in_time()

    async def save(self) -> None:
        """Save what has changed, say what has to be said, and acknowledge what was read.

        Raises:
            KafkaError: a broker is away; nothing is lost by it.
        """
        async with self._saving:
            if not self._loaded:
                return
            # of one moment: nothing is awaited between these
            changed, self._changed = self._changed, set()
            held_back, self._held_back = self._held_back, []
            try:
                rows = {run_id: self._row(run_id) for run_id in changed}
                unsent = {run_id: len(self._unsent(run_id)) for run_id in changed}
                await self._write(
                    self._state, ((_key(run_id), row) for run_id, row in rows.items())
                )
                for run_id, many in unsent.items():
                    await self._say(run_id, many)
            except BaseException:
                self._changed |= changed
                self._held_back = held_back + self._held_back
                raise
            for acknowledge in held_back:
                await acknowledge()

    async def look(self) -> None:
        """See what time alone shows, and how the stack is."""
        if not self.ready():
            return
        now_us = self._clock.now_us()
        rules, reading = self._rules(), self._reading()
        lag = sum(max(end - at, 0) for end, at in reading.values())
        self._lags = [*self._lags, lag][-conditions.LOOKS :]
        # as of the last look, once all that stood on the topics then has been read: before, a run
        # that speaks could look silent
        if self._before is not None:
            then_us, ends = self._before
            if all(
                place in reading and reading[place][1] >= end for place, (end, _) in ends.items()
            ):
                for run_id, run in self._runs.items():
                    if run_id and run.at(then_us, rules):
                        self._changed.add(run_id)
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, self._home)
        except OSError as error:
            _log.warning("The free space of %s cannot be read: %s", self._home, error)
        else:
            found = conditions.disk(usage.free, usage.total, now_us)
            found += conditions.lag(self._lags, now_us)
            self._run("").found(found, rules, now_us)
        self._forget_some(now_us)
        await self._end_silences(now_us)
        # always written, so that this look proves that the broker is there: while it is away, no
        # run can be heard
        self._changed.add("")
        self._before = (now_us, reading) if await self._save_in_time() else None
        self.dispatcher.resend(
            [
                notices.raised(alert, self._clock)
                for run in self._runs.values()
                for alert in run.book.open
                if alert.subject in run.routed and not self._is_silenced(alert.subject, now_us)
            ]
        )

    def alerts_of(self, run_id: str = "", *, open_only: bool | None = None) -> list[dict[str, Any]]:
        """Alerts of a run, or of all runs and the stack, the latest first.

        Args:
            run_id: The run; empty for all.
            open_only: True for those that hold, False for those that are over, None for both.
        """
        held = [
            as_row(notices.raised(alert, self._clock), alert.withheld)
            for known, run in self._runs.items()
            if run_id in ("", known)
            for alert in run.book.held.values()
        ]
        rows = ([] if open_only is False else held) + ([] if open_only else self.list.over(run_id))
        return sorted(rows, key=lambda row: (-row["raised_at"], row["alert_id"]))

    def open_by_severity(self) -> Counter[str]:
        """How many alerts hold that are not withheld."""
        counts = Counter({"WARNING": 0, "CRITICAL": 0})
        counts.update(alert.severity for run in self._runs.values() for alert in run.book.open)
        return counts

    def silences(self) -> list[SilenceRule]:
        """Those that hold now."""
        return silences.holding(self._silences.values(), self._clock.now_us())

    async def silence(self, who: str, reason: str, until_us: int, **patterns: str) -> SilenceRule:
        """Begin a silence; returns once it is kept.

        Raises:
            UsageError, RejectedError: as `silences.begun` does.
        """
        rule = silences.begun(
            who=who,
            reason=reason,
            now_us=self._clock.now_us(),
            until_us=until_us,
            patterns=patterns,
            known=self._silences.values(),
        )
        await self._write(self._silenced, [(rule.silence_id.encode(), silences.encode(rule))])
        self._silences[rule.silence_id] = rule
        return rule

    async def end_silence(self, silence_id: str) -> bool:
        """End a silence; False where none has that id."""
        if silence_id not in self._silences:
            return False
        await self._write(self._silenced, [(silence_id.encode(), None)])
        self._silences.pop(silence_id, None)
        return True

    def _learn_state(self, received: Received) -> None:
        # later this topic brings nothing but what this process has written
        if self._loaded:
            return
        key = received.key or b""
        if received.value:
            # refused here, where it becomes a dead letter
            if _key(stored.decode(received.value).run_id) != key:
                raise PoisonError("A row of Nissa's alerts stands under the key of another run.")
            self._rows[key] = received.value
        else:
            self._rows.pop(key, None)

    def _learn_silence(self, received: Received) -> None:
        silence_id = (received.key or b"").decode()
        if received.value:
            rule = silences.decode(received.value)
            if rule.silence_id != silence_id:
                raise PoisonError("A silence stands under the key of another one.")
            self._silences[silence_id] = rule
        else:
            self._silences.pop(silence_id, None)

    def _run(self, run_id: str) -> RunAlerts:
        if run_id not in self._runs:
            self._runs[run_id] = RunAlerts(KnownAlerts(run_id), self._clock)
        return self._runs[run_id]

    def _rules(self) -> AlertRules:
        return silences.rules_of(self._silences.values(), self._clock.now_us())

    def _is_silenced(self, subject: Subject, now_us: int) -> bool:
        return any(one.covers(subject, now_us) for one in self._rules().silences)

    def _row(self, run_id: str) -> bytes | None:
        """What is kept of a run; None for one that is forgotten."""
        if run_id not in self._runs:
            return None
        try:
            return fitting(stored.encode(self._runs[run_id].kept), f"the alerts of run {run_id}")
        except PoisonError as error:
            # a run with names of any length must not keep the others from being saved
            _log.warning("Alerts of a run are forgotten: %s", error)
            del self._runs[run_id]
            return None

    def _unsent(self, run_id: str) -> tuple[Unsent, ...]:
        return self._runs[run_id].unsent if run_id in self._runs else ()

    async def _say(self, run_id: str, many: int) -> None:
        """Send the first so many that a run has unsent, which have been saved."""
        if not many:
            return
        run, unsent = self._runs[run_id], self._unsent(run_id)[:many]
        fresh = [one.event for one in unsent if not self.list.has(one.event)]
        await self._outbound.send(*(encode(event) for event in fresh))
        for event in fresh:
            # the topic brings it in a moment; should this end before, the saved row still has it
            self.list.take(event)
            self._said(event)
        run.sent(len(unsent))
        # the row that is kept says that they are unsent until it is written again
        self._changed.add(run_id)
        now_us = self._clock.now_us()
        for one in unsent:
            event = one.event
            if not one.routed or isinstance(event, AnomalyDetected):
                continue
            # an alert that was raised before its silence began may become worse within it; that
            # one is over is told to whoever was told of it
            subject = Subject(event.detector, event.run_id, event.layer, event.seed)
            if isinstance(event, AlertResolved) or not self._is_silenced(subject, now_us):
                self.dispatcher.dispatch(event)

    async def _save_in_time(self) -> bool:
        """Save; False where that is left to the next time, since Faust would end the worker."""
        try:
            await self.save()
        except KafkaError as error:
            _log.warning("What is known for alerts cannot be saved now: %s", error)
            return False
        return True

    async def _end_silences(self, now_us: int) -> None:
        """Take those that are over from their topic."""
        for silence_id, rule in list(self._silences.items()):
            if rule.until_us <= now_us:
                try:
                    await self.end_silence(silence_id)
                except KafkaError as error:
                    _log.warning("A silence that is over cannot be deleted now: %s", error)

    def _forget_some(self, now_us: int) -> None:
        """Forget runs beyond the number that is kept."""
        runs = [run_id for run_id in self._runs if run_id]
        by_worth = sorted(
            runs, key=lambda one: (not self._runs[one].ended, self._runs[one].newest_us)
        )
        for run_id in by_worth[: max(len(runs) - RUNS, 0)]:
            run = self._runs[run_id]
            if not run.ended:
                # it leaves at the next look, when this has been said
                run.end("FORGOTTEN", now_us)
            elif not run.unsent:
                del self._runs[run_id]
            self._changed.add(run_id)

    async def _write(self, topic: Any, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Write rows to a topic of Nissa's own, and wait until the broker has them."""
        with kafka_errors():
            pending = [await topic.send(key=key, value=value) for key, value in rows]
        await asyncio.gather(*pending)


def _key(run_id: str) -> bytes:
    return run_id.encode() or _STACK
