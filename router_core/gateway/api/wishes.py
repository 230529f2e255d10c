"""What a caller may say about a call beside its body: the ``x-router-*`` headers.

x-router-tags: fast, eu          deployments that bear all of these tags
x-router-region: eu-west-3       deployments of that region
x-router-compliance: gdpr        deployments that satisfy all of these
x-router-max-cost: 0.05          dollars that the call may cost, by estimate
x-router-timeout: 30             seconds for the call with all its attempts
x-router-session: chat-7         keeps calls of one session together (strategy ``sticky``, splits of rules)
x-router-agent-type, x-router-request-type, x-router-workspace, x-router-user-tier: what rules look at; the
tier of a caller whose key or token has one is that one
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from router_core.gateway.call import Attributes, Call
from router_core.gateway.json import invalid
from router_core.http.head import LazyHeaders
from router_core.http.message import Headers

__all__ = ["PASSED_ON", "no_wishes", "read_wishes", "says_more"]

PASSED_ON: Final = ("idempotency-key", "openai-beta", "traceparent")
"""Headers that go to the upstream as they came."""
_PASSED_ON: Final = frozenset(name.encode() for name in PASSED_ON)
_COMMON: Final = frozenset({
    b"accept", b"accept-encoding", b"accept-language", b"authorization", b"connection", b"content-length",
    b"content-type", b"host", b"user-agent", b"x-request-id",
    *(b"x-stainless-" + name for name in (
        b"arch", b"async", b"helper-method", b"lang", b"os", b"package-version", b"raw-response",
        b"read-timeout", b"retry-count", b"runtime", b"runtime-version", b"timeout",
    )),
})  # fmt: skip

_PREFIX: Final = b"x-router-"
_MAX_SECONDS: Final = 3600.0
_MAX_DOLLARS: Final = 1_000_000


def says_more(headers: Headers) -> bool:
    """Return whether there is any such header, or one that is passed on; most calls have none."""
    if type(headers) is LazyHeaders:
        if headers.within(_COMMON):
            return False
        raw = headers.raw
    else:
        return any(
            name.lower().startswith("x-router-") or name.lower() in PASSED_ON
            for name, _ in headers.items_list()
        )
    for name, _ in raw:
        if name in _COMMON:
            continue
        if name.startswith(_PREFIX) or name in _PASSED_ON:
            return True
    return False


def read_wishes(headers: Headers, call: Call) -> None:
    """Fill a call with what its headers ask for. Raises BadRequest, naming the header."""
    call.tags = _words(headers, "x-router-tags")
    call.region = headers.get("x-router-region", "").strip()
    call.compliance = _words(headers, "x-router-compliance")
    cost = headers.get("x-router-max-cost")
    if cost is not None:
        call.max_cost = _dollars(cost)
    seconds = headers.get("x-router-timeout")
    if seconds is not None:
        call.deadline = call.started + _seconds(seconds)
    session = headers.get("x-router-session")
    if session:
        call.sticky = session
    call.attributes = _attributes(
        call, headers.get("x-router-agent-type", ""), headers.get("x-router-request-type", ""),
        headers.get("x-router-workspace", ""), headers.get("x-router-user-tier", ""),
    )  # fmt: skip


def no_wishes(call: Call) -> None:
    """Fill a call whose headers say nothing with what rules look at beside them."""
    call.attributes = _attributes(call)


def _attributes(
    call: Call, agent_type: str = "", request_type: str = "", workspace: str = "", tier: str = ""
) -> Attributes:
    return Attributes(
        agent_type,
        request_type or _REQUEST_TYPES.get(call.endpoint, ""),
        workspace,
        # callers that nobody knows are no one user: shares of rules would all be drawn for them at once
        "" if call.principal.kind == "anonymous" else call.principal.id,
        call.principal.tier or tier,
        len(call.body),
        call.tags,
    )


_REQUEST_TYPES: Final[Mapping[str, str]] = {
    "chat/completions": "chat", "responses": "chat", "completions": "completion", "embeddings": "embedding",
    "rerank": "rerank", "audio/transcriptions": "transcription", "images/generations": "image",
}  # fmt: skip


def _words(headers: Headers, name: str) -> frozenset[str]:
    value = headers.get(name)
    if not value:
        return frozenset()
    return frozenset(word for word in (part.strip() for part in value.split(",")) if word)


def _dollars(text: str) -> int:
    """Return micro-dollars."""
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise invalid("x-router-max-cost has to be a number of dollars", "x-router-max-cost") from None
    if not value.is_finite() or not 0 <= value <= _MAX_DOLLARS:
        raise invalid(f"x-router-max-cost has to be between 0 and {_MAX_DOLLARS}", "x-router-max-cost")
    return int(value * 1_000_000)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MAX_SECONDS:
        raise invalid(f"x-router-timeout has to be up to {_MAX_SECONDS:g} seconds", "x-router-timeout")
    return value
