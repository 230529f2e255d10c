"""Rerank: two forms of request, three of answer, and one that every caller can read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router_core.errors import BadRequest, Misconfigured
from router_core.gateway.clients.factory import make_client
from router_core.gateway.reply import UpstreamFailure
from tests.gateway.client_parts import Recorder, answer, called, client_of, deployed, error_of

COHERE = {"model": "turbo", "query": "q", "documents": ["a", "b", "c"], "top_n": 2}
ALBERT = {"model": "turbo", "prompt": "q", "input": ["a", "b", "c"]}
RANKED = [{"index": 0, "score": 0.1}, {"index": 2, "score": 0.9}, {"index": 1, "score": 0.5}]


@pytest.mark.parametrize("body", [COHERE, ALBERT], ids=["cohere", "albert"])
async def test_tei_is_asked_in_its_own_words(body: dict[str, Any]) -> None:
    """Both forms of request come to query and texts; TEI refuses what it does not know."""
    transport = Recorder(answer(RANKED))
    extra = {"truncate": True, "return_documents": True, "user": "u"}
    reply = await client_of(transport, "tei").send(called("rerank", {**body, **extra}), 1.0)
    assert transport.last.json() == {
        "query": "q",
        "texts": ["a", "b", "c"],
        "truncate": True,
        "return_text": True,
    }
    answered = json.loads(reply.body or b"")
    order = [2, 1] if "top_n" in body else [2, 1, 0]
    assert [each["index"] for each in answered["results"]] == order
    assert [each["index"] for each in answered["data"]] == order
    assert answered["results"][0] == {"index": 2, "relevance_score": 0.9}
    assert answered["data"][0] == {"object": "rerank", "index": 2, "score": 0.9}
    assert (answered["object"], answered["model"]) == ("list", "turbo")
    assert "content-length" not in reply.headers


async def test_documents_may_be_objects_and_come_back_where_they_are_asked_for() -> None:
    """As Cohere and Jina have them."""
    transport = Recorder(answer([{"index": 0, "score": 1, "text": "a"}]))
    body = {"query": "q", "documents": [{"text": "a"}, "b"]}
    reply = await client_of(transport, "tei").send(called("rerank", body), 1.0)
    assert transport.last.json()["texts"] == ["a", "b"]
    assert json.loads(reply.body or b"")["results"][0]["document"] == {"text": "a"}


@pytest.mark.parametrize(
    ("kind", "args", "names"),
    [("vllm", {}, ("query", "documents")), ("albert", {}, ("query", "documents")),
     ("albert", {"rerank_form": "albert"}, ("prompt", "input")), ("generic", {}, ("query", "documents"))],
)  # fmt: skip
@pytest.mark.parametrize("body", [COHERE, ALBERT], ids=["cohere", "albert"])
async def test_every_upstream_is_asked_in_the_form_that_it_knows(
    kind: str, args: dict[str, Any], names: tuple[str, str], body: dict[str, Any]
) -> None:
    """The caller need not know which of them answers."""
    transport = Recorder(answer({"results": []}))
    await client_of(transport, kind, args=args).send(called("rerank", body), 1.0)
    rest = {"top_n": 2} if "top_n" in body else {}
    assert transport.last.json() == {
        "model": "upstream-model",
        names[0]: "q",
        names[1]: ["a", "b", "c"],
        **rest,
    }


@pytest.mark.parametrize(
    "body",
    [
        {
            "id": "x",
            "results": [{"index": 1, "relevance_score": 0.5, "document": {"text": "b"}}],
            "usage": {"t": 3},
        },
        {"id": "x", "data": [{"index": 1, "score": 0.5, "object": "rerank", "text": "b"}], "usage": {"t": 3}},
    ],
    ids=["cohere", "albert"],
)
async def test_every_answer_has_both_lists_and_keeps_the_rest(body: dict[str, Any]) -> None:
    """So a caller of either kind reads the answer of any deployment."""
    reply = await client_of(Recorder(answer(body)), "vllm").send(called("rerank", COHERE), 1.0)
    assert json.loads(reply.body or b"") == {
        "object": "list", "model": "turbo", "id": "x", "usage": {"t": 3},
        "results": [{"index": 1, "relevance_score": 0.5, "document": {"text": "b"}}],
        "data": [{"object": "rerank", "index": 1, "score": 0.5}],
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"5", b'"x"', {"results": "x"}, {"results": [1]}, [{"index": 0}], [{"score": 1}],
     [{"index": -1, "score": 1}], [{"index": "0", "score": 1}], [{"index": 0, "score": "1"}],
     [{"index": 0, "score": True}], [{"index": True, "score": 1}], b"[" * 9999],
    ids=str,
)  # fmt: skip
async def test_an_answer_that_is_no_ranking_is_a_failure(body: Any) -> None:
    """Of the upstream: another one may do better."""
    with pytest.raises(UpstreamFailure) as caught:
        await client_of(Recorder(answer(body)), "tei").send(called("rerank", COHERE), 1.0)
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "q"}, "documents"),
        ({"query": "q", "documents": "a"}, "documents"),
        ({"query": "q", "documents": [1]}, "documents"),
        ({"query": "q", "documents": [{"x": "a"}]}, "documents"),
        ({**COHERE, "top_n": 0}, "top_n"),
        ({**COHERE, "top_n": "2"}, "top_n"),
        ({**COHERE, "top_n": 10**30}, "top_n"),
    ],
    ids=str,
)
async def test_a_wrong_request_is_refused_before_anything_is_sent(body: dict[str, Any], param: str) -> None:
    """With the name that the caller knows."""
    transport = Recorder(answer(RANKED))
    with pytest.raises(BadRequest) as caught:
        await client_of(transport, "tei").send(called("rerank", body), 1.0)
    assert caught.value.extra["param"] == param
    assert transport.sent == []


async def test_errors_of_tei_stay_errors() -> None:
    """They are no rankings."""
    error = answer(
        {"error": "batch size 64 > maximum allowed batch size 32", "error_type": "Validation"}, 413
    )
    reply = await client_of(Recorder(error), "tei").send(called("rerank", COHERE), 1.0)
    assert (reply.status, error_of(reply)["code"]) == (413, "Validation")


async def test_a_wrong_form_is_refused() -> None:
    """When it is loaded."""
    with pytest.raises(Misconfigured, match="rerank_form"):
        make_client(deployed("albert", args={"rerank_form": "jina"}), Recorder())
