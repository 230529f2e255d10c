"""Parameters that a deployment sets where the caller says nothing: temperature, max_tokens, ..."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router_core.gateway.call import Call
from router_core.gateway.clients.protocol import ModelClient
from router_core.gateway.reply import Reply

__all__ = ["with_defaults"]

_encode: Final = msgspec.json.Encoder().encode
_WRITING: Final = ("chat/completions", "completions")
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_RESPONSES: Final = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_output_tokens"}
"""What ``responses`` takes of them, and how it calls that."""


def with_defaults(client: ModelClient) -> ModelClient:
    """Let a client fill in what its deployment sets. Clients of deployments without any stay as they are."""
    defaults = client.deployment.defaults
    plain = {name: msgspec.Raw(_encode(value)) for name, value in defaults.items()}
    tables: Mapping[str, Mapping[str, msgspec.Raw]] = {
        **dict.fromkeys(_WRITING, plain),
        "responses": {_RESPONSES[name]: value for name, value in plain.items() if name in _RESPONSES},
    }

    def filled(call: Call) -> Call:
        fields, table = call.fields, tables.get(call.endpoint)
        if fields is None or table is None:
            return call
        left: Mapping[str, Any] = table
        if any(name in fields for name in _LIMITS):
            left = {name: value for name, value in table.items() if name not in _LIMITS}
        own = copy.copy(call)  # the next attempt may go to somebody with other defaults
        own.fields = {**left, **fields}
        return own

    send, ask = client.send, getattr(client, "ask", None)

    async def send_filled(call: Call, deadline: float) -> Reply:
        return await send(filled(call), deadline)

    # it is this one that differs, not its type
    client.send = send_filled  # type: ignore[method-assign]
    if ask is not None:
        # a connection that waits is asked without ``send``
        client.ask = lambda call, deadline: ask(filled(call), deadline)  # type: ignore[attr-defined]
    return client
