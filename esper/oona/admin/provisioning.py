"""What a cluster has to have for Esper, what it has, and how the one becomes the other: topics,
their settings, rights, quotas, schemas.

And what it must not have: a transaction that hides a partition from its readers, see `hanging`.

`wanted` is a pure function of the settings and of `schemas/topics.toml`; `compare` is one of what
is wanted and what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from aiokafka.errors import KafkaError as RequestError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # type: ignore[attr-defined]  # as in acls

from esper.clock import Clock
from esper.config import Settings
from esper.errors import DeniedError, EsperError, UnavailableError
from esper.oona.admin import acls, hanging, kafka_requests, topic_creation
from esper.oona.admin.hanging import Hanging
from esper.oona.bus import wire
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.rights import PRINCIPALS, Right, rights

if TYPE_CHECKING:
    from confluent_kafka.admin import AclBinding  # type: ignore[attr-defined]  # as in acls

Kind = Literal[
    "topic", "partitions", "replication", "setting", "right", "quota", "schema", "transaction"
]
Step = Literal["create", "change", "remove", "none"]
"""What `apply` does about a difference.

"none": only an administrator can, because it moves keys or data.
"""

_SIGNS: Final[Mapping[Step, str]] = {"create": "+", "change": "~", "remove": "-", "none": "!"}


class TopicPlan(NamedTuple):
    """A topic: partitions, replicas of each, and its settings."""

    partitions: int
    replication: int
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What a cluster has, or has to have.

    Rights and quotas are by the cluster's names of principals; None leaves a kind out of the
    comparison.
    """

    topics: Mapping[str, TopicPlan]
    rights: frozenset[Right] | None
    quotas: Mapping[str, Mapping[str, float]] | None
    schemas: frozenset[str] = field(default_factory=frozenset)
    hanging: tuple[Hanging, ...] = ()


class Difference(NamedTuple):
    """One thing that is not as it has to be.

    `found` and `wanted` are texts, empty for what is not there.
    """

    kind: Kind
    name: str
    found: str
    wanted: str
    step: Step

    def line(self) -> str:
        """The difference for people."""
        values = {
            "create": self.wanted,
            "remove": self.found,
            "change": f"{self.found or '(unset)'} -> {self.wanted}",
        }
        text = values.get(
            self.step,
            (
                f"{self.found}, wanted {self.wanted}; an administrator has to decide, because "
                "it moves keys or data"
            ),
        )
        return f"{_SIGNS[self.step]} {self.kind:<11} {self.name}" + (f" = {text}" if text else "")


def wanted(
    settings: Settings, *, user: Callable[[str], str], with_rights: bool, with_quotas: bool
) -> ClusterPlan:
    """What the cluster of these settings has to have.

    `user` gives the name by which it knows a principal.
    """
    plans = {
        name: TopicPlan(count, settings.kafka.replication, values)
        for name, (count, values) in topic_creation.wanted(settings.kafka).items()
    }
    granted = (
        frozenset(replace(right, principal=user(right.principal)) for right in rights())
        if with_rights
        else None
    )
    limits = (
        {user(name): values for name, values in settings.kafka.limits().items()}
        if with_quotas
        else None
    )
    return ClusterPlan(plans, granted, limits, wire.subjects(settings))


def compare(present: ClusterPlan, plan: ClusterPlan, *, prune: bool) -> list[Difference]:
    """Every difference, in the order in which it is to be mended.

    With `prune`, rights and quotas that are not wanted count too.
    """
    return [
        *_topics(present, plan),
        *_rights(present.rights or frozenset(), plan.rights, prune=prune),
        *_quotas(present.quotas or {}, plan.quotas, prune=prune),
        *(
            Difference("schema", subject, "", "", "create")
            for subject in sorted(plan.schemas - present.schemas)
        ),
        *(
            Difference(
                "transaction",
                f"{transaction.topic} {transaction.partition} {transaction.transactional_id}",
                f"open since offset {transaction.offset}",
                transaction.end,
                "change",
            )
            for transaction in present.hanging
        ),
    ]


