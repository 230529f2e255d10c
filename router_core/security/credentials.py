"""What a caller shows to say who he is, read in only one way: whatever could be read in two is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from router_core.errors import Unauthorized
from router_core.http.message import Request
from router_core.security.roles import ROLES, expand

__all__ = ["MAX_CREDENTIAL", "Granted", "granted", "invalid", "is_workspace", "presented", "unauthorized"]

MAX_CREDENTIAL: Final = 8192
"""Bytes of a key or token; nothing is computed of a longer one."""
_WORKSPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def unauthorized(detail: str, error: str = "") -> Unauthorized:
    """Return a refusal that says how to ask (RFC 6750)."""
    challenge = 'Bearer realm="router-core"' + (f', error="{error}"' if error else "")
    return Unauthorized(detail, headers={"WWW-Authenticate": challenge})


def invalid(what: str) -> Unauthorized:
    """Return the refusal of a credential: the same whatever is wrong with it."""
    return unauthorized(f"the {what} is not valid", "invalid_token")


def presented(request: Request) -> tuple[str, bool]:
    """Return the key or token of a request, or nothing, and whether it came as a bearer token.

    Raises Unauthorized for two that differ.
    """
    headers = request.headers
    authorization = headers.get("authorization")
    key: str = headers.get("x-api-key", "").strip(" \t")
    if authorization is None:
        bearer = ""
    elif headers.repeats("authorization"):
        raise unauthorized("the request has more than one Authorization header", "invalid_request")
    else:
        scheme, _, value = authorization.partition(" ")
        bearer = value.strip(" \t") if scheme.lower() == "bearer" else ""
        if scheme.lower() == "bearer" and not bearer and key:
            raise unauthorized("the request has an empty token beside a key", "invalid_request")
    if key and (headers.repeats("x-api-key") or (bearer and bearer != key)):
        raise unauthorized("the request has two different credentials", "invalid_request")
    return bearer or key, bool(bearer)


class Granted:
    """What a list of roles, scopes and workspaces gives."""

    __slots__ = ("only", "roles", "scopes", "workspace", "workspaces")

    def __init__(
        self, words: Iterable[str], workspaces: Iterable[str] = ("*",),
        known: Mapping[str, frozenset[str]] = ROLES,
    ) -> None:  # fmt: skip
        """``words`` are roles and scopes, mixed. ``workspace`` is the first of ``workspaces``, ``only`` the
        one where there are no others: which of them is the usual one the kind of credential says."""
        held = frozenset(words)
        self.roles = held & known.keys()
        self.scopes = expand(self.roles, known) | (held - self.roles)
        listed = tuple(workspaces)
        self.workspaces = frozenset(listed)
        named = [each for each in listed if each != "*"]
        self.workspace = named[0] if named else ""
        self.only = self.workspace if len(set(named)) == 1 else ""


def granted(text: str, known: Mapping[str, frozenset[str]] = ROLES) -> Granted:
    """Read ``role|scope@workspace|workspace``; raises ValueError for a list that is empty or a bad name.

    What is ``known`` as a role is one, every other word is a scope.
    """
    words, at, places = text.rpartition("@")
    if not at:
        words, places = text, "*"
    held = [word.strip() for word in words.split("|") if word.strip()]
    rooms = [room.strip() for room in places.split("|") if room.strip()]
    if not held:
        raise ValueError("the list of scopes is empty; name some")
    if not rooms:
        raise ValueError("the list of workspaces after the @ is empty; name some")
    for room in rooms:
        if room != "*" and not is_workspace(room):
            raise ValueError(f"{room!r} is no workspace: one has letters, digits and . _ - only; mend it")
    return Granted(held, rooms, known)


def is_workspace(text: str) -> bool:
    """Return whether a workspace may be called so."""
    return _WORKSPACE.match(text) is not None
