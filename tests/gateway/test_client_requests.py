"""What leaves a client: the path, the headers and the body, byte by byte where it matters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router_core.errors import HTTPError, Misconfigured
from router_core.gateway.call import Call
from router_core.gateway.clients.factory import make_client
from router_core.gateway.reply import UpstreamFailure
from router_core.gateway.values import Secret
from tests.gateway.client_parts import KEY, Recorder, answer, called, client_of, deployed


async def test_a_plain_call_leaves_with_the_model_replaced_and_all_else_untouched() -> None:
    """Unknown fields, tools, spaces and spellings of numbers arrive as the caller wrote them."""
    body = (
        b'{"model": "turbo", "messages": [ {"role":"user","content":"h\\u00e9 \xc3\xa9"} ], '
        b'"tools":[{"type":"function","function":{"name":"f","parameters":{"a" : 1}}}], '
        b'"temperature": 1.50,"unknown": {"x" :[1e2]}}'
    )
    transport = Recorder()
    reply = await client_of(transport).send(called(body=body), 1.0)
    assert reply.body == b'{"ok": true}'
    sent = transport.last
    assert (sent.method, sent.path, sent.stream) == ("POST", "/v1/chat/completions", False)
    assert (sent.origin.scheme, sent.origin.host, sent.origin.port) == ("http", "upstream.test", 8000)
    assert sent.json() == {**json.loads(body), "model": "upstream-model"}
    for piece in (
        b'[ {"role":"user","content":"h\\u00e9 \xc3\xa9"} ]',
        b"1.50",
        b'{"x" :[1e2]}',
        b'{"a" : 1}',
    ):
        assert piece in sent.body


async def test_the_head_holds_what_it_should_and_nothing_else() -> None:
    """Host, credentials, types and what was configured; a list, so that nothing joins it unseen."""
    transport = Recorder()
    client = client_of(transport, headers=(("X-Team", "red"), ("User-Agent", "ours/1")))
    await client.send(called(), 1.0)
    assert transport.last.headers == {
        "host": "upstream.test:8000", "authorization": f"Bearer {KEY}", "accept": "*/*",
        "accept-encoding": "identity", "user-agent": "ours/1", "x-team": "red",
        "content-type": "application/json", "content-length": str(len(transport.last.body)),
    }  # fmt: skip


async def test_of_the_callers_headers_only_the_listed_pass() -> None:
    """Credentials, cookies, addresses and SDK headers of the caller end in the gateway."""
    transport = Recorder()
    given = {
        "authorization": "Bearer callers", "cookie": "a=b", "x-forwarded-for": "10.0.0.1", "host": "evil",
        "proxy-authorization": "x", "openai-organization": "theirs", "anthropic-beta": "x", "x-api-key": "k",
        "content-length": "0", "transfer-encoding": "chunked", "x-stainless-os": "Linux", "accept": "a/b",
        "openai-beta": "assistants=v2", "idempotency-key": "k1", "x-request-id": "abc", "traceparent": "00-1",
    }  # fmt: skip
    await client_of(transport).send(called(headers=given), 1.0)
    sent = transport.last.headers
    passed = {"openai-beta", "idempotency-key", "x-request-id", "traceparent"}
    assert {name: sent[name] for name in passed} == {name: given[name] for name in passed}
    assert set(sent) - passed == {
        "host", "authorization", "accept", "accept-encoding", "user-agent", "content-type", "content-length",
    }  # fmt: skip
    assert sent["authorization"] == f"Bearer {KEY}"
    assert sent["host"] == "upstream.test:8000"


@pytest.mark.parametrize(
    "value",
    ["a\r\nx-evil: 1", "a\nb", "a\x00b", "a\rb", "é", "x" * 1025, "\x7f", "\u2028"],
    ids=["crlf", "lf", "nul", "cr", "not ascii", "long", "del", "line separator"],
)
async def test_a_header_value_that_could_break_a_line_is_left_away(value: str) -> None:
    """The call goes on without it: it is not worth failing for, and never worth sending."""
    transport = Recorder()
    await client_of(transport).send(called(headers={"idempotency-key": value, "traceparent": "ok"}), 1.0)
    assert "idempotency-key" not in transport.last.headers
    assert transport.last.headers["traceparent"] == "ok"
    assert b"evil" not in transport.last.head


@pytest.mark.parametrize(
    ("url", "path", "host"),
    [
        ("https://api.openai.com/v1", "/v1/chat/completions", "api.openai.com"),
        ("https://api.openai.com/v1/", "/v1/chat/completions", "api.openai.com"),
        ("https://api.openai.com", "/v1/chat/completions", "api.openai.com"),
        ("https://api.openai.com/v1/chat/completions", "/v1/chat/completions", "api.openai.com"),
        ("http://localhost:8001/llm", "/llm/v1/chat/completions", "localhost:8001"),
        ("http://localhost:80/llm/v1", "/llm/v1/chat/completions", "localhost"),
        ("https://h.test:8443", "/v1/chat/completions", "h.test:8443"),
        ("http://[::1]:8000/v1", "/v1/chat/completions", "[::1]:8000"),
        ("https://g.test/v1beta/openai/", "/v1beta/openai/chat/completions", "g.test"),
        ("https://z.test/api/paas/v4", "/api/paas/v4/chat/completions", "z.test"),
        ("https://o.test/openai/v1/rerank", "/openai/v1/chat/completions", "o.test"),
    ],
)
async def test_base_urls_are_taken_as_people_write_them(url: str, path: str, host: str) -> None:
    """With and without /v1 and a slash at the end, with a version of its own, or one endpoint's address."""
    transport = Recorder()
    await client_of(transport, url=url).send(called(), 1.0)
    assert transport.last.path == path
    assert transport.last.headers["host"] == host


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/v1",
        "h.test/v1",
        "http://",
        "http://h:99999/",
        "http://h:x/",
        "http://u:hunter2@h/v1",
        "http://h/v1?k=v",
        "http://h/v1#x",
        "http://h/a b",
        "http://h/\r\nx",
        "http://hé/",
        "http://h/v1\x00",
        "http://h,i/",
        "//h/v1",
    ],
)
def test_a_base_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    """It may hold a password; the message says what to write instead."""
    with pytest.raises(Misconfigured, match="deployment d1") as caught:
        make_client(deployed(url=url), Recorder())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-a b", "sk-a\r\nx: y", "sk-é", "sk-\x00"])
