"""The one judgement of what an attempt came to. Retries, circuits and accounting all read it.

=====================  ==================  =======  ========  ======  ====================================
what came              kind                move     against   safe    cooldown; remarks
                                                    it
=====================  ==================  =======  ========  ======  ====================================
2xx                    ok                  done     no        yes
2xx, an error inside                                                  as its content says, else as 500
2xx, empty, HTML, cut  malformed           retry    yes       yes     not what a model answers
1xx, 3xx               malformed           retry    yes       yes
400 413 422, context   context_window      context  no        yes     413 always: too large for this one
4xx, content policy    content_policy      policy   no        yes
401                    auth                retry    yes       yes     30 s; OUR key is bad there: to the
                                                                      caller a 401 would mean his own
402                    auth                retry    yes       yes     60 s
403                    auth                retry    yes       yes     30 s; as HTML or empty neither: a
                                                                      firewall dislikes this one request
404                    not_found           retry    yes       yes     10 s when the model is missing
404 of a caller's id   client_error        stop     no        yes     an earlier response, a file
408                    timeout             retry    yes       yes     it had waited for our request
409                    client_error        retry    no        yes
425                    rate_limited        retry    no        yes     Retry-After
429                    rate_limited        retry    no        yes     Retry-After, else 1 s; unpaid: 60 s
other 4xx              client_error        stop     no        yes
500, other 5xx         server_error        retry    yes       yes     it knows that it has failed
501                    server_error        retry    no        yes
502 504 520 524        unclear             retry    yes       no      a proxy that does not know
503 529                overloaded          retry    yes       yes     Retry-After
521-523 525 526        connect             retry    yes       yes     a proxy that did not reach it
refused, unreachable   connect             retry    yes       yes
dns, tls, reset        connect             retry    yes       yes     before anything was sent
busy                   overloaded          retry    no        yes     no connection of ours was free
timeout                timeout             retry    yes       unsent  by ``UpstreamFailure.sent``
timeout (total)        timeout             retry    no        unsent  the call had no more time, and how much
                                                                      it has is for the caller to say
reset, sent or begun   unclear             retry    yes       no
malformed              malformed           retry    yes       yes
too_large              malformed           retry    yes       no      it has done the work
=====================  ==================  =======  ========  ======  ====================================

Only errors cost anything: an answer of 200 is judged by its first bytes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from router_core.gateway.outcome import OK, Kind, Move, Outcome
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.resilience.error_body import ErrorBody, read_error, said_status
from router_core.gateway.resilience.retry_after import cooldown_of, retry_after
from router_core.gateway.resilience.wording import (
    CONTEXT_CODES,
    CONTEXT_WORDS,
    POLICY_CODES,
    POLICY_WORDS,
    QUOTA_CODES,
    WORDLESS,
)

__all__ = ["MAX_COOLDOWN", "classify", "classify_error", "classify_failure", "retry_after"]

MAX_COOLDOWN: Final = 60.0
"""Seconds, where a policy says nothing else."""

_PEEK: Final = 256
"""Bytes of an answer of 200 in which the word "error" is looked for before anything is parsed."""
_NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the table."""

    kind: Kind
    move: Move = "retry"
    failure: bool = True
    safe: bool = True
    cooldown: float = 0.0
    """Where the answer does not ask for one."""
    asked: bool = False
    """Whether the answer may ask for one (Retry-After and its kin)."""


_CLIENT_ERROR: Final = _Row("client_error", "stop", failure=False)
_SERVER_ERROR: Final = _Row("server_error")
_MALFORMED: Final = _Row("malformed")
_CONTEXT: Final = _Row("context_window", "context", failure=False)
_POLICY: Final = _Row("content_policy", "policy", failure=False)
_UNPAID: Final = _Row("rate_limited", failure=False, cooldown=MAX_COOLDOWN, asked=True)
_FIREWALL: Final = _Row("auth", failure=False)
_NO_MODEL: Final = _Row("not_found", cooldown=10.0)
_UNCLEAR: Final = _Row("unclear", safe=False)
_UNREACHED: Final = _Row("connect")

_BY_STATUS: Final[Mapping[int, _Row]] = {
    401: _Row("auth", cooldown=30.0),
    402: _Row("auth", cooldown=MAX_COOLDOWN),
    403: _Row("auth", cooldown=30.0),
    404: _Row("not_found"),
    408: _Row("timeout"),
    409: _Row("client_error", failure=False),
    413: _CONTEXT,
    425: _Row("rate_limited", failure=False, asked=True),
    429: _Row("rate_limited", failure=False, cooldown=1.0, asked=True),
    501: _Row("server_error", failure=False),
    502: _UNCLEAR,
    503: _Row("overloaded", asked=True),
    504: _UNCLEAR,
    520: _UNCLEAR,
    521: _UNREACHED,
    522: _UNREACHED,
    523: _UNREACHED,
    524: _UNCLEAR,
    525: _UNREACHED,
    526: _UNREACHED,
    529: _Row("overloaded", asked=True),
}


class _Top(msgspec.Struct):
    """The members of an answer of 200 that decide whether it is an error."""

    error: msgspec.Raw = msgspec.Raw(b"")
    object: msgspec.Raw = msgspec.Raw(b"")
    type: msgspec.Raw = msgspec.Raw(b"")


def classify(reply: Reply, *, max_cooldown: float = MAX_COOLDOWN, now_epoch: float | None = None) -> Outcome:
    """Judge an answer. A stream is ``OK`` here: ``streams.gate.hold`` judges what comes in it."""
    if 200 <= reply.status < 300:
        body = reply.body
        if body is None:
            return OK
        if body[:1] == b"{" and body[-1:] == b"}" and body.find(b'"error"', 0, _PEEK) < 0:
            return OK
        return _odd(reply, body, max_cooldown, now_epoch)
    return _judge(reply.status, read_error(reply.body), reply.headers, max_cooldown, now_epoch)


