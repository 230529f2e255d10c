"""The log in the names that other services' collectors look for; without asking for it nothing changes."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime
from typing import Any

import pytest

from router_core import Settings
from router_core.gateway.accounting.journal import ModelCall
from router_core.telemetry.events import JobMoved, Note, RequestDone
from router_core.telemetry.logging import Log
from tests.gateway.ledger_parts import make_attempt


def written(event: object, form: str = "service", **settings: Any) -> dict[str, Any]:
    """Return the line of an event."""
    stream = io.StringIO()
    log = Log(Settings(log_format=form, **settings), stream)
    log(event)
    log.close()
    line = json.loads(stream.getvalue())
    assert isinstance(line, dict)
    return line


CALL = ModelCall(
    "req-12345", "ann", "chat/completions", "gpt-4", "gpt-4", "ok", "", 1.25, False, [make_attempt()], None
)


def test_a_call_has_the_members_of_the_promise() -> None:
    """timestamp, level, service, message, requestId, modelId, latency: in this form, and first."""
    line = written(CALL, service_name="model-router")
    assert list(line)[:4] == ["timestamp", "level", "service", "message"]
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    assert (line["level"], line["service"]) == ("info", "model-router")
    assert (line["requestId"], line["modelId"], line["latency"]) == ("req-12345", "turbo", 1250.0)
    assert line["message"] == "gpt-4 -> turbo-1: ok"
    assert line["event"] == "model_call"


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (RequestDone("GET", "/x", "GET /x", 200, 0.1, "r"), "GET /x 200"),
        (JobMoved("j", "/p", "claim", "running"), "job claim: running"),
        (Note("circuit_opened", "warning"), "circuit_opened"),
    ],
    ids=["request", "job", "note"],
)
def test_every_line_has_a_message(event: object, message: str) -> None:
    """And none has our own names beside the others."""
    line = written(event)
    assert line["message"] == message
    assert not [name for name in line if "_" in name or name == "ts"]


def test_secrets_are_masked_and_errors_told_all_the_same() -> None:
    """The names are others, the care is the same."""
    error = ValueError("Bearer abcdefghijklmn")
    line = written(Note("bad", "error", "it failed", {"api_key": "abc", "request_id": "r"}, error))
    assert (line["apiKey"], line["requestId"]) == ("***", "r")
    assert "abcdefghijklmn" not in json.dumps(line)
    assert line["error"]["type"] == "ValueError"


def test_who_asks_for_json_gets_what_he_got() -> None:
    """Today's readers are not disturbed."""
    line = written(CALL, "json")
    assert list(line)[:3] == ["ts", "level", "event"]
    assert (line["request_id"], line["duration_ms"]) == ("req-12345", 1250.0)
    assert "timestamp" not in line


def test_lines_of_the_logging_module() -> None:
    """Those of libraries have the form, too."""
    record = logging.makeLogRecord({"name": "lib", "msg": "said", "levelno": logging.WARNING})
    stream = io.StringIO()
    log = Log(Settings(log_format="service"), stream)
    log.put(record)
    log.close()
    line = json.loads(stream.getvalue())
    assert (line["level"], line["message"], line["logger"]) == ("warning", "said", "lib")


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({"LOG_LEVEL": "debug"}, "debug"),
        ({"LOG_LEVEL": "WARNING"}, "warning"),
        ({"LOG_LEVEL": "debug", "ROUTER_LOG_LEVEL": "error"}, "error"),
        ({"LOG_LEVEL": "verbose", "NODE_ENV": "production"}, "info"),
    ],
    ids=["alias", "upper", "ours-wins", "foreign-word"],
)
def test_the_usual_variable_sets_the_level(environ: dict[str, str], level: str) -> None:
    """``LOG_LEVEL`` does where ours is not set; a word that means something to others only is theirs."""
    assert Settings.from_env(environ).log_level == level
