"""Access control lists and SCRAM credentials of a cluster, asked for and changed by a principal
that may.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, cast

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its types do not list what it exports
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.rights import Operation, Resource, Right

ITERATIONS: Final = 4_096
"""Kafka's least.

Passwords of the installation are 256 random bits, which no number of iterations makes harder to
guess.
"""


def listed(bus: KafkaBus) -> dict[Right, AclBinding]:
    """The list as the cluster has it, by its lines.

    Kinds of lines that Esper does not write are left out.

    Raises:
        UnavailableError: the cluster does not answer.
        DeniedError: it does not tell this principal.
    """
    # None matches every name, which the library's types do not say
    anything: Any = None
    everything = AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        anything,
        anything,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    bindings: Iterable[AclBinding] = _done(
        bus, bus.admin().describe_acls(everything, request_timeout=bus.patience)
    )
    return {right: binding for binding in bindings if (right := _right(binding)) is not None}


def change(
    bus: KafkaBus,
    *,
    grant: Collection[Right] = (),
    revoke: Collection[AclBinding] = (),
    user: Callable[[str], str] = str,
) -> None:
    """Add lines to the list and take lines from it.

    `user` gives the name by which the cluster knows a principal. Raises as `listed` does.
    """
    client = bus.admin()
    if grant:
        for future in client.create_acls(
            [_binding(right, user) for right in grant], request_timeout=bus.patience
        ).values():
            _done(bus, future)
    if revoke:
        filters = [
            AclBindingFilter(
                binding.restype,
                binding.name,
                binding.resource_pattern_type,
                binding.principal,
                binding.host,
                binding.operation,
                binding.permission_type,
            )
            for binding in revoke
        ]
        for future in client.delete_acls(filters, request_timeout=bus.patience).values():
            _done(bus, future)


def set_passwords(bus: KafkaBus, passwords: Mapping[str, str]) -> None:
    """Give each user its password, for SCRAM-SHA-512. Raises as `listed` does."""
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    upsertions: list[Any] = [
        UserScramCredentialUpsertion(user, info, password.encode())
        for user, password in passwords.items()
    ]
    for future in (
        bus.admin().alter_user_scram_credentials(upsertions, request_timeout=bus.patience).values()
    ):
        _done(bus, future)


def _done(bus: KafkaBus, future: Any) -> Any:
    try:
        return bus.answer(future)
    except KafkaException as error:
        raise bus.unavailable(error) from error


def _binding(right: Right, user: Callable[[str], str]) -> AclBinding:
    return AclBinding(
        ResourceType[right.resource],
        right.name,
        ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL,
        f"User:{user(right.principal)}",
        "*",
        AclOperation[right.operation],
        AclPermissionType.DENY if right.denied else AclPermissionType.ALLOW,
    )


def _right(binding: AclBinding) -> Right | None:
    """The line as Esper writes them; None for one of a kind that Esper does not write."""
    restype, pattern = (
        cast("ResourceType", binding.restype),
        cast("ResourcePatternType", binding.resource_pattern_type),
    )
    if (
        binding.host != "*"
        or not binding.principal.startswith("User:")
        or pattern.name not in {"LITERAL", "PREFIXED"}
    ):
        return None
    return Right(
        binding.principal.removeprefix("User:"),
        cast("Resource", restype.name),
        binding.name,
        cast("Operation", cast("AclOperation", binding.operation).name),
        prefixed=pattern is ResourcePatternType.PREFIXED,
        denied=binding.permission_type is AclPermissionType.DENY,
    )
