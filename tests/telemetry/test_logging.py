"""Logs: one event one line, no secrets, no injected lines, and nobody waits."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from router_core.settings import Settings
from router_core.telemetry.events import Events, JobMoved, Note, RequestDone
from router_core.telemetry.lines import text_line
from router_core.telemetry.logging import EventLogger, Log
from router_core.telemetry.masking import mask_fields, mask_text, printable

REQUEST = RequestDone("POST", "/p", "/p", 200, 0.0123, "r-1", principal="alice", job_id="j-1")


class Sink(io.StringIO):
    """Text that outlives its closing."""

    def lines(self) -> list[str]:
        """Return what was written."""
        return self.getvalue().splitlines()

    def entries(self) -> list[dict[str, Any]]:
        """Return the lines as JSON."""
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def sink() -> Sink:
    """Return a place to log to."""
    return Sink()


@pytest.fixture
def log(sink: Sink) -> Iterator[Log]:
    """Return a JSON log."""
    opened = Log(Settings(log_format="json", log_level="debug"), sink)
    yield opened
    opened.close()


def test_events_become_lines(log: Log, sink: Sink) -> None:
    """With the ids that lead from one to the other."""
    events = Events(log)
    events.emit(REQUEST)
    events.emit(
        JobMoved("j-1", "/p", "fail", "failed", reason="error", attempt=2, seconds=1.5, request_id="r-1")
    )
    events.emit(Note("reaper_late", "warning", "no tick", {"seconds": 9}))
    log.close()
    request, job, note = sink.entries()
    assert (request["event"], request["route"], request["principal"]) == ("request", "/p", "alice")
    assert (request["request_id"], request["job_id"], request["duration_ms"]) == ("r-1", "j-1", 12.3)
    assert (request["level"], job["level"], note["level"]) == ("info", "warning", "warning")
    assert (job["job_id"], job["reason"], job["duration_ms"]) == ("j-1", "error", 1500.0)
    assert (note["event"], note["message"], note["seconds"]) == ("reaper_late", "no tick", 9)
    assert request["ts"].endswith("Z")


def test_an_error_brings_its_traceback(log: Log, sink: Sink) -> None:
    """In one line, masked."""
    try:
        raise ValueError("Authorization: Bearer abcdefghijkl\nand\x1b[31m more")
    except ValueError as error:
        log(Note("unhandled_error", "error", "ValueError in a request", error=error))
    log.close()
    (line,) = sink.lines()
    assert "abcdefghijkl" not in line
    assert "\x1b" not in line
    entry = json.loads(line)
    assert entry["error"]["type"] == "ValueError"
    assert "test_logging.py" in entry["traceback"]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "evil",
    ['x\n{"level":"error","event":"forged"}', "x\r\nforged", "\x1b[2J\x1b[31mforged", "a\u2028forged",
     "a\x9bforged",
     "a\x00b", "a\x7fb", "\ud800"],
)  # fmt: skip
def test_nobody_can_write_lines_or_colours(form: str, evil: str, sink: Sink) -> None:
    """Through a path, a message, a field or a name."""
    log = Log(Settings(log_format=form, log_level="debug"), sink)
    log(RequestDone("GET", evil, "", 404, 0.1, "r"))
    log(Note("n", "info", evil, {"field": evil, evil: 1}, ValueError(evil)))
    log.close()
    text = sink.getvalue()
    assert not any(mark in text for mark in "\x1b\r\u2028\x9b\x00\x7f\ud800")
    for line in text.split("\n")[:-1]:
        assert "forged" not in line or not line.lstrip().startswith(('{"level":"error","event"', "forged"))
    assert len([line for line in text.split("\n")[:-1] if not line.startswith("    | ")]) == 2
    if form == "json":
        assert [entry["event"] for entry in sink.entries()] == ["request", "n"]


CANARY = "c4n4ryc4n4ryc4n4ry"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}", f"bearer {CANARY}", f"Basic {CANARY}", f"rk_abcdefghijkl_{CANARY}",
        f"sk-{CANARY}", f"rpa_{CANARY}", f"whsec_{CANARY}", f"https://u:{CANARY}@host/x",
        f"redis://:{CANARY}@host",
        f"https://host/x?sig={CANARY}&a=1", f"api_key={CANARY}", f"'password': '{CANARY}'",
        f'"token": "{CANARY}"',
        f"X-API-Key: {CANARY}", f"client_secret={CANARY}",
    ],
)  # fmt: skip
def test_secrets_in_text_are_masked(text: str) -> None:
    """By their look."""
    assert CANARY not in mask_text(f"before {text} after")
    assert mask_text(f"before {text} after").startswith("before ")


@pytest.mark.parametrize(
    "name", ["Authorization", "api_key", "apiKey", "x-api-key", "session_token", "SECRET", "cookie"]
)
def test_secrets_in_fields_are_masked(name: str) -> None:
    """By their name, at any depth."""
    fields = {"outer": [{"inner": {name: CANARY}}], name: {"a": CANARY}}
    assert CANARY not in json.dumps(mask_fields(fields))


def test_harmless_text_is_left_alone() -> None:
    """Masking everything would be useless."""
    for text in (
        "GET /predict 200",
        "the token count was 7",
        "tokens=12",
        "https://host/path",
        "a key error",
    ):
        assert mask_text(text) == text
    assert mask_fields({"tokens": 3, "route": "/x", "size": None}) == {
        "tokens": 3,
        "route": "/x",
        "size": None,
    }
    assert mask_fields({"body": b"1234"}) == {"body": "<4 bytes>"}
    assert printable("plain é text") == "plain é text"


def test_the_logging_module_goes_through_the_same_queue(log: Log, sink: Sink) -> None:
    """While it is installed, and not afterwards."""
    before = logging.getLogger().handlers[:]
    log.install()
    logging.getLogger("mine").warning(
        "hello %s", "Bearer abcdefghijkl", extra={"job_id": "j", "password": "p"}
    )
    try:
        raise LookupError("inner")
    except LookupError:
        logging.getLogger("mine").exception("broke")
    log.close()
    assert logging.getLogger().handlers == before
    first, second = sink.entries()
    assert (first["logger"], first["message"], first["job_id"]) == ("mine", "hello Bearer ***", "j")
    assert first["password"] == "***"
    assert second["error"]["type"] == "LookupError"


def test_bad_arguments_do_not_break_the_log(log: Log, sink: Sink) -> None:
    """Neither of the logging module's nor an event's."""

    class Nasty:
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    log.install()
    logging.getLogger("mine").warning("%d", "x")
    log(Note("n", "info", "", {"nasty": Nasty()}))
    log(Note("after"))
    log.close()
    assert [entry["event"] for entry in sink.entries()] == ["log", "log_failed", "after"]


def test_levels(sink: Sink) -> None:
    """Below the level nothing; probes that succeed are debug, server errors are errors."""
    log = Log(Settings(log_format="json", log_level="info"), sink)
    log(RequestDone("GET", "/health", "GET /health", 200, 0.1, "r"))
    log(RequestDone("GET", "/health/ready", "GET /health/ready", 503, 0.1, "r"))
    log(RequestDone("POST", "/worker/wait", "POST /worker/wait", 200, 20.0, "r"))
    log(RequestDone("GET", "/x", "/x", 500, 0.1, "r"))
    log(Note("detail", "debug"))
    log.close()
    assert [(entry["status"], entry["level"]) for entry in sink.entries()] == [
        (503, "warning"),
        (500, "error"),
    ]


def test_a_full_queue_drops_and_counts() -> None:
    """A writer that hangs holds nobody up; what was lost is said."""
    gate = threading.Event()
    written = threading.Event()

    class Slow(Sink):
        def write(self, text: str) -> int:
            written.set()
            gate.wait(110)
            return super().write(text)

    sink = Slow()
    log = Log(Settings(log_format="json"), sink, capacity=10)
    log(REQUEST)
    assert written.wait(60)
    for _ in range(100):
        log(REQUEST)
    assert log.dropped == 90
    gate.set()
    log.close()
    assert len([entry for entry in sink.entries() if entry["event"] == "request"]) == 11


def test_a_broken_stream_is_survived() -> None:
    """A closed terminal does not end the service."""
    sink = Sink()
    sink.close()
    log = Log(Settings(), sink)
    log(REQUEST)
    log.close()
    log.close()
    assert log.dropped >= 1


def test_the_format_follows_the_stream() -> None:
    """JSON for a pipe, text for a terminal, either on request."""

    class Terminal(Sink):
        def isatty(self) -> bool:
            return True

    for stream, setting, starts in (
        (Sink(), "auto", "{"),
        (Terminal(), "auto", ""),
        (Terminal(), "json", "{"),
    ):
        log = Log(Settings(log_format=setting), stream)
        log(REQUEST)
        log.close()
        assert stream.getvalue().startswith("{") is bool(starts)
        assert "/p" in stream.getvalue()


def test_event_logger_speaks_to_a_host(caplog: pytest.LogCaptureFixture) -> None:
    """Mounted in somebody else's process, events go where the host sends them."""
    listener = EventLogger()
    with caplog.at_level(logging.INFO, logger="router_core"):
        listener(REQUEST)
        listener(Note("broke", "error", "it did", error=ValueError("why")))
        listener(Note("quiet", "debug"))
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]
    assert "POST /p 200" in caplog.records[0].message
    assert caplog.records[0].router["request_id"] == "r-1"  # type: ignore[attr-defined]
    assert caplog.records[1].exc_info is not None


