"""Answers that a service keeps elsewhere, as it cannot send so much: 303, and a read without credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from router_core.client import Retry
from router_core.client.errors import BadAnswer, CannotConnect
from router_core.client.exchange import Exchange
from router_core.client.transport import Call
from router_core.errors import RouterError
from router_core.http.message import Headers

BASE = "https://service.example"
PLACE = "https://blobs.example/b/k?X-Amz-Signature=1"


@dataclass
class Page:
    """One answer."""

    status: int
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    closed: int = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Return the body."""
        yield self.body

    async def aclose(self) -> None:
        """Count."""
        self.closed += 1


class Script:
    """A transport that plays what it was given, and remembers what it was asked."""

    def __init__(self, *answers: Page | RouterError) -> None:
        self.answers = list(answers)
        self.calls: list[Call] = []

    async def send(self, call: Call) -> Page:
        """Play the next answer."""
        self.calls.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, RouterError):
            raise answer
        return answer

    async def aclose(self) -> None:
        """Do nothing."""


async def _no_wait(seconds: float) -> None:
    """Sleep not at all."""


def exchange_of(*answers: Page | RouterError) -> tuple[Exchange, Script]:
    """Return an exchange with a key over such a transport."""
    script = Script(*answers)
    retry = Retry(attempts=3, sleep=_no_wait)
    return Exchange(script, BASE, headers=[("authorization", "Bearer secret")], retry=retry), script


def see_other(place: str = PLACE) -> Page:
    """Return the answer of a service that keeps its result elsewhere."""
    return Page(303, Headers([("location", place)]))


async def test_an_answer_kept_elsewhere_is_read_there() -> None:
    """Of a POST too, by a GET that carries neither key nor body."""
    moved = see_other()
    exchange, script = exchange_of(moved, Page(200, Headers([("content-type", "text/csv")]), b"a,b"))
    call = exchange.call("POST", "/big", headers=[("x-own", "1")], body=b"{}", silence=7.0)
    answer = await exchange.fetch(call, repeatable=False)
    assert (answer.body, answer.content_type) == (b"a,b", "text/csv")
    assert moved.closed
    assert script.calls[1] == Call("GET", PLACE, (), b"", 7.0)


@pytest.mark.parametrize("place", [f"{BASE}/jobs/1/result", "/jobs/1/result"])
async def test_the_key_goes_along_on_the_same_service_only(place: str) -> None:
    """A relative address is one of the service's own."""
    exchange, script = exchange_of(see_other(place), Page(200, body=b"x"))
    await exchange.fetch(exchange.call("POST", "/big"), repeatable=False)
    assert script.calls[1].url == f"{BASE}/jobs/1/result"
    assert script.calls[1].headers == (("authorization", "Bearer secret"),)


async def test_the_read_is_repeated_and_the_call_is_not() -> None:
    """It has been carried out."""
    exchange, script = exchange_of(see_other(), CannotConnect("no"), Page(200, body=b"x"))
    assert (await exchange.fetch(exchange.call("POST", "/big"), repeatable=False)).body == b"x"
    assert [call.method for call in script.calls] == ["POST", "GET", "GET"]


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("end", [CannotConnect("no"), Page(403), Page(303), Page(500)], ids=str)
async def test_a_place_that_gives_nothing_is_a_bad_answer(end: Page | RouterError, repeatable: bool) -> None:
    """Never a reason to send the call again."""
    exchange, script = exchange_of(see_other(), *[end] * 3)
    with pytest.raises(BadAnswer, match="kept elsewhere"):
        await exchange.fetch(exchange.call("POST", "/big"), repeatable=repeatable)
    assert [call.method for call in script.calls].count("POST") == 1


async def test_other_redirects_are_not_followed() -> None:
    """A service that has moved is told to whoever has its address."""
    exchange, _ = exchange_of(Page(308, Headers([("location", PLACE)])))
    with pytest.raises(BadAnswer, match="has moved"):
        await exchange.fetch(exchange.call("POST", "/big"), repeatable=False)
