"""Requests about jobs: their headers, their ids, the questions that are asked about them, RunPod's routes."""

from __future__ import annotations

import json

from tests.badinput.bad_wire import Bad, get, many, post, request

__all__ = ["CASES"]

GOOD = {"prompt": "a"}
LONG = "a" * 65
DATA = b'{"prompt": "a"}'


def header(name: str, status: int = 400, code: str = "", **headers: str) -> Bad:
    """Return a case of a good submission with a bad header."""
    return Bad(f"submit: {name}", status, post("/predict", GOOD, **headers), code)


def twice(name: bytes, one: bytes, two: bytes) -> bytes:
    """Return a submission that gives a header twice."""
    lines = (b"content-type: application/json", b"content-length: %d" % len(DATA), name + one, name + two)
    return many(*lines, method=b"POST", target=b"/predict", body=DATA)


SUBMIT = [
    Bad("submit: missing argument", 422, post("/predict", {"n": 1}), loc=("body", "prompt")),
    Bad("submit: no body", 422, post("/predict"), loc=("body", "prompt")),
    Bad("submit: wrong argument", 422, post("/predict", {"prompt": "a", "n": 21}), loc=("body", "n")),
    Bad("submit: wrong argument of a process", 422, post("/crunch", {"n": "x"}), loc=("body", "n")),
    Bad("submit: progress as an argument", 422, post("/predict", {"job_progress": 1}), loc=("body",
        "prompt")),
    Bad("submit: lone surrogate", 400, post("/predict", b'{"prompt": "\\ud800"}'), "invalid_json"),
    header("empty key", code="bad_key", idempotency_key=""),
    header("key of 256", code="bad_key", idempotency_key="k" * 256),
    header("key not ASCII", code="bad_key", idempotency_key="k\xe9"),
    header("key with a tab", code="bad_key", idempotency_key="a\tb"),
    Bad("submit: key twice", 400, twice(b"idempotency-key: ", b"a", b"b")),
    Bad("submit: key of another request", 422, post("/predict", GOOD, idempotency_key="taken"),
        "idempotency_key_reused"),
    header("priority is a word", x_job_priority="high"),
    header("priority is empty", x_job_priority=""),
    header("priority is a fraction", x_job_priority="1.5"),
    header("priority too high", x_job_priority="101"),
    header("priority too low", x_job_priority="-101"),
    header("priority of 5,000 digits", x_job_priority="9" * 5000),
    header("priority not ASCII", x_job_priority="\xb2"),
    Bad("submit: priority twice", 400, twice(b"x-job-priority: ", b"1", b"2")),
    header("delay is a word", x_job_delay="soon"),
    header("delay is negative", x_job_delay="-1"),
    header("delay is empty", x_job_delay=""),
    header("delay is NaN", x_job_delay="nan"),
    header("delay is infinite", x_job_delay="inf"),
    header("delay with an exponent", x_job_delay="1e3"),
    header("delay of a year", x_job_delay="365d"),
    header("delay in weeks", x_job_delay="1w"),
    header("delay of 5,000 digits", x_job_delay="9" * 5000),
    header("deadline is a word", cancel_after="never"),
    header("deadline is negative", cancel_after="-5"),
    header("deadline too late", cancel_after="999999999"),
    header("deadline before the delay", cancel_after="5", x_job_delay="10"),
    header("webhook without a secret", code="no_webhooks", x_webhook_url="https://example.com/hook"),
    header("webhook of 3,000 characters", x_webhook_url="https://example.com/" + "a" * 3000),
    header("webhook to this machine", x_webhook_url="http://127.0.0.1/"),
    header("webhook that is no URL", x_webhook_url="javascript:alert(1)"),
    Bad("submit: sync is a word", 400, post("/predict?sync=maybe", GOOD)),
    Bad("submit: sync is empty", 400, post("/predict?sync=", GOOD)),
    Bad("submit: sync twice", 400, post("/predict?sync=true&sync=false", GOOD)),
    Bad("submit: cancel_on_disconnect is a word", 400, post("/predict?sync=true&cancel_on_disconnect=x",
        GOOD)),
    Bad("submit: query is not UTF-8", 400, post("/predict?sync=%ff", GOOD)),
    Bad("submit: asked to be a job, wrong argument", 422, post("/scalars", {"n": "x"},
        prefer="respond-async"),
        loc=("body", "n")),
    Bad("submit: asked to be a job, bad delay", 400, post("/scalars", {"n": 1}, prefer="respond-async",
        x_job_delay="x")),
]  # fmt: skip

