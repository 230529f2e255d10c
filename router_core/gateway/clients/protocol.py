"""What speaks to one deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from router_core.gateway.call import Call
from router_core.gateway.reply import Reply
from router_core.gateway.transport.connection import Coming
from router_core.gateway.values import Deployment

__all__ = ["ModelClient", "PromptClient"]


class PromptClient(Protocol):
    """What ``send`` of a client is made of, where it is made of an exchange alone."""

    def ask(self, call: Call, deadline: float) -> Coming | None:
        """Begin an attempt; None: it has to wait for something, so ``send`` makes it."""

    def received(self, call: Call, reply: Reply) -> Reply:
        """Return what ``send`` makes of the answer."""


class ModelClient(Protocol):
    """One deployment, called in the words of OpenAI and answering in them, whatever it speaks itself."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]]
    """Endpoint of ours (``chat/completions``, ``models``, ...) -> path at the upstream, after its base URL.
    An endpoint that is not in it cannot be called here."""
    deployment: Deployment

    async def send(self, call: Call, deadline: float) -> Reply:
        """Make one attempt; ``deadline`` is in seconds of ``loop.time()``.

        Returns whatever the upstream answered, errors in the shape of OpenAI; a stream (``reply.chunks``)
        where one was asked for and granted. Raises UpstreamFailure without a usable answer. A cancellation
        ends the call at the upstream.
        """

    async def aclose(self) -> None:
        """Let go of what belongs to this client alone; the transport is shared and stays."""
