"""Whose credentials a deployment at Amazon Bedrock is called with."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from router_core.errors import Misconfigured, RouterError
from router_core.gateway.clients.bedrock_sigv4 import Credentials
from router_core.gateway.reply import UpstreamFailure
from router_core.gateway.values import Secret

__all__ = ["ChainSource", "CredentialSource", "FixedSource", "credential_source"]

_KEEP: Final = 60.0
"""Seconds for which what the SDK gave is used without asking again; it renews credentials long before they
expire."""


class CredentialSource(Protocol):
    """Where credentials come from."""

    async def get(self) -> Credentials:
        """Return credentials that hold. Raises UpstreamFailure where there are none."""


class FixedSource:
    """Credentials of the configuration."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def get(self) -> Credentials:
        """Return them."""
        return self._credentials


class ChainSource:
    """The chain of the AWS SDK, asked in a thread: it may read files and call other hosts."""

    def __init__(self) -> None:
        self._sdk: Any = None
        self._held: Credentials | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def get(self) -> Credentials:
        """Return what the chain gives; one look at a time, and none while the last one is fresh."""
        loop = asyncio.get_running_loop()
        if self._held is not None and loop.time() < self._until:
            return self._held
        async with self._lock:
            if self._held is None or loop.time() >= self._until:
                self._held = await self._look()
                self._until = loop.time() + _KEEP
            return self._held

    async def _look(self) -> Credentials:
        from router_core.gateway.clients.boto3 import SdkCredentials

        if self._sdk is None:
            self._sdk = SdkCredentials()
        try:
            return cast(Credentials, await asyncio.to_thread(self._sdk.get))
        except RouterError:
            raise
        except Exception as exc:
            text = f"no AWS credentials: {type(exc).__name__}"
            raise UpstreamFailure("unreachable", "connect", text) from exc


def credential_source(args: Mapping[str, Any], where: str) -> CredentialSource:
    """Read the credentials that ``args`` of a deployment name. Raises Misconfigured."""
    access, secret, token = (
        _text(args.get(name), f"{where}: {name}")
        for name in ("access_key_id", "secret_access_key", "session_token")
    )
    if access and secret:
        return FixedSource(Credentials(access, secret, token))
    if access or secret or token:
        raise Misconfigured(f"{where}: write access_key_id and secret_access_key, both of them")
    if args.get("credentials") == "default":
        return ChainSource()
    raise Misconfigured(
        f"{where}: type bedrock needs a key (api_key), or access_key_id and secret_access_key, or "
        "credentials: default for those that the AWS SDK finds"
    )


def _text(value: Any, where: str) -> str:
    text = value.reveal() if isinstance(value, Secret) else value
    if text is None:
        return ""
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise Misconfigured(f"{where} has to be a text without blanks at its ends or line breaks")
    return text.strip()
