"""The layers that let a request pass or refuse it: Host, Origin, the route, authentication, scopes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from router_core.errors import BadRequest, Forbidden, MethodNotAllowed, Misconfigured
from router_core.middleware.exchange import Answered, Authenticator, Exchange, Gate, Matcher
from router_core.routing.permission import check_permission
from router_core.settings import Settings
from router_core.types import Principal

if TYPE_CHECKING:
    from router_core.security.cors import Cors

__all__ = ["LOCAL", "LOOPBACK_NAMES", "STRANGER", "allowed_hosts", "authenticate_gate", "cors_gate",
           "host_gate", "is_loopback", "match_gate", "origin_gate", "scopes_gate"]  # fmt: skip

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
STRANGER: Final = Principal("anonymous", frozenset(), "anonymous")
"""The caller of a public route where authentication is configured: may do nothing that needs a scope."""
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\*|[^/\s*?#]+)")
_NO_REALMS: Final[Mapping[str, Authenticator]] = {}


def is_loopback(host: str) -> bool:
    """Return whether an address or name can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Return the names that requests may be addressed to; empty means any.

    On a loopback bind only loopback names: a page whose domain was rebound to 127.0.0.1 still names itself.
    """
    if settings.trusted_hosts:
        names = (name.strip().lower() for name in settings.trusted_hosts.split(","))
        return frozenset(name for name in names if name and name != "*")
    if settings.provider in LOCAL and is_loopback(settings.host):
        return LOOPBACK_NAMES | {settings.host.strip("[]")}
    return frozenset()


LOCAL: Final = frozenset({"fastapi", "local"})
"""Names of the provider that serves with a server of our own."""


def host_gate(hosts: frozenset[str]) -> Gate:
    """Refuse requests that name another host. ``.example.com`` in ``hosts`` allows its subdomains."""
    suffixes = tuple(name for name in hosts if name.startswith("."))
    known: set[str] = set(hosts)

    def allowed(value: str) -> bool:
        name = _host_name(value)
        return name in hosts or (bool(suffixes) and name.endswith(suffixes))

    def host(exchange: Exchange) -> None:
        value = exchange.request.headers.get("host")
        if value is not None and value not in known:
            if not allowed(value):
                raise BadRequest("this service does not answer to that Host name", code="unknown_host")
            if len(known) < 64:  # the same few names come with every request
                known.add(value)

    return host


def _host_name(value: str) -> str:
    value = value.strip().lower()
    if value.startswith("["):
        name, _, port = value[1:].partition("]")
        return name if not port or port.startswith(":") else ""
    return value.partition(":")[0]


def cors_gate(cors: Cors, table: Matcher) -> Gate:
    """Answer preflights: a browser asks before it sends what a page wants, and has no credentials for it."""
    from router_core.security.cors import is_preflight

    def preflight(exchange: Exchange) -> None:
        request = exchange.request
        if is_preflight(request):
            raise Answered(cors.preflight(request, _methods(table, request.path)))

    return preflight


def _methods(table: Matcher, path: str) -> str:
    """Return the methods that a path takes; raises NotFound."""
    try:
        table.match("TRACE", path)  # which no route can serve
    except MethodNotAllowed as refusal:
        return refusal.headers["Allow"]
    return "OPTIONS"


def origin_gate(settings: Settings, cors: Cors | None = None) -> Gate:
    """Refuse writes that a page of another site has a browser send, unless CORS lets the page in.

    Browsers put Origin (and Sec-Fetch-Site) on such requests, other clients leave them out.
    """
    public = urlsplit(settings.server_url).netloc.lower() if settings.server_url else ""
    trusted = _origins(settings.trusted_origins)

    def origin(exchange: Exchange) -> None:
        request = exchange.request
        if request.method not in _READS:
            headers = request.headers
            value = headers.get("origin")
            if value is None:
                foreign = headers.get("sec-fetch-site") == "cross-site"
            else:
                foreign = not _same_site(value, headers.get("host", ""), public) and not _in(trusted, value)
            if foreign and not (cors is not None and value is not None and cors.allows(value)):
                raise Forbidden("pages of other sites may not send this request", code="foreign_origin")

    return origin


def _origins(text: str) -> frozenset[str]:
    """Return the origins of a setting. Raises Misconfigured for what no browser would send."""
    found = frozenset(one.strip().lower() for one in text.split(",") if one.strip())
    for origin in found:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise Misconfigured(
                f"ROUTER_TRUSTED_ORIGINS has {origin!r}; an origin is written https://app.example.com, "
                "without a path"
            )
    return found


def _in(trusted: frozenset[str], origin: str) -> bool:
    """Return whether a page is trusted: by its name, as all of its scheme, or as every page."""
    if not trusted:
        return False
    name = origin.strip().lower()
    scheme = name.partition("://")[0]
    return not trusted.isdisjoint((name, f"{scheme}://*", "*"))


def _same_site(origin: str, host: str, public: str) -> bool:
    try:
        named = urlsplit(origin.strip().lower()).netloc
    except ValueError:
        return False
    return bool(named) and named in (host.strip().lower(), public)


def match_gate(table: Matcher) -> Gate:
    """Find the route; raises NotFound or MethodNotAllowed."""
    find = table.match

    def match(exchange: Exchange) -> None:
        if exchange.match is None:
            request = exchange.request
            exchange.match = find(request.method, request.path)

    return match


def authenticate_gate(
    authenticator: Authenticator | None, realms: Mapping[str, Authenticator] = _NO_REALMS
) -> Gate:
    """Find out who is asking, unless the route is open to everybody.

    A route of a realm is opened by the keys of that realm alone, whoever else may be known.
    """

    async def ask(exchange: Exchange, asked: Authenticator) -> None:
        exchange.principal = await asked.authenticate(exchange.request)
        known = recall(exchange.request) if recall is not None and asked is authenticator else None
        exchange.until = 0.0 if known is None else known[1]

    identify = getattr(authenticator, "identify", None)
    recall = getattr(authenticator, "recall", None)

    def authenticate(exchange: Exchange) -> Awaitable[None] | None:
        match = exchange.match
        if match is not None and match.route.realm:
            return ask(exchange, realms[match.route.realm])
        if authenticator is None:
            return None
        if match is not None and match.route.public:
            exchange.principal = STRANGER
            return None
        if identify is not None:  # nothing to wait for
            exchange.principal = identify(exchange.request)
            return None
        if recall is not None:
            known = recall(exchange.request)
            if known is not None:
                exchange.principal, exchange.until = known
                return None
        return ask(exchange, authenticator)

    return authenticate


def scopes_gate() -> Gate:
    """Require what the route asks for; a route that says nothing is open to administrators alone."""

    def scopes(exchange: Exchange) -> None:
        match, principal = exchange.match, exchange.principal
        if match is None or principal is None:
            raise RuntimeError("scopes are judged after matching and authentication")
        check_permission(match.route, principal)

    return scopes