def _topics(present: ClusterPlan, plan: ClusterPlan) -> Iterator[Difference]:
    for name, planned in plan.topics.items():
        current = present.topics.get(name)
        if current is None:
            yield Difference(
                "topic",
                name,
                "",
                f"{planned.partitions} partitions, {planned.replication} replicas",
                "create",
            )
            continue
        # never changed: another number would put a run's key into another partition
        if current.partitions != planned.partitions:
            yield Difference(
                "partitions", name, str(current.partitions), str(planned.partitions), "none"
            )
        if current.replication != planned.replication:
            yield Difference(
                "replication", name, str(current.replication), str(planned.replication), "none"
            )
        for key, value in planned.settings.items():
            if current.settings.get(key) != value:
                yield Difference(
                    "setting", f"{name} {key}", current.settings.get(key, ""), value, "change"
                )


def _rights(
    present: frozenset[Right], plan: frozenset[Right] | None, *, prune: bool
) -> Iterator[Difference]:
    if plan is not None:
        yield from (
            Difference("right", sentence(right), "", "", "create")
            for right in sorted(plan - present)
        )
        yield from (
            Difference("right", sentence(right), "", "", "remove")
            for right in sorted(present - plan)
            if prune
        )


def _quotas(
    present: Mapping[str, Mapping[str, float]],
    plan: Mapping[str, Mapping[str, float]] | None,
    *,
    prune: bool,
) -> Iterator[Difference]:
    if plan is None:
        return
    for name in sorted({*present, *plan}):
        current, planned = present.get(name, {}), plan.get(name, {})
        for key in sorted(planned):
            if current.get(key) != planned[key]:
                before = f"{current[key]:.0f}" if key in current else ""
                yield Difference(
                    "quota",
                    f"{name} {key}",
                    before,
                    f"{planned[key]:.0f}",
                    "change" if before else "create",
                )
        if prune:
            yield from (
                Difference("quota", f"{name} {key}", f"{current[key]:.0f}", "", "remove")
                for key in sorted(current.keys() - planned.keys())
            )


def sentence(right: Right) -> str:
    """A right for people: `trainer WRITE TOPIC system.events.run`.

    Names that only have to begin so end with a star.
    """
    star = "*" if right.prefixed else ""
    return (
        f"{right.principal} {'not ' if right.denied else ''}{right.operation} {right.resource} "
        f"{right.name}{star}"
    )


