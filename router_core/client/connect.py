"""From an address to a client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, overload
from urllib.parse import urlsplit

from router_core.client.aio import AsyncClient
from router_core.client.dialect import Dialect
from router_core.client.exchange import Exchange
from router_core.client.native import NativeDialect
from router_core.client.retry import Retry
from router_core.client.sync import Client
from router_core.client.tls import Verify, trust
from router_core.client.transport import Transport
from router_core.errors import Misconfigured

__all__ = ["connect", "open_client"]

Protocol = Literal["", "native", "runpod"]
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@overload
def connect(
    url: str, *, api_key: str | None = ..., protocol: Protocol = ..., asynchronous: Literal[False] = ...,
    headers: Mapping[str, str] | None = ..., retry: Retry | None = ..., transport: Transport | None = ...,
    verify: Verify = ...,
) -> Client: ...  # fmt: skip
@overload
def connect(
    url: str, *, api_key: str | None = ..., protocol: Protocol = ..., asynchronous: Literal[True],
    headers: Mapping[str, str] | None = ..., retry: Retry | None = ..., transport: Transport | None = ...,
    verify: Verify = ...,
) -> AsyncClient: ...  # fmt: skip
def connect(
    url: str, *, api_key: str | None = None, protocol: Protocol = "", asynchronous: bool = False,
    headers: Mapping[str, str] | None = None, retry: Retry | None = None, transport: Transport | None = None,
    verify: Verify = True,
) -> Client | AsyncClient:  # fmt: skip
    """Return a client of the service at ``url``; nothing is sent before the first call.

    ``protocol`` is found out from the address: ``runpod`` for ``https://api.runpod.ai/v2/<endpoint>``, else
    ``native``. ``verify`` may be a file or folder of certificates to trust; by default they are those of
    SSL_CERT_FILE and SSL_CERT_DIR, else the public ones. ``asynchronous=True`` gives the client for
    asynchronous programs.
    """
    client = open_client(
        url, api_key=api_key, protocol=protocol, headers=headers, retry=retry, transport=transport,
        verify=verify,
    )  # fmt: skip
    return client if asynchronous else Client(client)


def open_client(
    url: str, *, api_key: str | None = None, protocol: Protocol = "",
    headers: Mapping[str, str] | None = None, retry: Retry | None = None, transport: Transport | None = None,
    verify: Verify = True,
) -> AsyncClient:  # fmt: skip
    """Return an asynchronous client."""
    address = urlsplit(url if "://" in url else f"http://{url}")
    if address.scheme not in ("http", "https") or not address.hostname:
        raise Misconfigured(f"{url!r} is not the address of a service; one looks like http://127.0.0.1:8000")
    if transport is None:
        # httpx is large: only a client that needs it pays for it
        from router_core.client.httpx_transport import HttpxTransport

        transport = HttpxTransport(
            verify=trust(verify, os.environ), proxies=address.hostname not in _LOOPBACK
        )
    pairs = [("user-agent", "router-core"), *(headers or {}).items()]
    if api_key:
        pairs.append(("authorization", f"Bearer {api_key}"))
    exchange = Exchange(transport, address.geturl(), headers=pairs, retry=retry or Retry())
    return AsyncClient(_dialect(exchange, protocol or _guessed(address.hostname)))


def _guessed(host: str) -> str:
    return "runpod" if host == "api.runpod.ai" or host.endswith(".api.runpod.ai") else "native"


def _dialect(exchange: Exchange, protocol: str) -> Dialect:
    if protocol == "native":
        return NativeDialect(exchange)
    if protocol == "runpod":
        from router_core.client.runpod import RunpodDialect

        return RunpodDialect(exchange)
    raise Misconfigured(f"there is no protocol {protocol!r}; there are native and runpod")
