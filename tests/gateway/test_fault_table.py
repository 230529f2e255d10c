"""The fault table: each way in which an upstream can fail, over real sockets, and what callers get to see.

Every fault is met twice: with a second deployment behind it, whose answer is what the caller gets, and alone,
where the error says what has happened. Nothing stays in flight, and what was held is let go.
"""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trustme

from router_core.testing.upstream import UNRESOLVABLE, Upstream, closed_port
from router_core.testing.upstream_faults import (
    Behaviour,
    cut_chunked,
    cut_in_body,
    early_answer,
    endless_line,
    error_in_stream,
    garbage_sse,
    gzip_bomb,
    hang,
    junk_after,
    ok,
    raw,
    reset_after_first_byte,
    reset_before,
    reset_in_stream,
    slow_head,
    stall_in_stream,
    status,
    trickle,
)
from router_core.testing.upstream_openai import openai_chat, openai_stream
from tests.gateway.serving import House, Reply, chat, house, models_yaml, text_of

PATIENT = "timeouts: {connect: 30, first_byte: 30, idle: 30}"
QUICK = "timeouts: {connect: 30, first_byte: 0.2, idle: 0.2, total: 0.6}"
STALLS = "timeouts: {connect: 30, first_byte: 30, idle: 0.2}"
HURRY = {
    "hang": QUICK, "slow head": QUICK, "trickle": QUICK, "hang after the head": QUICK,
    "nothing but comments": QUICK, "stall": STALLS,
}  # fmt: skip
"""For faults that are found by the clock. Whoever answers at all gets the time for it."""
GOOD = "Hello!"
CHUNKED = {"content-type": "application/json", "transfer-encoding": "chunked"}
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
PAGE = {"content-type": "text/html"}


@asynccontextmanager
async def serving(
    *behaviours: Behaviour, fault: str = "", model: str = ""
) -> AsyncIterator[tuple[House, list[Upstream]]]:
    """Yield a gateway in front of one upstream for each behaviour, asked in this order; the first one has
    the fault."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(each)) for each in behaviours]
        text = models_yaml(*[each.url for each in upstreams], args=PATIENT, model=model)
        text = text.replace(PATIENT, HURRY.get(fault, PATIENT), 1)
        made = await stack.enter_async_context(house(text))
        yield made, upstreams


async def ask(made: House, stream: bool) -> Reply:
    """Send one chat and check that nothing of it is left afterwards."""
    reply = await made.ask("/v1/chat/completions", chat(stream=stream))
    assert made.in_flight() == 0
    return reply


def said(reply: Reply, stream: bool) -> str:
    """Return the text of an answer, streamed or whole."""
    if not stream:
        return text_of(reply)
    events = reply.events()
    assert events[-1] == "[DONE]"
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in events[:-1])


WHOLE: dict[str, tuple[Callable[[], Behaviour], int, str]] = {
    # fault: behaviour, status without anybody else, kind of the outcome
    "hang": (hang, 504, "timeout"),
    "reset before the first byte": (reset_before, 502, "unclear"),
    "reset after the first byte": (reset_after_first_byte, 502, "unclear"),
    "cut in the body": (cut_in_body, 502, "unclear"),
    "cut in a chunked body": (lambda: cut_chunked(headers=CHUNKED), 502, "unclear"),
    "slow head": (slow_head, 504, "timeout"),
    "not HTTP": (lambda: raw(b"SSH-2.0-OpenSSH_9.2\r\n"), 502, "malformed"),
    "two lengths": (
        lambda: raw(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
        502, "malformed",
    ),
    "redirect": (lambda: ok(b"", code=302, headers={"location": "http://127.0.0.1:1/"}), 502, "malformed"),
    "gzip bomb": (lambda: gzip_bomb(size=4 * 1024**3), 502, "malformed"),
    "a page": (lambda: ok(b"<html>down for maintenance</html>", headers=PAGE), 502, "malformed"),
    "half an answer": (lambda: ok(b'{"id":"chatcmpl-1","choi'), 502, "malformed"),
    "trickle": (trickle, 504, "timeout"),
    "500": (lambda: status(500), 502, "server_error"),
    "502": (lambda: status(502), 502, "unclear"),
    "503": (lambda: status(503), 503, "overloaded"),
    "504": (lambda: status(504), 502, "unclear"),
    "529": (lambda: status(529), 503, "overloaded"),
    "429": (lambda: status(429, retry_after="2"), 429, "rate_limited"),
    "key refused": (lambda: status(401, message="bad key"), 502, "auth"),
    "model not there": (lambda: status(404, name="model_not_found"), 502, "not_found"),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", WHOLE)
async def test_another_deployment_answers(fault: str, stream: bool) -> None:
    """The caller never learns of it, but for the headers."""
    behaviour = WHOLE[fault][0]()
    good = openai_stream() if stream else openai_chat()
    async with serving(behaviour, good, fault=fault) as (made, upstreams):
        reply = await ask(made, stream)
        assert reply.status == 200, reply.body
        assert said(reply, stream) == GOOD
        assert reply.headers["x-router-deployment"] == "d2"
        assert reply.headers["x-router-attempts"] == "2"
        assert [len(each.requests) for each in upstreams] == [1, 1]


@pytest.mark.parametrize("fault", WHOLE)
async def test_alone_the_error_says_what_happened(fault: str) -> None:
    """As a problem that OpenAI's clients understand; what the upstream was asked is bounded."""
    make, code, kind = WHOLE[fault]
    async with serving(make(), fault=fault, model="retry: {max_attempts: 1}") as (made, upstreams):
        reply = await ask(made, False)
        assert reply.status == code, reply.body
        problem = reply.json()
        assert problem["outcome"] == kind
        assert problem["error"]["message"] == problem["detail"]
        assert len(upstreams[0].requests) == 1
        if code in (429, 503):
            assert float(reply.headers["retry-after"]) > 0


