"""Tokens: JSON Web Tokens (RFC 7519) signed by Ed25519 (EdDSA, RFC 8037), which say who asks, with
which role, and until when.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, get_args

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from esper.clock import Clock
from esper.errors import UsageError
from esper.service.checks.problems import unauthorized
from esper.service.checks.roles import Caller, Role
from esper.service.transport import token_keys

ISSUER: Final = "esper"
PARTS: Final = ("tolaria", "tamiyo", "nissa", "history", "foundry")
"""The parts that a token may be for."""
PAGE: Final = "page"
"""Whom the code of `esper open` is for, beside Nissa."""
CODE_TTL: Final = timedelta(seconds=60)
"""How long such a code can be used, once."""
OWN_TTL: Final = timedelta(minutes=5)
"""How long the tokens last that Esper's programs make for themselves, one for each request."""
LONGEST: Final[Mapping[Role, timedelta]] = {
    "viewer": timedelta(days=90),
    "operator": timedelta(days=1),
    "admin": timedelta(days=1),
}
"""How long a token of each role may last; a part refuses one that claims more, whoever signed it.
"""

_ALGORITHM: Final = "EdDSA"
_CLAIMS: Final = ("iss", "sub", "role", "iat", "nbf", "exp", "aud")
_SKEW_S: Final = 5
_LONGEST: Final = 4096
_SECOND_US: Final = 1_000_000


def issue(
    key: Ed25519PrivateKey,
    *,
    subject: str,
    role: Role,
    ttl: timedelta,
    clock: Clock,
    audience: Sequence[str] = PARTS,
    identity: str = "",
) -> str:
    """A token that lasts for `ttl` from now, and is taken by the parts of `audience` alone.

    An `identity` tells it from others that say the same (RFC 7519, `jti`).

    Raises:
        UsageError: no subject, an unknown role, no part, or a time that is not positive or longer
            than the role may have.
    """
    if not subject.strip() or not subject.isprintable():
        raise UsageError(
            "A token needs a subject that can be printed: the name of a person or a part."
        )
    if role not in get_args(Role):
        raise UsageError(f"There is no role {role!r}: take viewer, operator or admin.")
    if ttl <= timedelta(0):
        raise UsageError("A token needs a time to live of at least a second.")
    if ttl > LONGEST[role]:
        raise UsageError(
            f"A token of the role {role} lasts {LONGEST[role].days} days at most: make a "
            "new one when it has expired."
        )
    if not audience:
        raise UsageError(f"A token needs at least one part that takes it: {', '.join(PARTS)}.")
    now = clock.now_us() // _SECOND_US
    times = {"iat": now, "nbf": now, "exp": now + round(ttl.total_seconds())}
    claims = {"iss": ISSUER, "sub": subject, "role": role, "aud": sorted(audience), **times}
    claims |= {"jti": identity} if identity else {}
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def own(
    folder: Path,
    *,
    subject: str,
    clock: Clock,
    role: Role = "viewer",
    ttl: timedelta = OWN_TTL,
    audience: Sequence[str] = PARTS,
    identity: str = "",
) -> str:
    """A token that one of Esper's programs makes with the key in `folder`.

    Raises as `keys.signing` and `issue` do.
    """
    return issue(
        token_keys.signing(folder),
        subject=subject,
        role=role,
        ttl=ttl,
        clock=clock,
        audience=audience,
        identity=identity,
    )


