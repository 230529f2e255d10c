"""Anthropic's Messages API, spoken to in the words of OpenAI's chat completions.

    clients:
      - {type: anthropic, model: claude-sonnet-4-5, args: {api_key: "${ANTHROPIC_API_KEY}", max_tokens: 8192}}

Arguments beside those of every client: ``max_tokens`` (for callers that set none; 4096), ``version`` of the
API (2023-06-01), ``beta`` (a list: header anthropic-beta), ``pass_fields`` (more fields of the Messages API
that callers may use), and ``sampling one_sampler effort adaptive budget schema`` (true or false) where a
model takes something else than its name tells. How requests are translated: ``anthropic_request``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

import msgspec

from router_core.errors import Misconfigured
from router_core.gateway.call import Call
from router_core.gateway.clients.anthropic_answer import ERROR_STATUSES, read_message
from router_core.gateway.clients.anthropic_models import traits_of
from router_core.gateway.clients.anthropic_request import RequestWriter
from router_core.gateway.clients.anthropic_stream import EventTranslator
from router_core.gateway.clients.chat_request import read_chat, read_wanted
from router_core.gateway.clients.chat_stream import TranslatedStream, answer_headers
from router_core.gateway.clients.errors import error_body, masked
from router_core.gateway.clients.http import HttpClient, argument
from router_core.gateway.reply import Reply
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import Deployment

__all__ = ["AnthropicClient"]

_MAX_TOKENS: Final = 4096
_VERSION: Final = "2023-06-01"
_BEARER_SINCE: Final = "2026-10-21"
"""From this version on keys are sent as bearer tokens, and no model takes sampling parameters."""


class AnthropicClient(HttpClient):
    """One deployment at Anthropic, or at whoever speaks its Messages API."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {
        "chat/completions": "/v1/messages", "models": "/v1/models",
    }  # fmt: skip
    BASE_URL: ClassVar[str] = "https://api.anthropic.com"
    NEEDS_KEY: ClassVar[bool] = True

    def __init__(self, deployment: Deployment, transport: Transport) -> None:
        """Raises Misconfigured."""
        super().__init__(deployment, transport)
        max_tokens = argument(deployment, "max_tokens", int, _MAX_TOKENS)
        if max_tokens < 1:
            raise Misconfigured(f"{self._where}: max_tokens has to be at least 1")
        traits = traits_of(deployment.model, deployment.args)
        if self._version() >= _BEARER_SINCE:
            traits = replace(traits, sampling=False)
        passed = frozenset(_words(deployment, "pass_fields"))
        self._writer = RequestWriter(deployment.model, traits, max_tokens=max_tokens, passed=passed)

    def _version(self) -> str:
        return str(argument(self.deployment, "version", str, _VERSION))

    def _authorization(self) -> tuple[tuple[str, str], ...]:
        if self._version() >= _BEARER_SINCE:
            return super()._authorization()
        return (("x-api-key", self._key),)

    def _headers(self) -> tuple[tuple[str, str], ...]:
        betas = _words(self.deployment, "beta")
        beta = (("anthropic-beta", ",".join(betas)),) if betas else ()
        return (*super()._headers(), ("anthropic-version", self._version()), *beta)

    def _body(self, call: Call, fields: Mapping[str, msgspec.Raw]) -> bytes:
        return self._writer.write(read_chat(call), call.model_name)

    def _answer(self, call: Call, reply: Reply) -> Reply:
        json_tool = (
            self._writer.json_tool(*read_wanted(call)) if "response_format" in (call.fields or {}) else ""
        )
        model, created = self.deployment.model or call.model_name, int(time.time())
        if reply.chunks is None:
            body = read_message(reply.body or b"", model, created, json_tool)
            return Reply(reply.status, answer_headers(reply, "application/json"), body)
        translator = EventTranslator(model, created, self._error_event, json_tool)
        chunks = TranslatedStream(reply.chunks, translator)
        return Reply(reply.status, answer_headers(reply, "text/event-stream"), chunks=chunks)

    def _error_event(self, error: Mapping[str, Any]) -> bytes:
        """Return the event for an error inside a stream that began well."""
        kind, message = str(error.get("type", ""))[:100], str(error.get("message", ""))[:4000]
        status = ERROR_STATUSES.get(kind, 500)
        body = error_body(status, masked(message, self._secrets), kind=masked(kind, self._secrets),
                          code=masked(kind, self._secrets))  # fmt: skip
        return b"data: %b\n\n" % body


def _words(deployment: Deployment, name: str) -> list[str]:
    given = deployment.args.get(name) or []
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
        raise Misconfigured(f"deployment {deployment.id}: {name} has to be a list of words")
    return words
