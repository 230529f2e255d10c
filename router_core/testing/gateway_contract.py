"""What the gateway has to do behind every door: one suite, asked through the door and straight into the core.

Subclass ``GatewayContract`` in your tests, with a fixture ``door`` that serves ``contract_site().app()``:

    class TestMyDoor(GatewayContract):
        @pytest.fixture(scope="module")
        def door(self, site):        # a fixture of yours that yields ``contract_site()``
            app, gateway = site.app()
            with MyAdapter(app) as served:
                yield MyDoor(served, gateway)

The status, the headers that matter and the body have to be those that ``App.handle`` gives, ids and times
aside. ``skip`` says what a door cannot do, and why.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import unquote

import pytest

from router_core.app import App
from router_core.client.portal import Portal
from router_core.errors import PayloadTooLarge
from router_core.gateway.gateway import Gateway
from router_core.http.message import Headers, Request
from router_core.http.problem import problem_response
from router_core.middleware.headers import SECURITY_HEADERS
from router_core.testing.adapter_contract import Answer, Call
from router_core.testing.gateway_contract_cases import (
    CALLER,
    CASES,
    HELLO,
    OPERATOR,
    Case,
    Site,
    contract_site,
)
from router_core.types import new_id

__all__ = [
    "CALLER",
    "CASES",
    "LEAVING",
    "OPERATOR",
    "PIECES",
    "READER",
    "Answer",
    "Call",
    "Case",
    "Door",
    "GatewayContract",
    "Site",
    "contract_site",
    "plain",
    "straight",
    "until",
]

PIECES: Final = "a stream comes piece by piece"
READER: Final = "a reader of a stream that leaves"
LEAVING: Final = "a caller that leaves while it waits"
"""What ``skip`` calls the tests that are no cases."""


class Door(Protocol):
    """A way into a gateway that is served; its methods block."""

    gateway: Gateway

    def call(self, call: Call) -> Answer:
        """Send a request and read the whole answer."""

    def open(self, call: Call) -> AbstractContextManager[Iterator[bytes]]:
        """Send a request and read the answer as it comes; at the end of the block its caller leaves."""

    def leave(self, call: Call, when: Callable[[], None]) -> None:
        """Send a request and go away, unanswered, as soon as ``when`` returns."""


_VOLATILE: Final = re.compile(
    rb"(?<=cmpl-)[\w-]+|(?<=resp_)\w+|(?<=msg_)\w+|(?<=call_)\w+|[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    rb"|\d{4}-\d\d-\d\dT[0-9:.]+Z|(?<=\"created\":)\d+|(?<=\"created_at\":)\d+|(?<=\"latency\":)\d+"
    rb"|(?<=\"last_activity\":)\w+|(?<=_time\":)\w+|(?<=\"auto_sleep_in\":)\w+"
)
_EQUAL: Final = (
    "content-type", "allow", "retry-after", "www-authenticate", "cache-control", "x-accel-buffering",
    "x-content-type-options", "x-router-model", "x-router-deployment", "x-router-attempts",
    "x-router-decision", "x-router-fallback-from", "x-router-rule", "x-router-endpoint",
)  # fmt: skip
_ENOUGH: Final = 20.0


class GatewayContract:
    """The suite; see the module."""

    skip: ClassVar[Mapping[str, str]] = {}
    """Case, ``PIECES``, ``READER`` or ``LEAVING`` -> why this door cannot do it."""

    @pytest.fixture(scope="class")
    @classmethod
    def wanted(cls, site: Site) -> Iterator[Callable[[str], Answer]]:
        """Return what answers a case straight from the core."""
        app, _ = site.app()
        portal = Portal()
        portal.run(app.start())
        known: dict[str, Answer] = {}

        def answer(name: str) -> Answer:
            if name not in known:
                known[name] = portal.run(straight(app, CASES[name].call))
            return known[name]

        yield answer
        portal.run(app.stop(0))
        portal.close()

    @pytest.mark.parametrize("name", list(CASES))
    def test_the_door_answers_like_the_core(
        self, door: Door, wanted: Callable[[str], Answer], name: str
    ) -> None:
        """Status, headers that matter and body are those of ``App.handle``, and what they have to be."""
        self._or_skip(name)
        case, expected = CASES[name], wanted(name)
        got = door.call(case.call)
        assert got.status == expected.status == case.status, got.body[:2000]
        self.check_equal(case, got, expected)
        for text in case.has:
            assert text in got.body.decode()

    def check_equal(self, case: Case, got: Answer, expected: Answer) -> None:
        """Compare headers and bodies; a door that has none, or writes them otherwise, does it otherwise."""
        for header in _EQUAL:
            assert got.all(header) == expected.all(header), header
        head = "\n".join(f"{key}: {value}" for key, value in got.headers)
        for text in case.headers:
            assert text in head
        if case.call.method != "HEAD":
            assert plain(got.body) == plain(expected.body)
        if got.status >= 400 and b'"error":' in expected.body:
            check_error(got.body)

    def test_a_stream_comes_piece_by_piece(self, door: Door) -> None:
        """The first content is there while the upstream is still speaking."""
        self._or_skip(PIECES)
        with door.open(_ask("slow", stream=True)) as pieces:
            assert b"data: " in next(pieces)
            assert in_flight(door) == 1
        until(lambda: in_flight(door) == 0)

    def test_a_reader_that_leaves_ends_the_stream(self, door: Door) -> None:
        """At the upstream too; what was used until then is booked."""
        self._or_skip(READER)
        with door.open(_ask("slow", stream=True)) as pieces:
            next(pieces)
        until(lambda: in_flight(door) == 0)
        record = door.gateway.ledger.recent(1)[0]
        assert (record.outcome, record.deployment, record.stream) == ("cancelled", "slow", True)
        assert record.output_tokens > 0
        assert record.estimated

    def test_a_caller_that_leaves_ends_its_call(self, door: Door) -> None:
        """While it waits for the first byte."""
        self._or_skip(LEAVING)
        door.leave(_ask("waits"), lambda: until(lambda: in_flight(door) == 1))
        until(lambda: in_flight(door) == 0)
        until(lambda: door.gateway.ledger.recent(1)[0].deployment == "waits")
        assert door.gateway.ledger.recent(1)[0].outcome == "cancelled"

    def test_every_skip_is_a_case_with_a_reason(self) -> None:
        """A case that was renamed is not left out silently."""
        assert set(self.skip) <= {*CASES, PIECES, READER, LEAVING}
        assert all(self.skip.values())

    def _or_skip(self, name: str) -> None:
        if name in self.skip:
            pytest.skip(self.skip[name])


def check_error(body: bytes) -> None:
    """Assert that an error is one of OpenAI's."""
    error: Mapping[str, Any] = json.loads(body)["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]


def in_flight(door: Door) -> int:
    """Return the calls that are counted as under way."""
    return sum(standing.inflight for standing in door.gateway.standings)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread."""
    end = time.monotonic() + _ENOUGH
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


async def straight(app: App, call: Call) -> Answer:
    """Answer a request by ``App.handle``."""
    headers = Headers([("host", "localhost"), *call.headers])
    request = Request(call.method, unquote(call.path), call.query, headers, call.body)
    if len(call.body) > app.settings.max_body_bytes:  # for adapters to see to
        error = PayloadTooLarge(f"the request body may have {app.settings.max_body_bytes} bytes")
        response = problem_response(error, request_id=new_id()).with_headers(*SECURITY_HEADERS)
    else:
        response = await app.handle(request)
    body = response.body
    if not isinstance(body, bytes):
        body = b"".join([chunk async for chunk in body])
    return Answer(response.status, tuple((key.lower(), value) for key, value in response.headers), body)


def plain(body: bytes) -> bytes:
    """Return a body without what differs from one call to the next: ids and times."""
    return _VOLATILE.sub(b"0", body)


def _ask(model: str, **more: Any) -> Call:
    body = json.dumps({"model": model, "messages": HELLO, **more}).encode()
    headers = (("authorization", f"Bearer {OPERATOR}"), ("content-type", "application/json"))
    return Call("POST", "/v1/chat/completions", headers=headers, body=body)