IDS = {
    "unknown": "0" * 32, "one character": "a", "seven characters": "a" * 7, "65 characters": LONG,
        "5,000": "a" * 5000,
    "a dash first": "-" + "a" * 20, "a dot": "abcdefgh.json", "a tilde": "~" + "a" * 20,
        "a blank": "abcd%20efgh",
    "a quote": "abcdefgh%27", "SQL": "%27%20OR%201=1--", "a star": "********", "not ASCII": "%c3%a9" * 8,
    "digits of another script": "%d9%a1" * 10, "line break": "abcdefgh%0a", "percent": "abcdefgh%2525",
    "a backslash": "..%5c..%5cjobs.db", "HTML": "%3Cb%3Eabcdefgh",
}  # fmt: skip
PLACES = {
    "read": ("GET", "/jobs/{}"), "wait": ("GET", "/jobs/{}?wait=5"), "delete": ("DELETE", "/jobs/{}"),
    "result": ("GET", "/jobs/{}/result"), "events": ("GET", "/jobs/{}/events"), "cancel": ("POST",
        "/jobs/{}/cancel"),
    "retry": ("POST", "/jobs/{}/retry"), "status": ("GET", "/status/{}"), "stream": ("GET", "/stream/{}"),
    "old cancel": ("POST", "/cancel/{}"), "by query": ("GET", "/predict?job_id={}"),
    "runpod status": ("GET", "/v2/x/status/{}"), "runpod stream": ("GET", "/v2/x/stream/{}"),
    "runpod cancel": ("POST", "/v2/x/cancel/{}"), "runpod retry": ("POST", "/v2/x/retry/{}"),
}  # fmt: skip
UNKNOWN = [
    *(Bad(f"id: {name}", 404, get(f"/jobs/{job_id}"), "job_not_found") for name, job_id in IDS.items()),
    *(
        Bad(f"id: {kind} of {place}", 404, request(method, path.format(IDS[kind])), "job_not_found")
        for place, (method, path) in PLACES.items()
        if place != "read"
        for kind in ("unknown", "65 characters", "not ASCII")
    ),
    Bad("id: empty", 404, get("/jobs/"), "not_found"),
    Bad("id: dots", 404, get("/jobs/.."), "not_found"),
    Bad("id: escaped dots", 404, get("/jobs/%2e%2e/result"), "not_found"),
    Bad("id: escaped slashes", 404, get("/jobs/..%2f..%2fetc"), "not_found"),
    Bad("id: NUL", 400, get("/jobs/abcdefgh%00"), "bad_request"),
    Bad("id: bad UTF-8", 400, get("/jobs/%ff%ff%ff%ff%ff%ff%ff%ff"), "bad_request"),
    Bad("id: by query, empty", 404, get("/predict?job_id="), "job_not_found"),
    Bad("id: by query, twice", 400, get("/predict?job_id=abcdefgh&job_id=abcdefgi")),
    Bad("id: by query, NUL", 404, get("/predict?job_id=abcdefgh%00"), "job_not_found"),
    Bad("id: by query, not UTF-8", 400, get("/predict?job_id=%ff")),
]


def ask(name: str, target: str, status: int = 400, code: str = "", **headers: str) -> Bad:
    """Return a case of a bad question."""
    return Bad(f"ask: {name}", status, get(target, **headers), code)


