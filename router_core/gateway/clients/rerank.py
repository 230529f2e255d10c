"""Rerank has no standard: two forms of request and three of answer, brought into one here.

A caller may write Cohere's words (``query``, ``documents``, ``top_n``, as Jina and vLLM do) or those of the
earlier Albert API (``prompt``, ``input``). Whatever the upstream speaks, the answer has both lists, best
first: ``results`` of ``{"index", "relevance_score"}`` and ``data`` of ``{"object", "index", "score"}``. What
else an upstream says in it (``id``, ``usage``, ``meta``) stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router_core.errors import Misconfigured
from router_core.gateway.call import Call
from router_core.gateway.clients.http import HttpClient, argument
from router_core.gateway.json import invalid
from router_core.gateway.reply import Reply, UpstreamFailure

__all__ = ["RerankingClient", "rank", "reranked", "tei_fields"]

_QUERY: Final = ("query", "prompt")
_DOCUMENTS: Final = ("documents", "input", "texts")
_TEI_FIELDS: Final = ("raw_scores", "truncate", "truncation_direction")
_MAX_TOP: Final = 1_000_000

_encode: Final = msgspec.json.Encoder().encode


class _Document(msgspec.Struct):
    text: str


_decode_documents: Final = msgspec.json.Decoder(list[str | _Document]).decode


class RerankingClient(HttpClient):
    """An OpenAI-compatible deployment that serves ``rerank`` too."""

    RERANK_FORM = "cohere"
    """cohere: query, documents. albert: prompt, input. tei: query, texts. ``rerank_form`` of args
    overrides it."""

    def _own_table(self) -> dict[str, str]:
        self._form = argument(self.deployment, "rerank_form", str, self.RERANK_FORM)
        if self._form not in ("cohere", "albert", "tei"):
            raise Misconfigured(f"{self._where}: rerank_form has to be cohere, albert or tei")
        return super()._own_table()

    def _body(self, call: Call, fields: Mapping[str, msgspec.Raw]) -> bytes:
        if call.endpoint != "rerank":
            return super()._body(call, fields)
        _top(fields)  # a wrong one is refused before anything is sent
        if self._form == "tei":
            return _encode(tei_fields(fields))
        names = ("prompt", "input") if self._form == "albert" else ("query", "documents")
        return super()._body(call, _renamed(fields, names))

    def _answer(self, call: Call, reply: Reply) -> Reply:
        return reranked(call, reply) if call.endpoint == "rerank" else reply


def _renamed(fields: Mapping[str, msgspec.Raw], names: tuple[str, str]) -> dict[str, msgspec.Raw]:
    """Return the fields of a call with query and documents under these names."""
    query, documents = _first(fields, _QUERY, names[0]), _first(fields, _DOCUMENTS, names[1])
    sent = {name: value for name, value in fields.items() if name not in _QUERY + _DOCUMENTS}
    return {**sent, names[0]: query, names[1]: documents}


def tei_fields(fields: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """Return what TEI's ``/rerank`` takes: it knows no documents that are objects, and no top_n."""
    query = _first(fields, _QUERY, "query")
    try:
        documents = _decode_documents(_first(fields, _DOCUMENTS, "documents"))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise invalid("documents has to be a list of texts", "documents") from None
    sent: dict[str, Any] = {name: fields[name] for name in _TEI_FIELDS if name in fields}
    sent["query"] = query
    sent["texts"] = [each if isinstance(each, str) else each.text for each in documents]
    if _is_true(fields, "return_documents") or _is_true(fields, "return_text"):
        sent["return_text"] = True
    return sent


def reranked(call: Call, reply: Reply) -> Reply:
    """Return the answer of any upstream in the common shape. Raises UpstreamFailure where it has none."""
    try:
        answer = msgspec.json.decode(reply.body or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _malformed() from None
    rest = answer if isinstance(answer, dict) else {}
    listed = answer if isinstance(answer, list) else rest.get("results", rest.get("data"))
    body = {"object": "list", "model": call.model_name, **rest, **rank(listed, _top(call.fields or {}))}
    headers = {name: value for name, value in reply.headers.items() if name != "content-length"}
    return Reply(reply.status, headers, _encode(body))


def rank(listed: Any, top: int | None) -> dict[str, list[dict[str, Any]]]:
    """Return both lists, best first. Raises UpstreamFailure for anything that is no ranking."""
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise _malformed()
    results, data = [], []
    for each in sorted(listed, key=_score, reverse=True)[:top]:
        index, score, text = each.get("index"), _score(each), each.get("text")
        if type(index) is not int or index < 0:
            raise _malformed()
        document = {"text": text} if isinstance(text, str) else each.get("document")
        extra = {} if document is None else {"document": document}
        results.append({"index": index, "relevance_score": score, **extra})
        data.append({"object": "rerank", "index": index, "score": score})
    return {"results": results, "data": data}


def _score(result: Mapping[str, Any]) -> float:
    score = result.get("relevance_score", result.get("score"))
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise _malformed()
    return score


def _first(fields: Mapping[str, msgspec.Raw], names: tuple[str, ...], shown: str) -> msgspec.Raw:
    for name in names:
        if name in fields:
            return fields[name]
    raise invalid(f"you must provide {shown}", shown, "missing_value")


def _is_true(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    return name in fields and bytes(fields[name]) == b"true"


def _top(fields: Mapping[str, msgspec.Raw]) -> int | None:
    raw = fields.get("top_n")
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        value = msgspec.json.decode(raw, type=int)
    except msgspec.MsgspecError:
        value = 0
    if not 1 <= value <= _MAX_TOP:
        raise invalid("top_n has to be a whole number, 1 or more", "top_n")
    return value


def _malformed() -> UpstreamFailure:
    return UpstreamFailure("malformed", "body", "the answer is no ranking", sent=True, started=True)
