"""Client certificates as callers: which certificate, verified by the server, is whose.

A setting is a comma-separated list, or ``@path`` of a file with one entry a line. The first that fits counts:

    spiffe://corp/ns/*/batch=developer@ws-a    a URI of the certificate (subjectAltName)
    *.jobs.internal=operator                   a DNS name of it
    cn:legacy-box=models:call                  its common name, where it has no other name at all
    *=viewer                                   any certificate that the server has verified

``*`` stands for what is between two dots of a DNS name or two slashes of a URI, ``**`` for anything. A
certificate that nothing fits is nobody's.

What is judged is the certificate of the connection, which the server hands over; a header never is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import Misconfigured
from router_core.http.message import Request
from router_core.security.credentials import Granted, granted
from router_core.security.roles import ROLES
from router_core.types import Principal

__all__ = ["PEER", "ClientCertificates", "Peer", "peer_of"]

PEER: Final = "router_core.peer"
"""Extension of the ASGI scope under which our own server gives the ``Peer`` of a connection."""
_VARIABLE: Final = "ROUTER_CLIENT_CERTIFICATES"
_SHOWN: Final = re.compile(r"[!-~]{1,255}\Z")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, by a certificate that was verified in its handshake."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    common_name: str = ""
    until: float = 0.0
    """When the certificate ends, in seconds since the epoch."""

    def names(self) -> Sequence[tuple[str, str]]:
        """Return its names with their kinds; the common name counts where there is no other."""
        found = [("uri", name) for name in self.uris] + [("dns", name.lower()) for name in self.dns]
        return found or [("cn", self.common_name)]


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: str
    """uri, dns, cn, or nothing for all."""
    pattern: re.Pattern[str]
    held: Granted


class ClientCertificates:
    """Says whose certificate a request came with."""

    __slots__ = ("_clock", "_entries")

    def __init__(self, entries: Sequence[_Entry], clock: Clock) -> None:
        self._entries = entries
        self._clock = clock

    @classmethod
    def from_setting(
        cls, text: str, clock: Clock, roles: Mapping[str, frozenset[str]] = ROLES
    ) -> ClientCertificates:
        """Read the setting; raises Misconfigured, naming the entry."""
        text = text.strip()
        lines = _lines(Path(text[1:])) if text.startswith("@") else text.split(",")
        entries = [
            _entry(line.strip(), number, roles) for number, line in enumerate(lines, 1) if line.strip()
        ]
        if not entries:
            raise Misconfigured(f"{_VARIABLE} is set and names no certificate")
        return cls(entries, clock)

    def holder(self, request: Request) -> tuple[Principal, float] | None:
        """Return who has the certificate and until when that holds; None where it is nobody's."""
        extensions = request.native.get("extensions")
        peer = extensions.get(PEER) if isinstance(extensions, Mapping) else None
        if not isinstance(peer, Peer):
            return None
        left = peer.until - self._clock.now()
        principal = self._of(peer) if left > 0 else None
        return None if principal is None else (principal, self._clock.monotonic() + left)

    def _of(self, peer: Peer) -> Principal | None:
        for entry in self._entries:
            for kind, name in peer.names():
                if entry.kind in ("", kind) and _SHOWN.match(name) and entry.pattern.fullmatch(name):
                    held = entry.held
                    return Principal(
                        f"cert:{name}", held.scopes, "certificate", held.roles, held.workspaces,
                        held.only,
                    )  # fmt: skip
        return None


def _entry(text: str, number: int, roles: Mapping[str, frozenset[str]]) -> _Entry:
    where = f"entry {number} of {_VARIABLE}"
    name, equals, words = text.rpartition("=")
    name = name.strip()
    if not equals or not name:
        raise Misconfigured(f"{where} is {text[:80]!r}; write pattern=role|scope@workspace")
    try:
        held = granted(words, roles)
    except ValueError as error:
        raise Misconfigured(f"{where}: {error}") from None
    if name == "*":
        return _Entry("", re.compile(".*"), held)
    if name.startswith("cn:"):
        return _Entry("cn", _compiled(name[3:], ""), held)
    if "://" in name or name.startswith("urn:"):
        return _Entry("uri", _compiled(name, "/"), held)
    return _Entry("dns", _compiled(name.lower(), "."), held)


def _compiled(pattern: str, between: str) -> re.Pattern[str]:
    inside = f"[^{re.escape(between)}]+" if between else ".+"
    stars = {"**": ".+", "*": inside}
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join(stars.get(part) or re.escape(part) for part in parts))


def _lines(path: Path) -> list[str]:
    try:
        return [line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{_VARIABLE} names the file {path}, which cannot be read: {error}") from None


def peer_of(certificate: Mapping[str, Any], until: float) -> Peer:
    """Return the peer of a certificate as ``ssl`` describes it: ``SSLObject.getpeercert()``."""
    names = certificate.get("subjectAltName", ())
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return Peer(
        tuple(value for kind, value in names if kind == "URI"),
        tuple(value for kind, value in names if kind == "DNS"),
        common[-1] if common else "",
        until,
    )
