"""`esper kafka config`: what another client needs to reach the installation's Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from esper.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.config import Settings
    from esper.oona.bus.access import Access

Format = Literal["kcat", "properties", "python"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    kafka = typer.Typer(
        help="Kafka for other clients.", rich_markup_mode=None, no_args_is_help=True
    )
    kafka.callback()(lambda: None)  # so that `config` stays a word of its own
    kafka.command("config")(config)
    app.add_typer(kafka, name="kafka")


def config(
    *,
    principal: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="PRINCIPAL",
            help=(
                "Whose settings: viewer reads every topic and writes nothing; operator sends "
                "commands."
            ),
        ),
    ] = "viewer",
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help=(
                "kcat: a file for `kcat -F`; properties: Java's clients; python: a dict for "
                "confluent-kafka."
            ),
        ),
    ] = "kcat",
) -> None:
    """Print the settings of a client, its secret included: keep what is printed as you would keep
    the secret.
    """
    from esper.config import Settings  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.oona.bus.rights import OWNER, PRINCIPALS  # noqa: PLC0415 - as above

    if principal not in (known := (*PRINCIPALS, OWNER)):
        raise UsageError(
            f"There is no principal {principal}; there are {', '.join(sorted(known))}."
        )
    access = _access(Settings.load(), principal)
    if form == "python":
        print(repr(access.librdkafka()))
        return
    lines = access.librdkafka().items() if form == "kcat" else _java(access)
    for name, value in lines:
        print(f"{name}={value}")


def _access(settings: Settings, principal: str) -> Access:
    from esper import stack  # noqa: PLC0415 - as above
    from esper.oona.bus.access import Access  # noqa: PLC0415 - as above

    if settings.kafka.bootstrap:
        return Access.of(settings, principal)
    endpoints = stack.running(settings)
    if endpoints is None:
        raise UnavailableError(
            f"The stack in {settings.home} is not up: `esper up` starts it, or set "
            "ESPER_HOME to where it runs."
        )
    return Access.of(settings, principal, bootstrap=endpoints.bootstrap)


def _java(access: Access) -> Iterator[tuple[str, str]]:
    """The properties of a Java client.

    Raises:
        UsageError: the settings use what a Java client takes in another form.
    """
    kafka = access.kafka
    if kafka.certificate or kafka.sasl_mechanism == "OAUTHBEARER":
        raise UsageError(
            "A Java client takes certificates and OAuth by a keystore or a login module of "
            "yours; --format kcat prints what they are made of."
        )
    yield "bootstrap.servers", kafka.bootstrap
    yield "security.protocol", kafka.security_protocol
    if kafka.ca:
        yield "ssl.truststore.type", "PEM"
        yield "ssl.truststore.location", kafka.ca
    if kafka.authenticated:
        module = (
            "plain.PlainLoginModule"
            if kafka.sasl_mechanism == "PLAIN"
            else "scram.ScramLoginModule"
        )
        secret = f'username="{access.user}" password="{access.password()}"'
        yield "sasl.mechanism", kafka.sasl_mechanism
        yield "sasl.jaas.config", f"org.apache.kafka.common.security.{module} required {secret};"
