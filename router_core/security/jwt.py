"""JSON Web Tokens of one issuer: whose a token is, and how little of it is believed before that is known.

Before a signature is looked at, the head has to be one that we would have asked for: an algorithm of the
fixed list, no ``crit``, no key of its own (``jwk``, ``jku``, ``x5u``, ``x5c``), no part that stands twice.
Keys come from the issuer's JWKS and each verifies the algorithms of its own type, so that no public key is
ever taken for a shared secret. Whatever is wrong, the caller learns the same; the log says what it was.

A token that was found good is known by the SHA-256 of all of it until it expires, or the keys change.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from router_core.clock import Clock
from router_core.errors import Misconfigured, Unauthorized
from router_core.security.credentials import Granted, invalid, is_workspace
from router_core.security.jwks import ALGORITHMS, JwksKeys, Usable
from router_core.security.roles import ROLES
from router_core.settings import Settings
from router_core.telemetry.events import Events, Note
from router_core.types import Principal

__all__ = ["ClaimRules", "SignedTokens", "Verifier", "claim_rules"]

_MOST_KNOWN: Final = 10_000
_PART: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_SUBJECT: Final = re.compile(r"[!-~][ -~]{0,254}\Z")
_TIER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_HEAD: Final = frozenset({"alg", "kid", "typ", "cty", "x5t", "x5t#S256"})
"""What may stand in the head; whatever else would change how the token is read, or says whose key to take."""
_LARGEST_HEAD: Final = 2048
_MOST_WORDS: Final = 200
_TOLD_EVERY: Final = 1.0
_LOOKED_AT_EVERY: Final = 5.0


class Refused(Exception):
    """Why a token is not taken: for the log, not for the caller."""


class Verifier(Protocol):
    """Checks signatures and times: ``vendors/pyjwt.py``."""

    def claims(
        self, token: str, key: Any, algorithm: str, issuer: str, audience: Sequence[str], leeway: float
    ) -> Mapping[str, Any]:
        """Return the claims of a token whose signature, issuer, audience and times are right.

        Raises ValueError with the reason.
        """


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What a token has to say, and where it says what its holder may do."""

    issuer: str
    audience: tuple[str, ...]
    algorithms: frozenset[str]
    secret: bytes = field(default=b"", repr=False)
    """In place of a JWKS."""
    roles: tuple[str, ...] = ("roles",)
    workspaces: tuple[str, ...] = ("workspaces",)
    """Empty: every token may enter every workspace."""
    tier: tuple[str, ...] = ("tier",)
    leeway: float = 30.0
    known: Mapping[str, frozenset[str]] = field(default_factory=lambda: ROLES)
    """All roles."""


def claim_rules(settings: Settings, known: Mapping[str, frozenset[str]] = ROLES) -> ClaimRules:
    """Return the rules of the settings; raises Misconfigured for a set that would let in too many."""
    if not settings.jwt_issuer or not settings.jwt_audience:
        raise Misconfigured("tokens need both ROUTER_JWT_ISSUER and ROUTER_JWT_AUDIENCE")
    if bool(settings.jwt_jwks) == bool(settings.jwt_secret):
        raise Misconfigured("tokens need ROUTER_JWT_JWKS, or ROUTER_JWT_SECRET, and never both")
    secret = settings.jwt_secret.encode()
    if secret and len(secret) < 32:
        raise Misconfigured(
            "ROUTER_JWT_SECRET has to have at least 32 bytes: `openssl rand -hex 32` makes one"
        )
    listed = frozenset(name.strip() for name in settings.jwt_algorithms.split(",") if name.strip())
    unknown = sorted(listed - ALGORITHMS.keys())
    if unknown or not listed:
        raise Misconfigured(
            f"ROUTER_JWT_ALGORITHMS is {settings.jwt_algorithms!r}; it may list {', '.join(ALGORITHMS)}"
        )
    everywhere = settings.jwt_workspaces_claim == "*"
    return ClaimRules(
        settings.jwt_issuer,
        tuple(name.strip() for name in settings.jwt_audience.split(",") if name.strip()),
        frozenset({"HS256"}) if secret else listed,
        secret,
        _path(settings.jwt_roles_claim),
        () if everywhere else _path(settings.jwt_workspaces_claim),
        _path(settings.jwt_tier_claim),
        settings.jwt_leeway,
        known,
    )


