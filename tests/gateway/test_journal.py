"""The line of the log that each call gets."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from router_core import Settings
from router_core.gateway.accounting.journal import Journal, ModelCall
from router_core.gateway.call import Attempt, Call, Usage
from router_core.gateway.outcome import OK, Outcome
from router_core.telemetry.events import Events
from router_core.telemetry.lines import json_line, to_fields
from router_core.telemetry.logging import Log, level_of
from tests.gateway.serving import House, chat, house

_TWO = """
models:
  - id: m
    type: text-generation
    strategy: priority
    fallbacks: [other]
    deployments:
      - {id: bad, type: scripted, args: {fail_every: 1, fail_status: 503}}
      - {id: good, type: scripted, priority: 1, price: {input: 1, output: 1}, args: {reply: hello}}
  - id: other
    type: text-generation
    deployments:
      - {id: else, type: scripted}
routing_rules:
  - name: all
    targetModels: [{modelId: m}]
"""


def _told(place: House) -> list[dict[str, Any]]:
    """Return the lines of calls that the app was told of."""
    return [to_fields(each) for each in place.seen if isinstance(each, ModelCall)]


def _hear(place: House, level: int = logging.INFO) -> None:
    """Have somebody listen who writes down what is of a level."""
    place.app.events.subscribe(lambda event: None, lambda asked: asked >= level)


async def test_a_call_is_explained() -> None:
    """Who served it, who was tried before and with which outcome, the choice, tokens and cost."""
    async with house(_TWO) as place:
        _hear(place)
        answer = await place.ask("/v1/chat/completions", chat("m"), headers={"x-request-id": "r-1"})
        [line] = _told(place)
    assert answer.status == 200
    assert line["event"] == "model_call"
    assert line["message"] == "m -> good: ok"
    assert (line["request_id"], line["endpoint"], line["model"]) == ("r-1", "chat/completions", "m")
    assert [(each["deployment"], each["outcome"]) for each in line["tried"]] == [
        ("bad", "overloaded"), ("good", "ok"),
    ]  # fmt: skip
    assert line["decision"]["strategy"] == "priority"
    assert line["decision"]["removed"] == {"bad": "tried"}
    assert line["input_tokens"] > 0
    assert line["output_tokens"] > 0
    assert line["cost"] > 0
    assert "fallback_from" not in line


async def test_a_stream_is_told_when_it_has_ended() -> None:
    """Not before, because its tokens are not known before."""
    async with house(_TWO) as place:
        _hear(place)
        response = await place.send("/v1/chat/completions", {**chat("m"), "stream": True})
        assert not isinstance(response.body, bytes)
        assert _told(place) == []
        async for _ in response.body:
            assert _told(place) == []
        [line] = _told(place)
    assert line["stream"] is True
    assert line["outcome"] == "ok"
    assert line["output_tokens"] > 0


async def test_a_model_that_had_nobody_is_explained() -> None:
    """The caller got the fallback without anybody else having been tried: the line says why."""
    text = _TWO.replace("{id: else, type: scripted}", "{id: else, type: scripted, tags: [eu]}")
    async with house(text) as place:
        _hear(place)
        await place.ask("/v1/chat/completions", chat("m"), headers={"x-router-tags": "eu"})
        [line] = _told(place)
    assert (line["deployment"], line["fallback_from"]) == ("else", "m")
    [left] = line["left"]
    assert (left["model"], left["removed"]) == ("m", {"bad": "tags", "good": "tags"})


async def test_a_stream_that_breaks_off_names_who_it_came_from() -> None:
    """With an outcome that says how it ended; it is a warning."""
    text = _TWO.replace("args: {reply: hello}", "args: {reply: one two three four, cut_after: 2}")
    async with house(text) as place:
        _hear(place, logging.WARNING)
        await place.ask("/v1/chat/completions", {**chat("m"), "stream": True})
        [line] = _told(place)
    assert line["deployment"] == "good"
    assert line["outcome"] != "ok"


async def test_nothing_is_made_that_nobody_writes_down() -> None:
    """At the level of warnings a call that went well makes no event at all; one that failed makes one."""
    async with house(_TWO) as place:
        _hear(place, logging.WARNING)
        await place.ask("/v1/chat/completions", chat("m"))
        await place.ask("/v1/chat/completions", {**chat("m"), "stream": True})
        assert _told(place) == []
        assert not place.gateway.journal._streams
    heard: list[object] = []
    events = Events()
    events.subscribe(heard.append, lambda level: level >= logging.WARNING)
    journal = Journal(events, lambda: 2.0)
    call = Call("chat/completions", "m", started=1.0)
    journal.called(call, "m", OK)
    assert heard == []
    journal.called(call, "m", Outcome("timeout", "retry", message="it was silent"))
    [event] = heard
    assert level_of(event) == logging.WARNING
    line = to_fields(event)
    assert line["message"] == "m -> nobody: timeout"
    assert line["detail"] == "it was silent"
    assert line["duration_ms"] == 1000.0


async def test_a_fallback_is_told() -> None:
    """The model that was asked for stands beside the one that served."""
    text = _TWO.replace("args: {reply: hello}", "args: {fail_every: 1, fail_status: 500}")
    async with house(text) as place:
        _hear(place)
        await place.ask("/v1/chat/completions", chat("m"))
        [line] = _told(place)
    assert (line["model"], line["deployment"], line["fallback_from"]) == ("other", "else", "m")
    assert {each["deployment"] for each in line["tried"]} == {"bad", "good", "else"}


@pytest.mark.parametrize("level", ["info", "warning"])
def test_a_log_says_what_it_hears(level: str) -> None:
    """Whoever makes many events can ask before."""
    events = Events(Log(Settings(log_level=level)))
    assert events.heard(logging.INFO) is (level == "info")
    assert events.heard(logging.WARNING)
    assert not Events(lambda event: None).heard(logging.ERROR)


def test_a_line_shows_no_secret_and_no_endless_name() -> None:
    """What the caller wrote as the model's name is bounded, and masked."""
    name = "sk-" + "a" * 40 + "x" * 5000
    event = ModelCall("r", "p", "chat/completions", name, "", "not_found", "", 0.0, False, [], None)
    text = json_line(0.0, level_of(event), to_fields(event), None)
    assert "aaaa" not in text
    assert len(text) < 1000


def test_an_attempt_without_a_price_has_no_cost() -> None:
    """A sum with something unknown in it is unknown."""
    attempts = [Attempt(1, "m", "a", 0.0, "cancelled", usage=Usage(5, estimated=True)),
                Attempt(2, "m", "b", 0.0, "ok", usage=Usage(7, 3), cost=10)]  # fmt: skip
    event = ModelCall("r", "p", "chat/completions", "m", "m", "ok", "", 0.0, False, attempts, None)
    line = to_fields(event)
    assert (line["cost"], line["input_tokens"], line["estimated"]) == (None, 12, True)


@pytest.mark.parametrize(("text", "level"), [("models: []", "warning"), (_TWO, "info")], ids=["none", "two"])
async def test_the_start_says_what_is_served(text: str, level: str) -> None:
    """A gateway without a model would answer 404 to everything, and nobody would know why."""
    async with house(text) as place:
        [note] = [each for each in place.seen if getattr(each, "name", "") == "gateway_serving"]
    assert note.level == level
    assert note.fields["models"] == (0 if level == "warning" else 2)