def classify_error(
    body: bytes, headers: Mapping[str, str] = _NO_HEADERS, *, max_cooldown: float = MAX_COOLDOWN,
    now_epoch: float | None = None,
) -> Outcome:  # fmt: skip
    """Judge an error object that came with a status of 200, by the status that it stands for."""
    error = read_error(body) or ErrorBody()
    return _judge(said_status(error), error, headers, max_cooldown, now_epoch)


def classify_failure(error: UpstreamFailure, *, own_limit: bool = False) -> Outcome:
    """Judge an attempt that brought no usable answer.

    ``own_limit``: the total time that ran out was the deployment's own, not what was left of the call's. Only
    then it speaks against the deployment: else callers in a hurry could open the circuits of everybody.
    """
    unclear = error.sent or error.started
    message = f"the upstream could not be used: {error.kind} ({error.phase})"
    match error.kind:
        case "timeout":
            against = own_limit or error.phase != "total"
            return Outcome(
                "timeout", "retry", failure=against, safe=not unclear, message=message, reached=unclear
            )
        case "busy":  # by calls of ours: it may be as well as ever
            return Outcome("overloaded", "retry", failure=False, message=message, reached=False)
        case "reset":
            kind: Kind = "unclear" if unclear else "connect"
            return Outcome(kind, "retry", failure=True, safe=not unclear, message=message, reached=unclear)
        case "malformed":
            return Outcome("malformed", "retry", failure=True, message=message)
        case "too_large":
            return Outcome("malformed", "retry", failure=True, safe=False, message=message)
        case _:
            return Outcome(
                "connect", "retry", failure=True, safe=not error.started, message=message, reached=unclear
            )


def _odd(reply: Reply, body: bytes, max_cooldown: float, now_epoch: float | None) -> Outcome:
    """Judge an answer of 2xx that does not look like one: an error, a page of HTML, nothing, or yet fine."""
    start = body[:_PEEK].lstrip()[:16].lower()
    if not start:
        return _outcome(_MALFORMED, reply.status, "the upstream sent an empty answer")
    if start[:1] == b"<" and (reply.content_type == "text/html" or start.startswith((b"<!", b"<html"))):
        return _outcome(_MALFORMED, reply.status, "the upstream sent a page of HTML")
    if start[:1] != b"{" and reply.content_type != "application/json":
        return OK  # a transcript is text
    try:
        top = msgspec.json.decode(body, type=_Top)
    except msgspec.ValidationError:
        return OK  # JSON, though not an object
    except (msgspec.DecodeError, RecursionError):
        return _outcome(_MALFORMED, reply.status, "the upstream sent broken JSON")
    if _is_error(top):
        return classify_error(body, reply.headers, max_cooldown=max_cooldown, now_epoch=now_epoch)
    return OK


def _is_error(top: _Top) -> bool:
    """Return whether an answer is an error as a whole; good ones may have an ``error`` that is null."""
    if bytes(top.error) not in (b"", b"null", b"{}", b'""', b"false"):
        return True
    return bytes(top.object) == b'"error"' or bytes(top.type) == b'"error"'


def _judge(
    status: int, error: ErrorBody | None, headers: Mapping[str, str], max_cooldown: float,
    now_epoch: float | None,
) -> Outcome:  # fmt: skip
    row = _row(status, error)
    cooldown = row.cooldown
    if row.asked:
        asked = cooldown_of(headers, time.time() if now_epoch is None else now_epoch)
        cooldown = cooldown if asked is None else asked
    word = error.word if error is not None else ""
    message = f"the upstream answered {status} ({word})" if word else f"the upstream answered {status}"
    if row.kind == "auth":
        message = f"the upstream refused the credentials of this gateway ({status})"
    return _outcome(row, status, message, min(cooldown, max_cooldown))


def _outcome(row: _Row, status: int, message: str, cooldown: float = 0.0) -> Outcome:
    return Outcome(row.kind, row.move, row.failure, row.safe, cooldown, status, message)


def _row(status: int, error: ErrorBody | None) -> _Row:
    """Find the line of the table for an error."""
    if not 400 <= status <= 599:
        return _MALFORMED
    if status >= 500:
        return _BY_STATUS.get(status, _SERVER_ERROR)
    special = _by_content(status, error or ErrorBody())
    if special is not None:
        return special
    return _BY_STATUS.get(status, _CLIENT_ERROR)


def _by_content(status: int, error: ErrorBody) -> _Row | None:
    """Return the line that the content of a 4xx asks for, where its status alone would mislead."""
    codes, text = error.codes, error.text
    if status == 429:
        return _UNPAID if any(code in QUOTA_CODES for code in codes) else None
    if any(code in POLICY_CODES for code in codes) or any(words in text for words in POLICY_WORDS):
        return _POLICY
    if status in (400, 413, 422) and (
        any(code in CONTEXT_CODES for code in codes) or any(words in text for words in CONTEXT_WORDS)
    ):
        return _CONTEXT
    if status == 403 and (not error.text or not error.structured or error.text.startswith(WORDLESS)):
        return _FIREWALL
    if status == 404 and error.structured:
        return _not_found(error)
    return None


def _not_found(error: ErrorBody) -> _Row | None:
    """Tell a model that is missing there from something that the caller named."""
    if "model" in error.text or "deployment" in error.text or any("model" in code for code in error.codes):
        return _NO_MODEL
    if error.param not in ("", "model") or "previous_response" in "".join(error.codes):
        return _CLIENT_ERROR
    if " with id " in error.text or "no such " in error.text:
        return _CLIENT_ERROR
    return None
