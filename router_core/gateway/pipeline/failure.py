"""What a caller is told when no upstream had an answer."""

from __future__ import annotations

from typing import Any, Final

from router_core.errors import (
    BadRequest,
    HTTPError,
    RateLimited,
    RouterError,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from router_core.gateway.call import Call
from router_core.gateway.outcome import Kind, Outcome

__all__ = ["explained", "failed", "nobody", "printed", "unserved"]

_RETRY_AFTER: Final = 1.0
"""Seconds, where nothing better is known."""


def failed(call: Call, outcome: Outcome) -> RouterError:
    """Return the error for a call whose last attempt ended so."""
    kind, said = outcome.kind, outcome.message
    extra = {"attempts": len(call.attempts), "outcome": kind, "upstream_status": outcome.status or None}
    if kind == "rate_limited":
        return RateLimited(
            said or "every deployment of this model is rate limited",
            retry_after=outcome.cooldown or _RETRY_AFTER, extra=extra,
        )  # fmt: skip
    if kind in ("overloaded", "connect"):
        text = said or "no deployment of this model can be reached"
        return Unavailable(text, retry_after=outcome.cooldown or _RETRY_AFTER, extra=extra)
    if kind == "timeout":
        return UpstreamTimeout(said or "no deployment of this model answered in time", extra=extra)
    if kind == "context_window":
        text = said or "the request does not fit into the context of this model"
        return BadRequest(text, code="context_length_exceeded", extra=extra)
    if kind == "content_policy":
        text = said or "the content filter of this model refused the request"
        return BadRequest(text, code="content_policy_violation", extra=extra)
    if kind == "auth":
        return UpstreamError(
            "the upstream refused the credentials of this gateway", code="upstream_auth", extra=extra
        )
    return UpstreamError(said or "the upstream failed", extra=extra)


def unserved(error: RouterError) -> Outcome:
    """Return what became of a call that was answered with this error before any deployment was asked."""
    kind: Kind = "overloaded"
    if error.code == "context_length_exceeded":
        kind = "context_window"
    elif error.status == 429:
        kind = "rate_limited"
    elif error.status < 500:
        kind = "not_found" if error.status == 404 else "client_error"
    return Outcome(kind, "stop", status=error.status, message=error.detail)


def printed(name: str) -> str:
    """Return a name as a header can hold it, which takes no letters beyond ASCII."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(each if each.isascii() and each.isprintable() else "_" for each in name)


def explained(error: RouterError, call: Call) -> RouterError:
    """Add the headers that explain the decision, as answers have them."""
    error.headers["x-router-attempts"] = str(len(call.attempts))
    if call.decision is not None:
        error.headers["x-router-decision"] = call.decision.header()
    if call.rule:
        error.headers["x-router-rule"] = printed(call.rule)
    if call.trial:
        error.headers["x-router-trial"] = call.trial
    return error


def nobody(
    call: Call, by_rule: bool = False, *, wait: float = 0.0, limited: bool = False
) -> RouterError:  # fmt: skip
    """Return the error for a call that no deployment could be asked about.

    ``wait`` is after how many seconds one can be again, as far as that is known, and ``limited`` says that
    all that could serve it are left alone because they are rate limited.
    """
    decision: Any = call.decision
    if decision is None:
        text = "no model that the rules name can serve this call" if by_rule else (
            "no rule matches this call and there is no default model"
        )  # fmt: skip
        return HTTPError(422, text, code="no_model")
    reasons = {reason for _, reason in decision.removed}
    explained = {"decision": decision.explain()}
    if decision.passing and limited:
        return RateLimited(
            "every deployment of this model is rate limited", retry_after=max(_RETRY_AFTER, wait),
            extra=explained,
        )  # fmt: skip
    if decision.passing:
        return Unavailable(
            "no deployment of this model can be asked at the moment", retry_after=max(_RETRY_AFTER, wait),
            code="no_deployment_available", extra=explained,
        )  # fmt: skip
    if reasons == {"context_window"}:
        return BadRequest(
            "the request does not fit into the context of this model", code="context_length_exceeded",
            extra=explained,
        )  # fmt: skip
    return HTTPError(
        422, "no deployment of this model can serve this call", code="no_deployment_fits", extra=explained
    )
