"""Whose address a request came from, where proxies stand in between."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from router_core.errors import Misconfigured
from router_core.http.message import Request

__all__ = ["ClientAddress", "parse_proxies"]

Network = IPv4Network | IPv6Network
_HOPS: Final = 20
"""Entries of X-Forwarded-For that are looked at, from the end."""
_KEPT: Final = 4096
_HOME: Final = 64
"""Bits of an IPv6 address that stand for one caller: the others are his to choose."""


def parse_proxies(text: str) -> tuple[Network, ...]:
    """Read ``ROUTER_TRUSTED_PROXIES``: addresses and networks, comma-separated. Raises Misconfigured."""
    found = []
    for entry in (part.strip() for part in text.split(",")):
        if not entry:
            continue
        try:
            found.append(ip_network(entry))
        except ValueError as error:
            raise Misconfigured(
                f"ROUTER_TRUSTED_PROXIES has {entry[:80]!r}; write addresses and networks, such as "
                f"10.0.0.0/8: {error}"
            ) from None
    return tuple(found)


class ClientAddress:
    """Tells the address that a request is counted under.

    It is the peer's, which nobody can choose. Where the peer is a proxy that is trusted, it is the last one
    of X-Forwarded-For that is not: what stands before it was written by the caller himself.
    """

    __slots__ = ("_home", "_known", "_proxies")

    def __init__(self, proxies: Iterable[Network] = (), *, whole: bool = False) -> None:
        """``whole``: of IPv6 all of it, to be read rather than to be counted by."""
        self._proxies = tuple(proxies)
        self._home = not whole
        self._known: dict[str, tuple[str, bool]] = {}

    def __call__(self, request: Request) -> str:
        """Return the address, of IPv6 the first half; empty where there is none."""
        address, trusted = self._look(request.client)
        if not trusted:
            return address
        hops = [hop for value in request.headers.getlist("x-forwarded-for") for hop in value.split(",")]
        for hop in reversed(hops[-_HOPS:]):
            before, trusted = self._look(_bare(hop.strip()))
            if not before:
                break  # no address: whoever wrote it knows nothing better
            address = before
            if not trusted:
                break
        return address

    def _look(self, text: str) -> tuple[str, bool]:
        """Return the address to count under, and whether it is that of a trusted proxy."""
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[text] = self._judge(text)
        return known

    def _judge(self, text: str) -> tuple[str, bool]:
        try:
            address = ip_address(text)
        except ValueError:
            return "", False  # a Unix socket, or nothing at all
        if address.version == 6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        trusted = any(address in network for network in self._proxies if network.version == address.version)
        if address.version == 4 or not self._home:
            return str(address), trusted
        return str(ip_network((int(address) >> _HOME << _HOME, _HOME))), trusted


def _bare(hop: str) -> str:
    """Return an address without the port that some proxies write behind it."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