def test_a_key_that_does_not_fit_into_a_header_is_refused_without_being_shown(key: str) -> None:
    """It would break the head, or never match."""
    with pytest.raises(Misconfigured, match="key") as caught:
        make_client(deployed(key=Secret(key)), Recorder())
    assert key not in str(caught.value)


async def test_a_line_break_at_the_end_of_a_key_is_taken_off() -> None:
    """Keys are read from files, and files end with one."""
    transport = Recorder()
    await client_of(transport, key=Secret("sk-abc\n")).send(called(), 1.0)
    assert transport.last.headers["authorization"] == "Bearer sk-abc"


@pytest.mark.parametrize(
    "header",
    [("x-a", "b\r\nx-c: d"), ("x a", "b"), ("x:a", "b"), ("", "b"), ("Host", "evil"), ("content-length", "3"),
     ("Transfer-Encoding", "chunked"), ("connection", "close"), ("content-type", "text/html"), ("x-a", "é")],
    ids=lambda header: header[0].strip() or "empty",
)  # fmt: skip
def test_a_configured_header_that_would_break_the_head_is_refused(header: tuple[str, str]) -> None:
    """When it is loaded, not when it is first used."""
    with pytest.raises(Misconfigured, match="header"):
        make_client(deployed(headers=(header,)), Recorder())


async def test_a_configured_authorization_takes_the_place_of_ours() -> None:
    """Some servers want another scheme than Bearer."""
    transport = Recorder()
    await client_of(transport, headers=(("Authorization", "Api-Key x"),)).send(called(), 1.0)
    assert transport.last.headers["authorization"] == "Api-Key x"