BEFORE_CONTENT: dict[str, Callable[[], Behaviour]] = {
    "garbage instead of events": garbage_sse,
    "error event first": error_in_stream,
    "empty stream": lambda: ok(b"", headers={"content-type": "text/event-stream"}),
    "nothing but DONE": lambda: ok(b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"}),
    "a page": lambda: ok(b"<html>down for maintenance</html>", headers=PAGE),
    "hang after the head": lambda: stall_in_stream(0),
    "reset after the head": lambda: reset_in_stream(0),
    "cut after the head": lambda: cut_chunked(0),
    "nothing but comments": lambda: raw(EVENTS, *[b": ping\n\n"] * 1000, pause=0.02),
    "256 MB without a newline": endless_line,
    "gzip bomb": lambda: gzip_bomb(size=4 * 1024**3, content_type="text/event-stream"),
}


@pytest.mark.parametrize("fault", BEFORE_CONTENT)
async def test_a_stream_fails_over_before_its_first_content(fault: str) -> None:
    """Not a byte of the first upstream reaches the caller, and memory stays where it was."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serving(BEFORE_CONTENT[fault](), openai_stream(), fault=fault) as (made, _):
        reply = await ask(made, True)
        assert reply.status == 200, reply.body
        assert said(reply, True) == GOOD
        assert reply.headers["x-router-deployment"] == "d2"
        assert made.standing("d1").failed == 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, f"{grown} KiB"


AFTER_CONTENT: dict[str, Callable[[], Behaviour]] = {
    "stall": lambda: stall_in_stream(2),
    "reset": lambda: reset_in_stream(2),
    "cut": lambda: cut_chunked(2),
    "error event": lambda: error_in_stream(2),
}


@pytest.mark.parametrize("fault", AFTER_CONTENT)
async def test_a_stream_that_breaks_off_says_so(fault: str) -> None:
    """After the first content nobody else can take over: an error event, and no ``[DONE]``."""
    async with serving(AFTER_CONTENT[fault](), openai_stream(), fault=fault) as (made, upstreams):
        reply = await ask(made, True)
        events = reply.events()
        assert reply.status == 200
        assert "[DONE]" not in events
        assert "error" in events[-1]
        assert len(upstreams[1].requests) == 0
        assert made.standing("d1").failed == 1
        record = made.gateway.ledger.recent(1)[0]
        assert record.estimated
        assert record.output_tokens > 0


async def test_a_closed_port_and_a_name_that_nobody_knows() -> None:
    """Refused and unresolvable: the next one answers; alone it is 503."""
    with closed_port() as port:
        for url in (f"http://127.0.0.1:{port}", f"http://{UNRESOLVABLE}"):
            async with Upstream(openai_chat()) as good:
                async with house(models_yaml(url, good.url, args=PATIENT)) as made:
                    reply = await ask(made, False)
                    assert (reply.status, reply.headers["x-router-deployment"]) == (200, "d2")
            async with house(models_yaml(url, args=PATIENT)) as made:
                reply = await ask(made, False)
                assert reply.status == 503
                assert reply.json()["outcome"] == "connect"


async def test_bad_certificates_are_never_accepted(tmp_path: Path) -> None:
    """Expired and for another host: no request is sent, the next deployment answers."""
    from datetime import UTC, datetime, timedelta

    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    past = datetime.now(UTC) - timedelta(days=1)
    bad = {
        "expired": authority.issue_cert("127.0.0.1", not_after=past),
        "wrong host": authority.issue_cert("elsewhere.example"),
        "unknown authority": trustme.CA().issue_cert("127.0.0.1"),
    }
    for name, issued in bad.items():
        pem = tmp_path / f"{name}.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
        async with Upstream(openai_chat(), certificate=str(pem)) as upstream, Upstream(openai_chat()) as good:
            text = models_yaml(upstream.url, good.url, args=f"ca_file: '{ca}', {PATIENT}")
            async with house(text) as made:
                reply = await ask(made, False)
                assert (reply.status, reply.headers["x-router-deployment"]) == (200, "d2"), name
                assert upstream.requests == []


async def test_a_good_certificate_of_a_private_authority_is_accepted(tmp_path: Path) -> None:
    """The test above fails for the right reason."""
    authority = trustme.CA()
    ca, pem = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    async with Upstream(openai_chat(), certificate=str(pem)) as upstream:
        async with house(models_yaml(upstream.url, args=f"ca_file: '{ca}', {PATIENT}")) as made:
            assert (await ask(made, False)).headers["x-router-deployment"] == "d1"


async def test_early_answers_and_junk_do_not_reach_the_next_call() -> None:
    """Whatever lies on a connection after an answer belongs to nobody."""
    for behaviour in (junk_after(), early_answer(413)):
        async with serving(behaviour) as (made, upstreams):
            first = await ask(made, False)
            upstreams[0].script = openai_chat("mine")
            second = await ask(made, False)
            assert text_of(second) == "mine"
            assert first.status in (200, 400), first.body