@pytest.mark.parametrize(
    ("name", "message", "line"),
    [
        ("draining", "draining, up to 30 s", "draining, up to 30 s"),
        ("serving", "serving on http://127.0.0.1:1", "serving on http://127.0.0.1:1"),
        ("drain", "draining", "drain draining"),
        ("job_late", "it waits", "job_late it waits"),
        ("done", "", "done"),
    ],
)
def test_people_do_not_read_a_name_twice(name: str, message: str, line: str) -> None:
    """A message that begins with the name of its event stands alone."""
    fields = {"event": name, "message": message}
    assert text_line(logging.INFO, fields, None, colour=False, stamp=False) == line


def test_an_installed_log_silences_the_event_logger(log: Log, sink: Sink) -> None:
    """Nothing is said twice; afterwards it speaks again."""
    events = Events(EventLogger(), log)
    log.install()
    events.emit(REQUEST)
    log.close()
    assert len(sink.entries()) == 1
    assert logging.getLogger("router_core.events").level == logging.NOTSET


def test_what_our_events_say_is_not_said_again_by_the_server(log: Log, sink: Sink) -> None:
    """uvicorn complains about a stream that we have ended and reported; its other errors are kept."""
    log.install()
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing response.")
    logging.getLogger("uvicorn.error").error("something else")
    logging.getLogger("uvicorn.error").info("Started server process [1]")
    log.close()
    assert [entry["message"] for entry in sink.entries()] == ["something else"]