class SignedTokens:
    """Says whose token it is."""

    def __init__(
        self, rules: ClaimRules, verifier: Verifier, keys: JwksKeys | None, clock: Clock, events: Events,
        most: int = _MOST_KNOWN,
    ) -> None:  # fmt: skip
        """``keys`` are the issuer's; None where there is a shared secret."""
        self._rules = rules
        self._verifier = verifier
        self._keys = keys
        self._clock = clock
        self._events = events
        self._most = most
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._generation = 0
        self._told_at = -_TOLD_EVERY

    def recall(self, token: str, digest: bytes) -> tuple[Principal, float] | None:
        """Return whose token it is and until when, if it was verified before."""
        keys = self._keys
        self._check_generation()
        found = self._known.get(digest)
        if found is None:
            return None
        now = self._clock.monotonic()
        if found[1] <= now:
            del self._known[digest]
            return None
        if keys is None:
            return found
        keys.refresh_soon()
        # looked at again every now and then: the keys may change, and there are none to ask for ever
        until = min(found[1], keys.believed_until, now + _LOOKED_AT_EVERY)
        return (found[0], until) if until > now else None

    def _check_generation(self) -> None:
        """Forget what was verified with keys that have changed: one that is gone may not go on."""
        if self._keys is not None and self._keys.generation != self._generation:
            self._generation = self._keys.generation
            self._known.clear()

    async def identify(self, token: str, digest: bytes) -> Principal:
        """Verify a token; raises Unauthorized, or Unavailable where the issuer's keys are not to be had."""
        try:
            head = _head(token, self._rules.algorithms)
            algorithm = str(head["alg"])
            if self._keys is None:
                key: Any = self._rules.secret
            else:
                usable = await self._keys.find(head.get("kid"), algorithm)
                key = self._key(usable, algorithm)
            rules = self._rules
            claims = self._verifier.claims(token, key, algorithm, rules.issuer, rules.audience, rules.leeway)
            principal = self._principal(claims)
        except (Refused, ValueError) as reason:
            raise self._refused(str(reason)) from None
        self._remember(digest, principal, claims)
        return principal

    def _key(self, usable: Usable | None, algorithm: str) -> Any:
        if usable is None:
            raise Refused("its key is none of the issuer's")
        if algorithm not in usable.algorithms:
            raise Refused("its key is not one for its algorithm")
        return usable.key

    def _remember(self, digest: bytes, principal: Principal, claims: Mapping[str, Any]) -> None:
        self._check_generation()
        ends = claims["exp"] + self._rules.leeway - self._clock.now()
        while len(self._known) >= self._most:
            self._known.popitem(last=False)
        self._known[digest] = (principal, self._clock.monotonic() + ends)

    def _refused(self, reason: str) -> Unauthorized:
        """Tell the log why, once a second at most, and the caller only that."""
        now = self._clock.monotonic()
        if now - self._told_at >= _TOLD_EVERY:
            self._told_at = now
            self._events.emit(Note("token_refused", "info", f"a token was refused: {reason[:200]}"))
        return invalid("token")

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        rules, subject = self._rules, claims.get("sub")
        if not isinstance(subject, str) or not _SUBJECT.match(subject):
            raise Refused("its subject is missing or odd")
        roles = frozenset(_words(_at(claims, rules.roles))) & rules.known.keys()
        # a scope of a token is what its user has consented to: everything is for roles alone to give
        scopes = {*_words(claims.get("scope")), *_words(claims.get("scp"))} - {"*"} - rules.known.keys()
        held = Granted((*sorted(roles), *sorted(scopes)), self._workspaces(claims, roles), rules.known)
        tier = _at(claims, rules.tier)
        return Principal(
            f"jwt:{subject}", held.scopes, "jwt", held.roles, held.workspaces, held.only,
            tier if isinstance(tier, str) and _TIER.match(tier) else "",
        )  # fmt: skip

    def _workspaces(self, claims: Mapping[str, Any], roles: frozenset[str]) -> tuple[str, ...]:
        rules = self._rules
        named = _at(claims, rules.workspaces) if rules.workspaces else "*"
        if named is None and "admin" in roles:
            return ("*",)
        return tuple(room for room in _words(named) if room == "*" or is_workspace(room))


def _path(dotted: str) -> tuple[str, ...]:
    return tuple(dotted.split("."))


def _at(claims: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return a claim by its path; a name with dots in it is found as it stands, too."""
    whole = ".".join(path)
    if whole in claims:
        return claims[whole]
    found: Any = claims
    for name in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def _words(value: Any) -> Sequence[str]:
    """Return the words of a list, or of a text with spaces between them."""
    listed = value.split() if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > _MOST_WORDS:
        return ()
    return [word for word in listed if isinstance(word, str) and 0 < len(word) <= 256]


def _head(token: str, algorithms: frozenset[str]) -> Mapping[str, Any]:
    """Return the head of a token, if it is one that we take; raises Refused."""
    parts = token.split(".")
    if len(parts) != 3 or not all(_PART.match(part) for part in parts):
        raise Refused("it is no signed token")
    if len(parts[0]) > _LARGEST_HEAD:
        raise Refused("its head is too large")
    head = _json(parts[0])
    _json(parts[1])
    odd = sorted(head.keys() - _HEAD)
    if odd:
        raise Refused(f"its head has {odd[0][:40]!r}")
    if head.get("alg") not in algorithms:
        raise Refused("its algorithm is not taken")
    kind, kid = head.get("typ", "JWT"), head.get("kid")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise Refused("its type is not taken")
    if "cty" in head:
        raise Refused("it holds another token")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= 256):
        raise Refused("its key id is odd")
    return head


def _json(part: str) -> dict[str, Any]:
    try:
        text = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, binascii.Error, RecursionError):
        raise Refused("it cannot be read") from None
    if not isinstance(value, dict):
        raise Refused("it cannot be read")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(_name: str) -> Any:
    raise ValueError("NaN and infinity are no JSON")