class Administration:
    """A cluster as somebody sees and changes it who may.

    Every request ends after the bus's patience.
    """

    def __init__(self, bus: KafkaBus, settings: Settings, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._bindings: dict[Right, AclBinding] = {}

    def found(self, plan: ClusterPlan, *, user: Callable[[str], str]) -> ClusterPlan:
        """What the cluster has of the kinds that the plan has.

        Of rights and quotas, those of Esper's principals.

        Raises:
            UnavailableError: no broker answers.
            DeniedError: this principal may not ask.
        """
        # who is not let in hears so now; a request of an administrator waits for its time-out
        self._bus.cluster_id()
        names = {user(principal) for principal in PRINCIPALS}
        # kept as the cluster has them: to revoke a line its own form is needed
        self._bindings = acls.listed(self._bus) if plan.rights is not None else {}
        limits = (
            self._request(
                "read quotas", lambda way: kafka_requests.quotas(way, timeout_s=self._bus.patience)
            )
            if plan.quotas is not None
            else {}
        )
        missing = (
            {schema.subject for schema in wire.lacking(self._settings)} if plan.schemas else set()
        )
        present = self._found_topics(plan)
        return ClusterPlan(
            present,
            # others' rights are none of our business, and must not be pruned
            frozenset(right for right in self._bindings if right.principal in names),
            {name: values for name, values in limits.items() if name in names},
            plan.schemas - missing,
            tuple(self._hanging({name: topic.partitions for name, topic in present.items()})),
        )

    def apply(self, plan: ClusterPlan, differences: Sequence[Difference]) -> None:
        """Mend every difference whose step is not "none". Raises as `found`."""
        steps = {(difference.kind, difference.name): difference.step for difference in differences}
        self._bus.create_topics(
            {
                name: (topic.partitions, topic.settings)
                for name, topic in plan.topics.items()
                if ("topic", name) in steps
            },
            replication=self._settings.kafka.replication,
        )
        self._configure([name for kind, name in steps if kind == "setting"], plan)
        grant = [
            right
            for right in plan.rights or ()
            if steps.get(("right", sentence(right))) == "create"
        ]
        acls.change(
            self._bus,
            grant=grant,
            revoke=[
                binding
                for right, binding in self._bindings.items()
                if steps.get(("right", sentence(right))) == "remove"
            ],
        )
        self._limit([difference for difference in differences if difference.kind == "quota"], plan)
        kinds = {kind for kind, _ in steps}
        if "schema" in kinds:
            wire.resolve(self._settings, register=True)
        if "transaction" in kinds:
            hanging.mend(
                self._bus.access,
                self._bus.partitions(list(plan.topics)),
                clock=self._clock,
                timeout_s=self._bus.patience,
            )

    def credentials(self, passwords: Mapping[str, str]) -> None:
        """Give users SCRAM-SHA-512 passwords; earlier ones are void. Raises as `found`."""
        if passwords:
            acls.set_passwords(self._bus, passwords)

    def _hanging(self, counts: Mapping[str, int]) -> list[Hanging]:
        """Those of the topics that there are, a number of partitions by name.

        By OAUTHBEARER, which aiokafka's client here does not speak, none are looked for.
        """
        if self._bus.access.kafka.sasl_mechanism == "OAUTHBEARER":
            return []
        return (
            hanging.found(self._bus.access, counts, clock=self._clock, timeout_s=self._bus.patience)
            if counts
            else []
        )

    def _found_topics(self, plan: ClusterPlan) -> dict[str, TopicPlan]:
        existing = self._asked(
            lambda: self._bus.admin().list_topics(timeout=self._bus.patience)
        ).topics
        names = [name for name in plan.topics if name in existing]
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        futures = (
            self._bus.admin().describe_configs(resources, request_timeout=self._bus.patience)
            if resources
            else {}
        )
        settings = {
            resource.name: self._asked(future.result) for resource, future in futures.items()
        }
        return {
            name: TopicPlan(
                len(existing[name].partitions),
                # the weakest partition counts: its data are lost first
                min((len(part.replicas) for part in existing[name].partitions.values()), default=0),
                {key: entry.value for key, entry in settings[name].items()},
            )
            for name in names
        }

    def _configure(self, names: Iterable[str], plan: ClusterPlan) -> None:
        by_topic: dict[str, list[str]] = {}
        for topic, _, key in (name.partition(" ") for name in names):
            by_topic.setdefault(topic, []).append(key)
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                topic,
                incremental_configs=[
                    ConfigEntry(
                        key,
                        plan.topics[topic].settings[key],
                        # incremental: the older request resets every setting that it does not name
                        incremental_operation=AlterConfigOpType.SET,
                    )
                    for key in keys
                ],
            )
            for topic, keys in by_topic.items()
        ]
        if resources:
            for future in (
                self._bus.admin()
                .incremental_alter_configs(resources, request_timeout=self._bus.patience)
                .values()
            ):
                self._asked(future.result)

    def _limit(self, differences: Sequence[Difference], plan: ClusterPlan) -> None:
        changes: dict[str, dict[str, float | None]] = {}
        for difference in differences:
            # from the right: a principal of a certificate (CN=..., O=...) may have spaces, a quota
            # has none
            name, _, key = difference.name.rpartition(" ")
            changes.setdefault(name, {})[key] = (
                None if difference.step == "remove" else (plan.quotas or {})[name][key]
            )
        if changes:
            self._request(
                "set quotas",
                lambda way: kafka_requests.set_quotas(way, changes, timeout_s=self._bus.patience),
            )

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except KafkaException as error:
            raise self._bus.unavailable(error) from error

    def _request(self, what: str, ask: Callable[[dict[str, Any]], Any]) -> Any:
        access = self._bus.access
        try:
            return ask(kafka_requests.connection(access))
        except (RequestError, OSError) as error:
            raise _failed(error, f"Kafka at {access.bootstrap}", access.user, what) from error


def _failed(error: Exception, where: str, user: str, what: str) -> EsperError:
    if "Authorization" in type(error).__name__ or "Authentication" in type(error).__name__:
        return DeniedError(
            f"{where} does not allow {user} to {what}: run this command as an "
            "administrator, or leave quotas out with --no-quotas."
        )
    return UnavailableError(
        f"{where} does not {what} ({type(error).__name__}: {error}): try again, or leave "
        "quotas out with --no-quotas."
    )
