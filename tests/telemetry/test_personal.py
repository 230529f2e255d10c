"""Personal data stays out of logs, by how it looks, and nothing else does."""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest

from handlers.aws.telemetry import Telemetry
from router_core import Settings
from router_core.errors import Misconfigured
from router_core.telemetry.events import Note, RequestDone
from router_core.telemetry.logging import EventLogger, Log, mask_of
from router_core.telemetry.personal import FAILED, PersonalMask, mask_personal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ask ann.b+c@mail.example.com now", "ask <email> now"),
        ("élodie@exemple.fr", "<email>"),
        ("pay FR14 2004 1010 0505 0001 3M02 606 today", "pay <iban> today"),
        ("DE89370400440532013000", "<iban>"),
        ("card 4111 1111 1111 1111, or 5500-0000-0000-0004", "card <card>, or <card>"),
        ("4111111111111111", "<card>"),
        ("NIR 2 55 08 14 168 025 38", "NIR <nir>"),
        ("255081416802538", "<nir>"),
        ("call +33 6 12 34 56 78 or 06 12 34 56 78", "call <phone> or <phone>"),
        ("(415) 555-2671 and +14155552671", "<phone> and <phone>"),
        ("from 203.0.113.9:443", "from <ip>:443"),
        ("from 2001:db8::8a2e:370:7334 came", "from <ip> came"),
        ('{"email": "a@b.example"}', '{"email": "<email>"}'),
    ],
)
def test_what_looks_like_a_person_is_masked(text: str, shown: str) -> None:
    """Each kind by its name, the text around it as it was."""
    assert mask_personal(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "took 1234567890123 ns", "4111 1111 1111 1112", "DE89370400440532013001", "255081416802539",
        "0000000000000000", "at 12:34:56", "127.0.0.1:8000", "::1", "0.0.0.0", "1.2.3", "999.1.1.1",
        "gpt-4-1106-preview", "claude-3-5-sonnet-20241022", "cost 0.000006", "2026-01-01T12:00:00.000Z",
        "01a1ff0203", "user@host", "POST /v1/chat/completions 200 61.2ms", "sha256=abc", "a:b:c",
    ],
)  # fmt: skip
def test_what_does_not_is_left_alone(text: str) -> None:
    """Check digits tell numbers of people from other long numbers."""
    assert mask_personal(text) == text


@pytest.mark.parametrize("sign", ["a", "1", "a@", "1 ", "+1", ":", "f:", ".", "1.", "DE12"])
def test_no_text_keeps_the_log_busy(sign: str) -> None:
    """Were time to grow with the square of the length, this would not end within minutes."""
    assert mask_personal(sign * (400_000 // len(sign)))


def lines(fields: dict[str, Any], **settings: Any) -> list[str]:
    """Return what a log writes of a note with these fields."""
    stream = io.StringIO()
    log = Log(Settings(**{"log_format": "json", **settings}), stream)
    error = ValueError("of ann@mail.example")
    log(RequestDone("POST", "/a@mail.example", "", 200, 0.1, "4111111111111111", client="203.0.113.9"))
    log(Note("seen", "error", "ann@mail.example", fields, error))
    log.close()
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("form", ["json", "text"])
def test_every_part_of_a_line_is_masked(form: str) -> None:
    """Paths, addresses, messages, fields at any depth, errors, tracebacks; not the ids of lines."""
    fields = {"who": {"ann@mail.example": ["+33612345678", {"x": "ann@mail.example"}]}, "n": 7}
    text = "\n".join(lines(fields, log_format=form, log_masking="personal"))
    for leaked in ("@mail", "203.0.113.9", "33612345678"):
        assert leaked not in text
    assert "4111111111111111" in text  # the id of the request
    assert "<email>" in text
    assert "ValueError" in text


def test_by_default_only_secrets_are() -> None:
    """An operator decides that logs hold nothing of people."""
    assert "ann@mail.example" in "\n".join(lines({}))


def whole_line(text: str) -> str:
    """Mask everything that says private."""
    return "***" if "private" in text else text


def failing(text: str) -> str:
    """Be away, as a service that judges texts may be."""
    raise ConnectionError(text)


def number(text: str) -> int:
    """Return what is no text."""
    return len(text)


@pytest.mark.parametrize(
    ("masker", "shown"), [("whole_line", "***"), ("failing", FAILED), ("number", FAILED)]
)
def test_a_masker_of_ones_own_closes_when_it_fails(masker: str, shown: str) -> None:
    """What it cannot judge is not shown; the line and its ids still are."""
    settings = {"log_masking": "personal", "log_masker": f"{__name__}:{masker}"}
    told = json.loads(lines({"text": "a private word"}, **settings)[1])
    assert (told["event"], told["text"]) == ("seen", shown)


@pytest.mark.parametrize("name", ["nowhere:mask", "json:none", "json", "json:__name__", ":", "a b:c"])
def test_a_masker_that_is_not_there_is_told_at_the_start(name: str) -> None:
    """Nothing may be logged without it."""
    with pytest.raises(Misconfigured, match="ROUTER_LOG_MASKER"):
        mask_of(Settings(log_masking="personal", log_masker=name))
    with pytest.raises(Misconfigured, match="ROUTER_LOG_MASKING"):
        Settings.from_env({"ROUTER_LOG_MASKING": "some"})


def test_other_loggers_and_lambda_mask_as_well(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever writes what the app says."""
    settings = Settings(log_masking="personal", log_format="json", provider="lambda")
    note = Note(
        "seen", "error", "ann@mail.example", {"who": "ann@mail.example"}, ValueError("bob@mail.example")
    )
    with caplog.at_level(logging.INFO, "elsewhere"):
        EventLogger(logging.getLogger("elsewhere"), mask_of(settings))(note)
    stream = io.StringIO()
    Telemetry(settings, {}, stream)(note)
    for text in (caplog.text + str([vars(each) for each in caplog.records]), stream.getvalue()):
        assert "<email>" in text
        assert "mail.example" not in text


def test_nothing_random_breaks_it() -> None:
    """Any text comes out as text, and masking it again changes nothing."""
    rng = random.Random(5)
    signs = 'ab1209 @.:+-()éDEF\n\\"{}'
    mask: Callable[[str], str] = PersonalMask()
    for _ in range(3_000):
        text = "".join(rng.choice(signs) for _ in range(rng.randrange(60)))
        once = mask(text)
        assert isinstance(once, str)
        assert once != FAILED
