"""Addresses that the API may name: public ones, unless the operator says otherwise; now and when called."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from router_core.gateway.config.urls import cleaned
from router_core.gateway.transport.resolve import Address, Resolver
from router_core.security.url_guard import Resolve, UrlGuard, UrlRefused, is_public, system_resolve

__all__ = ["PRIVATE_URLS", "Addresses", "FencedResolver", "flag"]

PRIVATE_URLS: Final = "ROUTER_ALLOW_PRIVATE_URLS"

_PATIENCE: Final = 3.0
_ANY_PORT: Final = frozenset(range(1, 65536))


def flag(environ: Mapping[str, str], name: str) -> bool:
    """Return whether a variable says yes."""
    return environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")


class Addresses:
    """Checks the addresses of deployments that come through the API."""

    def __init__(self, *, private: bool, resolve: Resolve = system_resolve) -> None:
        self._private = private
        self._resolve = resolve

    def clean(self, url: object, path: str) -> str:
        """Return an address as it is kept. Raises ValueError, naming the field and not the address."""
        if not isinstance(url, str):
            raise ValueError(f"{path}: has to be a string, such as https://host/v1")
        address, wrong = cleaned(url.strip())
        if wrong:
            raise ValueError(f"{path}: {wrong}")
        try:
            self._guard(self._resolve).parse(address)
        except UrlRefused as error:
            raise ValueError(f"{path}: {self._told(error)}") from None
        return address

    async def check(self, url: str, path: str) -> None:
        """Refuse an address whose name stands for one that is not public. Raises ValueError.

        A name that stands for nothing now is let through: whoever calls it later holds it to the same rule.
        """
        unknown = False

        async def resolve(host: str, port: int) -> Sequence[str]:
            nonlocal unknown
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await self._resolve(host, port)
            except (OSError, UnicodeError):  # TimeoutError is an OSError
                unknown = True
                raise OSError from None

        try:
            await self._guard(resolve).check(url)
        except UrlRefused as error:
            if not unknown:
                raise ValueError(f"{path}: {self._told(error)}") from None

    def _guard(self, resolve: Resolve) -> UrlGuard:
        return UrlGuard(allow_private=self._private, ports=_ANY_PORT, resolve=resolve)

    def _told(self, error: UrlRefused) -> str:
        hint = "" if self._private else " (the file allows private ones: control: {private_urls: true})"
        return f"{error.detail}{hint if 'public' in error.detail else ''}"


class FencedResolver(Resolver):
    """Gives only public addresses of hosts that the API alone has named, whatever they stand for by now."""

    def __init__(self, fenced: Callable[[], Collection[str]]) -> None:
        super().__init__()
        self._fenced = fenced

    async def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """Return the addresses of a name; raises ``socket.gaierror``, or OSError where none is left."""
        found = await super().addresses(host, port)
        if host.lower() not in self._fenced():
            return found
        public = tuple(each for each in found if _is_public(each))
        if not public:
            raise OSError("the host of the deployment has no public address")
        return public


def _is_public(address: Address) -> bool:
    try:
        return is_public(ipaddress.ip_address(str(address.target[0])))
    except ValueError:
        return False