ASKED = [
    ask("wait is a word", "/jobs/@scheduled@?wait=long"),
    ask("wait is negative", "/jobs/@scheduled@?wait=-1"),
    ask("wait is empty", "/jobs/@scheduled@?wait="),
    ask("wait is NaN", "/jobs/@scheduled@?wait=nan"),
    ask("wait is infinite", "/jobs/@scheduled@?wait=inf"),
    ask("wait has an exponent", "/jobs/@scheduled@?wait=1e9"),
    ask("wait of 5,000 digits", "/jobs/@scheduled@?wait=" + "9" * 5000),
    ask("wait twice", "/jobs/@scheduled@?wait=1&wait=2"),
    ask("wait of digits of another script", "/jobs/@scheduled@?wait=%d9%a1"),
    ask("wait, old address", "/status/@scheduled@?wait=x"),
    ask("unknown shape", "/jobs/@scheduled@?shape=round"),
    ask("empty shape", "/jobs/@scheduled@?shape="),
    ask("unknown shape of what has not changed", "/jobs/@scheduled@?shape=round", if_none_match="*"),
    ask("wait a little too long", "/jobs/@scheduled@?wait=999999.5"),
    ask("two positions, one of them a word", "/jobs/@scheduled@/events?starting_after=0", last_event_id="x"),
    ask("shape twice", "/jobs/@scheduled@?shape=apipod&shape=apipod"),
    ask("query is not UTF-8", "/jobs/@scheduled@?wait=%ff"),
    ask("unknown status", "/jobs?status=sleeping"),
    ask("empty status", "/jobs?status="),
    ask("one unknown status of two", "/jobs?status=queued,sleeping"),
    ask("status is not UTF-8", "/jobs?status=%ff"),
    ask("limit 0", "/jobs?limit=0"),
    ask("limit 201", "/jobs?limit=201"),
    ask("limit -1", "/jobs?limit=-1"),
    ask("limit is a word", "/jobs?limit=all"),
    ask("limit is empty", "/jobs?limit="),
    ask("limit of 5,000 digits", "/jobs?limit=" + "9" * 5000),
    ask("limit twice", "/jobs?limit=1&limit=2"),
    ask("limit of digits of another script", "/jobs?limit=%d9%a1"),
    ask("cursor is no id", "/jobs?cursor=x"),
    ask("cursor is SQL", "/jobs?cursor=%27%20OR%201=1--"),
    ask("cursor too long", "/jobs?cursor=" + LONG),
    ask("cursor with NUL", "/jobs?cursor=abcdefgh%00"),
    ask("cursor twice", "/jobs?cursor=abcdefgh&cursor=abcdefgi"),
    ask("position is a word", "/jobs/@scheduled@/events?starting_after=x"),
    ask("position is negative", "/jobs/@scheduled@/events?starting_after=-1"),
    ask("position of 5,000 digits", "/jobs/@scheduled@/events?starting_after=" + "9" * 5000),
    ask("position twice", "/jobs/@scheduled@/events?starting_after=1&starting_after=2"),
    ask("last event is a word", "/jobs/@scheduled@/events", last_event_id="x"),
    ask("last event is negative", "/jobs/@scheduled@/events", last_event_id="-1"),
    ask("last event of 5,000 digits", "/jobs/@scheduled@/events", last_event_id="9" * 5000),
    ask("last event not ASCII", "/stream/@scheduled@", last_event_id="\xb2"),
    ask("result before the end", "/jobs/@scheduled@/result", 409, "job_unfinished"),
    Bad("ask: delete before the end", 409, request("DELETE", "/jobs/@scheduled@"), "job_open"),
    Bad("ask: cancel after the end", 409, request("POST", "/jobs/@succeeded@/cancel"), "job_ended"),
    Bad("ask: cancel after a failure", 409, request("POST", "/jobs/@failed@/cancel"), "job_ended"),
    Bad("ask: retry of what succeeded", 409, request("POST", "/jobs/@succeeded@/retry"), "job_not_retryable"),
    Bad("ask: retry of what waits", 409, request("POST", "/jobs/@scheduled@/retry"), "job_not_retryable"),
    Bad("ask: retry with a bad priority", 400, request("POST", "/jobs/@failed@/retry", x_job_priority="x")),
    Bad(
        "ask: retry with a bad webhook",
        400,
        request("POST", "/jobs/@failed@/retry", x_webhook_url="http://["),
    ),
    Bad("ask: stream, not acceptable", 406, post("/tokens", GOOD, accept="image/png"), "not_acceptable"),
    Bad("ask: stream, nothing acceptable", 406, post("/tokens", GOOD, accept="*/*;q=0"), "not_acceptable"),
    Bad("ask: stream, wrong argument", 422, post("/tokens", {"prompt": "a", "n": 21}), loc=("body", "n")),
]


def run(name: str, body: object, status: int = 422, code: str = "", verb: str = "run", **headers: str) -> Bad:
    """Return a case of a bad RunPod submission."""
    return Bad(f"runpod: {name}", status, post(f"/v2/x/{verb}", body, **headers), code)