async def test_a_server_without_a_key_gets_no_credentials() -> None:
    """Servers on one's own network often want none."""
    transport = Recorder()
    await client_of(transport, "vllm", key=Secret()).send(called(), 1.0)
    assert "authorization" not in transport.last.headers


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, {"include_usage": True}),
        ("null", {"include_usage": True}),
        ('{"include_usage":false}', {"include_usage": True}),
        ('{"include_usage":false,"continuous_usage_stats":true}',
         {"include_usage": True, "continuous_usage_stats": True}),
        ('"garbage"', "garbage"),
    ],
)  # fmt: skip
async def test_streams_are_asked_for_usage(options: str | None, expected: Any) -> None:
    """Whatever the caller said; other options stay, and what is no object is left to be refused."""
    more = "" if options is None else f',"stream_options":{options}'
    body = f'{{"model":"turbo","messages":[],"stream":true{more}}}'.encode()
    transport = Recorder()
    await client_of(transport).send(called(body=body, stream=True), 1.0)
    assert transport.last.json()["stream_options"] == expected
    assert transport.last.stream


@pytest.mark.parametrize(
    ("endpoint", "stream", "args"),
    [
        ("chat/completions", False, {}),
        ("responses", True, {}),
        ("chat/completions", True, {"stream_usage": False}),
    ],
)
async def test_what_does_not_understand_it_is_not_asked_for_usage(
    endpoint: str, stream: bool, args: dict[str, Any]
) -> None:
    """Whole answers have it anyway, ``responses`` always ends with it, and some servers refuse the option."""
    transport = Recorder()
    await client_of(transport, args=args).send(called(endpoint, stream=stream), 1.0)
    assert "stream_options" not in transport.last.json()


async def test_the_name_that_was_judged_is_the_one_that_is_sent() -> None:
    """A name given twice leaves once."""
    body = b'{"model":"a","max_tokens":1,"model":"turbo","max_tokens":999999}'
    transport = Recorder()
    await client_of(transport).send(called(body=body), 1.0)
    assert transport.last.body.count(b'"model"') == transport.last.body.count(b'"max_tokens"') == 1
    assert transport.last.json() == {"model": "upstream-model", "max_tokens": 999999}


async def test_without_a_model_at_the_upstream_the_callers_name_goes_on() -> None:
    """A server of one model takes any name."""
    transport = Recorder()
    await client_of(transport, "vllm", model="").send(called(), 1.0)
    assert transport.last.json()["model"] == "turbo"


async def test_sending_leaves_the_call_as_it_was() -> None:
    """The next attempt, at another deployment, begins with the same fields."""
    call = called(body=b'{"model":"turbo","stream":true,"messages":[]}', stream=True)
    before = {name: bytes(value) for name, value in (call.fields or {}).items()}
    await client_of(Recorder()).send(call, 1.0)
    assert {name: bytes(value) for name, value in (call.fields or {}).items()} == before


async def test_an_endpoint_that_the_type_has_not_is_refused() -> None:
    """OpenAI has no rerank."""
    transport = Recorder()
    with pytest.raises(HTTPError, match="Wrong model type") as caught:
        await client_of(transport).send(called("rerank"), 1.0)
    assert caught.value.status == 422
    assert transport.sent == []


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
async def test_redirects_are_failures_and_are_not_followed(status: int) -> None:
    """Following one would carry our key to wherever it points."""
    transport = Recorder(answer("", status, location="http://evil.test/"))
    with pytest.raises(UpstreamFailure, match=f"redirect \\({status}\\)") as caught:
        await client_of(transport).send(called(), 1.0)
    assert (caught.value.kind, caught.value.sent, len(transport.sent)) == ("malformed", True, 1)


async def test_answers_of_2xx_pass_as_they_came() -> None:
    """The very object, in fact."""
    reply = answer(b'{"choices" : [] }', 201)
    assert await client_of(Recorder(reply)).send(called(), 1.0) is reply