def identity_of(token: str) -> str:
    """What tells a token from others (`jti`), of one that a gatekeeper has let in; empty for none.

    Its text does not: a signature in base64 can be written in several ways.
    """
    claims = jwt.decode(token, options={"verify_signature": False})
    return str(claims.get("jti", ""))


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """Checks the tokens that `part` is sent, against one public key and one clock."""

    key: Ed25519PublicKey
    clock: Clock
    part: str

    @classmethod
    def of(cls, folder: Path, clock: Clock, part: str) -> Gatekeeper:
        """For the keys in `folder`, which are made where they are missing.

        Raises as `keys.ensure` and `keys.checking` do.
        """
        token_keys.ensure(folder)
        return cls(token_keys.checking(folder), clock, part)

    def caller(self, token: str) -> Caller:
        """Whom a token names.

        Raises:
            ProblemError: 401, with a sentence that says what is wrong: malformed, another key,
                algorithm, issuer or part, expired, not valid yet, or valid for longer than its role
                may be.
        """
        # Before it is parsed: whoever has no token may send anything.
        if len(token) > _LONGEST:
            raise unauthorized("The token is malformed.", invalid=True)
        try:
            claims = jwt.decode(
                token,
                self.key,
                # One algorithm: with a choice, a token could say `none`, or use the public key as a
                # shared secret (RFC 8725, 3.1).
                algorithms=[_ALGORITHM],
                issuer=ISSUER,
                audience=self.part,
                # PyJWT would hold times against the machine's clock
                options={
                    "require": list(_CLAIMS),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.InvalidSignatureError:
            raise unauthorized("The token was signed with another key.", invalid=True) from None
        except (jwt.InvalidAlgorithmError, jwt.InvalidKeyError):
            raise unauthorized(
                "The token was signed in another way than EdDSA.", invalid=True
            ) from None
        except jwt.InvalidAudienceError:
            raise unauthorized(
                (
                    f"The token is not for {self.part}: `esper token --for {self.part}` prints "
                    "one that is."
                ),
                invalid=True,
            ) from None
        except jwt.InvalidIssuerError:
            raise unauthorized("The token is for another service.", invalid=True) from None
        except jwt.MissingRequiredClaimError as error:
            raise unauthorized(f"The token lacks the claim {error.claim}.", invalid=True) from None
        except jwt.PyJWTError:
            raise unauthorized("The token is malformed.", invalid=True) from None
        return self._caller(claims)

    def _caller(self, claims: Mapping[str, object]) -> Caller:
        subject, role = claims["sub"], claims["role"]
        issued, begins, expires = (claims[name] for name in ("iat", "nbf", "exp"))
        if not isinstance(subject, str) or not subject.strip() or not subject.isprintable():
            raise unauthorized("The token is malformed.", invalid=True)
        if (
            type(issued) is not int or type(begins) is not int or type(expires) is not int
        ):  # a bool is an int, and no time
            raise unauthorized("The token is malformed.", invalid=True)
        known: Role | None = next(
            (known_role for known_role in get_args(Role) if known_role == role), None
        )
        if known is None:
            raise unauthorized("The token names a role that does not exist.", invalid=True)
        now = self.clock.now_us() // _SECOND_US
        if now >= expires:
            raise unauthorized("The token has expired.", invalid=True)
        if max(issued, begins) > now + _SKEW_S:
            raise unauthorized(
                "The token is for the future; set this machine's clock.", invalid=True
            )
        # Checked by the part too: whoever holds the key could sign any time.
        if expires - min(issued, begins) > LONGEST[known].total_seconds():
            raise unauthorized(
                f"The token lasts longer than one of the role {known} may.", invalid=True
            )
        return Caller(subject, known)

    def of_authorization(self, header: str) -> Caller:
        """Whom an Authorization header names: `Bearer TOKEN`, or `Basic` with the token as password
        and any user name.

        Raises:
            ProblemError: 401, as `caller` does.
        """
        scheme, _, credentials = header.strip().partition(" ")
        match scheme.lower():
            case "bearer":
                return self.caller(credentials.strip())
            case "basic":
                return self.caller(_password(credentials))
            case _:
                raise unauthorized(
                    "The Authorization header is neither Bearer nor Basic.", invalid=True
                )


def _password(credentials: str) -> str:
    try:
        # The user name is free: ClickHouse and Grafana clients insist on sending one.
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        raise unauthorized("The Basic credentials are malformed.", invalid=True) from None