INPUT = {"path": "/predict", "prompt": "a"}
RUNPOD = [
    run("no body", b"", 400, "invalid_json"),
    run("no JSON", b"{", 400, "invalid_json"),
    run("a list", []),
    run("a text", b'"x"'),
    run("null", b"null"),
    run("no input", {}),
    run("no input, runsync", {}, verb="runsync"),
    run("input is null", {"input": None}),
    run("input is a list", {"input": [1]}),
    run("input is a text", {"input": "predict"}),
    run("input twice", b'{"input": {}, "input": {}}', 400, "duplicate_key"),
    run("input too deep", b'{"input": {"a": %s}}' % (b"[" * 70 + b"]" * 70), 400, "json_too_deep"),
    run("input with NaN", b'{"input": {"path": "/predict", "prompt": NaN}}', 400, "invalid_json"),
    run("input with a lone surrogate", b'{"input": {"path": "/predict", "prompt": "\\ud800"}}', 400),
    run("empty input", {"input": {}}),
    run("path is a number", {"input": {**INPUT, "path": 5}}),
    run("path is a list", {"input": {**INPUT, "path": ["/predict"]}}),
    run("path is empty", {"input": {**INPUT, "path": ""}}),
    run("path is unknown", {"input": {**INPUT, "path": "/nowhere"}}),
    run("path is long", {"input": {**INPUT, "path": "/" + "a" * 100_000}}),
    run("path with dots", {"input": {**INPUT, "path": "/jobs/../predict"}}),
    run("path of a product route", {"input": {"path": "/jobs"}}),
    run("path of a health check", {"input": {"path": "/health"}}),
    run("path of RunPod itself", {"input": {"path": "/v2/x/purge-queue"}}),
    run("path with a NUL", {"input": {**INPUT, "path": "/predict\0"}}),
    run("method is unknown", {"input": {**INPUT, "method": "BREW"}}),
    run("method is not served", {"input": {**INPUT, "method": "DELETE"}}),
    run("method is a number", {"input": {**INPUT, "method": 5}}),
    run("method is a list", {"input": {**INPUT, "method": ["POST"]}}),
    run("argument missing", {"input": {"path": "/predict"}}),
    run("argument of the wrong type", {"input": {**INPUT, "n": "many"}}),
    run("argument out of bounds", {"input": {**INPUT, "n": 21}}),
    run("argument of 4,000 digits",
        b'{"input": {"path": "/predict", "prompt": "a", "n": %s}}' % (b"9" * 4000)),
    run("argument of 5,000 digits",
        b'{"input": {"path": "/predict", "prompt": "a", "n": %s}}' % (b"9" * 5000), 400),
    run("argument from the path", {"input": {"path": "/items/abc"}}),
    run("file is no file", {"input": {"path": "/upload", "image": "no!"}}),
    run("file in this network", {"input": {"path": "/upload", "image": "http://10.0.0.1/"}}),
    run("file from a record", {"input": {"path": "/upload", "image": {"$file": {"key": "../x"}}}}),
    run("policy is a list", {"input": INPUT, "policy": [1]}),
    run("policy is a text", {"input": INPUT, "policy": "fast"}),
    run("ttl is a text", {"input": INPUT, "policy": {"ttl": "1000"}}),
    run("ttl is 0", {"input": INPUT, "policy": {"ttl": 0}}),
    run("ttl is negative", {"input": INPUT, "policy": {"ttl": -1}}),
    run("ttl is true", {"input": INPUT, "policy": {"ttl": True}}),
    run("ttl is a fraction", {"input": INPUT, "policy": {"ttl": 1.5}}),
    run("ttl is enormous", {"input": INPUT, "policy": {"ttl": 10**30}}),
    run("timeout is a list", {"input": INPUT, "policy": {"executionTimeout": []}}),
    run("timeout is negative", {"input": INPUT, "policy": {"executionTimeout": -5}}),
    run("low priority is a word", {"input": INPUT, "policy": {"lowPriority": "yes"}}),
    run("webhook is a number", {"input": INPUT, "webhook": 5}),
    run("webhook to this machine", {"input": INPUT, "webhook": "http://127.0.0.1/"}, 400),
    run("webhook is long", {"input": INPUT, "webhook": "http://a/" + "b" * 3000}, 400),
    run("priority is a word", {"input": INPUT}, 400, x_job_priority="x"),
    run("text/plain", b"{}", 415, "unsupported_media_type", content_type="text/plain"),
    run("a form", b"input=1", 415, content_type="application/x-www-form-urlencoded"),
    *(
        run(f"wait={wait}", {"input": INPUT}, verb=f"runsync?wait={wait}")
        for wait in ("x", "", "0", "-1", "999", "300001", "1e4", "1.5", "9" * 5000, "%d9%a1")
    ),
    run("wait twice", {"input": INPUT}, 400, verb="runsync?wait=2000&wait=3000"),
    Bad("runpod: no route", 404, post("/v2/x/frobnicate", {}), "not_found"),
    Bad("runpod: no endpoint", 404, post("/v2//run", {"input": INPUT}), "not_found"),
    Bad("runpod: dots for an endpoint", 404, post("/v2/../run", {"input": INPUT}), "not_found"),
    Bad("runpod: a million arguments", 413, post("/v2/x/run", json.dumps({"input": dict.fromkeys(
        map(str, range(400_000)), "x")}))),
]  # fmt: skip

CASES = {"submit": SUBMIT, "ids": UNKNOWN, "asked": ASKED, "runpod": RUNPOD}