async def test_an_address_that_is_looked_up_is_followed_when_it_changes() -> None:
    """An endpoint may get a new address whenever it is started; until it has one it cannot be reached."""
    transport = Recorder()
    client = client_of(transport, "huggingface", url="", endpoint="120b")
    with pytest.raises(UpstreamFailure) as caught:
        await client.send(called(), 1.0)
    assert (caught.value.kind, caught.value.sent) == ("unreachable", False)
    addresses: list[str | None] = [
        None,
        "https://one.test",
        "https://one.test",
        None,
        "https://two.test:444/v1",
        "bad",
    ]
    client.locate = lambda: addresses.pop(0)
    with pytest.raises(UpstreamFailure):
        await client.send(called(), 1.0)
    seen = []
    for _ in range(4):
        await client.send(called(), 1.0)
        seen.append((transport.last.origin.host, transport.last.origin.port, transport.last.headers["host"]))
    assert seen == [("one.test", 443, "one.test")] * 3 + [("two.test", 444, "two.test:444")]
    with pytest.raises(UpstreamFailure, match="base_url"):
        await client.send(called(), 1.0)


async def test_paths_of_args_change_the_table() -> None:
    """A path of its own, or none; the type itself keeps its table."""
    transport = Recorder()
    args = {"paths": {"chat/completions": "/chat/completions", "rerank": None, "custom": "/v1/custom?x=1"}}
    client = client_of(transport, "generic", url="https://p.test", args=args)
    await client.send(called(), 1.0)
    assert transport.last.path == "/chat/completions"
    await client.send(called("custom"), 1.0)
    assert transport.last.path == "/v1/custom?x=1"
    assert "rerank" not in client.ENDPOINT_TABLE
    assert "rerank" in client_of(transport, "generic").ENDPOINT_TABLE


@pytest.mark.parametrize(
    "args",
    [
        {"paths": ["x"]},
        {"paths": {"a": "x"}},
        {"paths": {"a": 5}},
        {"paths": {"a": "/x y"}},
        {"paths": {"a": "/x\r\n"}},
        {"stream_usage": "yes"},
        {"ca_file": 5},
        {"organization": 1},
        {"organization": "a\nb"},
    ],
    ids=repr,
)
def test_wrong_args_are_refused(args: dict[str, Any]) -> None:
    """When they are loaded, and by name."""
    with pytest.raises(Misconfigured, match="deployment d1"):
        make_client(deployed(args=args), Recorder())


def test_an_unknown_type_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(Misconfigured, match="vllm"):
        make_client(deployed("vlmm"), Recorder())


async def test_a_private_authority_belongs_to_the_origin() -> None:
    """Connections are shared only among those that trust the same."""
    transport = Recorder()
    await client_of(transport, url="https://h.test", args={"ca_file": "/etc/ca.pem"}).send(called(), 1.0)
    assert transport.last.origin.ca_file == "/etc/ca.pem"


async def test_an_upload_that_is_no_form_is_refused() -> None:
    """There is no other body without JSON."""
    call = Call("audio/transcriptions", "turbo", body=b"RIFF", content_type="audio/wav")
    with pytest.raises(HTTPError) as caught:
        await client_of(Recorder()).send(call, 1.0)
    assert caught.value.status == 415


def test_nothing_shows_the_key() -> None:
    """Neither the client nor its deployment, in any text that they make of themselves."""
    client = client_of(Recorder())
    assert KEY not in f"{client!r} {client} {client.deployment!r}"


async def test_probes_ask_for_what_is_free() -> None:
    """GET, beside the /v1 of the base URL or in it, with the credentials."""
    transport = Recorder()
    client = client_of(transport, "vllm", url="http://h.test/llm/v1")
    await client.probe_once(1.0)
    assert (transport.last.method, transport.last.path) == ("GET", "/llm/health")
    assert transport.last.headers["authorization"] == f"Bearer {KEY}"
    assert transport.last.body == b""
    assert client.metrics is not None
    await client.probe_once(1.0, client.metrics)
    assert transport.last.path == "/llm/metrics"


async def test_a_probe_reports_errors_as_they_are() -> None:
    """A status is an answer, a redirect is none."""
    client = client_of(Recorder(answer("<html>", 503, "text/html"), answer("", 302)), "vllm")
    assert (await client.probe_once(1.0)).status == 503
    with pytest.raises(UpstreamFailure):
        await client.probe_once(1.0)
