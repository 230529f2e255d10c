"""Decide whether a URL that somebody else chose may be connected to, and to which addresses (SSRF).

A name is resolved once, every address it has must be public, and the connection is made to one of exactly
these addresses: a name that answers differently the second time gains nothing. What cannot be read in only
one way is refused instead of being interpreted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from router_core.errors import BadRequest

__all__ = [
    "DEFAULT_PORTS",
    "Resolve",
    "Target",
    "UrlGuard",
    "UrlRefused",
    "is_public",
    "system_resolve",
]

DEFAULT_PORTS: Final = frozenset({80, 443, 8080, 8443})
"""Ports of web servers. Others speak protocols that can be talked to by accident (SMTP, Redis)."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port -> addresses; raises OSError when there are none."""

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address

_MAX_URL: Final = 8192
_MAX_HOST: Final = 253
_MAX_ADDRESSES: Final = 16
_SCHEME_PORTS: Final = {"http": 80, "https": 443}

# Python's own is_global has changed with patch releases; this table does not.
_NOT_PUBLIC_V4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers; cloud metadata lives here, too
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud platform's wire server, reachable from its machines only
        "169.254.0.0/16",  # link local: metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""The only IPv6 space that is public at all: everything outside it is refused without being listed."""
_NOT_PUBLIC_V6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})

# With ``allow_private``: what a developer's own machine and network use, and nothing else.
_PRIVATE: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
        "::1/128", "fc00::/7",
    )
)  # fmt: skip

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_BRACKETED: Final = re.compile(r"\[[^\[\]]+\](?::[0-9]+)?\Z")
_NUMERIC: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\\u0080-\u00a0\u2028\u2029\ufeff\ud800-\udfff]")
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "lan", "home.arpa", "onion")


class UrlRefused(BadRequest):
    """The URL is malformed, or names a place that this server does not connect to."""

    code = "url_not_allowed"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that passed, with the addresses to connect to: connect to nothing else."""

    scheme: str
    host: str
    """ASCII, lower case; without brackets. Goes into SNI, the certificate check and the Host header."""
    port: int
    path: str
    """Path and query, as it stands in a request line."""
    addresses: tuple[str, ...] = ()
    """Empty until the name has been resolved."""

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _SCHEME_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the URL in its one normal form."""
        return f"{self.scheme}://{self.authority}{self.path}"


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver, without blocking the event loop."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


class UrlGuard:
    """Checks URLs. ``allow_private`` is for development: it also lets through the loopback and private
    networks (never link-local ones, where clouds keep credentials) on any port."""

    __slots__ = ("_allow_private", "_ports", "_resolve", "_schemes")

    def __init__(
        self,
        *,
        allow_private: bool = False,
        ports: frozenset[int] = DEFAULT_PORTS,
        schemes: frozenset[str] = frozenset(_SCHEME_PORTS),
        resolve: Resolve = system_resolve,
    ) -> None:
        self._allow_private = allow_private
        self._ports = ports
        self._schemes = schemes & frozenset(_SCHEME_PORTS)
        self._resolve = resolve

    def parse(self, url: str) -> Target:
        """Return the target without addresses, after every check that needs no resolver."""
        parts = _split(url)
        if parts.scheme not in self._schemes:
            raise UrlRefused(
                f"the URL must begin with {' or '.join(f'{s}://' for s in sorted(self._schemes))}"
            )
        if "@" in parts.netloc:
            raise UrlRefused("the URL must not carry a user name or password")
        host, port = _authority(parts)
        if not self._allow_private:
            if port not in self._ports:
                raise UrlRefused(f"port {port} is not allowed; allowed are {_listed(self._ports)}")
            if _is_local_name(host):
                raise _no_public_address()
        address = _literal(host)
        if address is not None and not self._passes(address):
            raise _no_public_address()
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]") if parts.query else ""
        return Target(parts.scheme, host, port, path + query)

    async def check(self, url: str) -> Target:
        """Return the target with its addresses. Raises UrlRefused.

        A name that does not exist and a name with a private address give the same answer, so that nobody
        can list the names of a private network with it.
        """
        target = self.parse(url)
        if _literal(target.host) is not None:
            return Target(target.scheme, target.host, target.port, target.path, (target.host,))
        try:
            found = await self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            raise _no_public_address() from None
        addresses = tuple(dict.fromkeys(found))
        if not addresses or not all(self._passes_text(address) for address in addresses):
            raise _no_public_address()
        return Target(target.scheme, target.host, target.port, target.path, addresses[:_MAX_ADDRESSES])

    def _passes_text(self, text: str) -> bool:
        try:
            return self._passes(ipaddress.ip_address(text))
        except ValueError:
            return False

    def _passes(self, address: IPv4 | IPv6) -> bool:
        if is_public(address):
            return True
        return self._allow_private and any(
            address in network for network in _PRIVATE if network.version == address.version
        )


def is_public(address: IPv4 | IPv6) -> bool:
    """Return whether the address belongs to the public internet, looking inside embedded IPv4 addresses."""
    if isinstance(address, IPv4):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        # How a machine without IPv4 reaches the public IPv4 internet: as public as what stands inside.
        return is_public(IPv4(int(address) & 0xFFFFFFFF))
    if address not in _GLOBAL_UNICAST or any(address in network for network in _NOT_PUBLIC_V6):
        return False
    # ISATAP tunnels to the IPv4 address in the last 32 bits.
    return (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP


def _split(url: str) -> SplitResult:
    if not url:
        raise UrlRefused("the URL is empty")
    if len(url) > _MAX_URL:
        raise UrlRefused(f"the URL is longer than {_MAX_URL} characters")
    # urlsplit drops tabs and line breaks and reads a backslash in its own way; browsers and servers differ.
    if _FORBIDDEN.search(url):
        raise UrlRefused("the URL holds a space, a control character or a backslash")
    try:
        return urlsplit(url)
    except ValueError:
        raise UrlRefused("the URL is malformed") from None


def _authority(parts: SplitResult) -> tuple[str, int]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UrlRefused("the port of the URL is not a number between 1 and 65535") from None
    if not host:
        raise UrlRefused("the URL names no host")
    if port == 0 or parts.netloc.endswith(":"):
        raise UrlRefused("the port of the URL is not a number between 1 and 65535")
    port = _SCHEME_PORTS[parts.scheme] if port is None else port
    if "[" not in parts.netloc:
        return _name(host), port
    if not _BRACKETED.match(parts.netloc):
        raise UrlRefused("the host name of the URL is malformed")
    return _ipv6(host), port


def _ipv6(host: str) -> str:
    if "%" in host:
        raise UrlRefused("the URL names an IPv6 zone")
    try:
        return str(IPv6(host))
    except ValueError:
        raise UrlRefused("the IPv6 address of the URL is malformed") from None


def _name(host: str) -> str:
    """Return the host in ASCII, or the IPv4 address in its one accepted form."""
    if len(host) > _MAX_HOST:
        raise UrlRefused("the host name of the URL is malformed")
    if not host.isascii():
        try:
            # Folds full-width digits, ideographic stops and the like before anything is decided.
            host = host.encode("idna").decode("ascii").lower()
        except UnicodeError:
            raise UrlRefused("the host name of the URL is malformed") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > _MAX_HOST or not all(_LABEL.match(label) for label in labels):
        raise UrlRefused("the host name of the URL is malformed")
    if _NUMERIC.match(labels[-1]):
        try:
            return str(IPv4(host))
        except ValueError:
            raise UrlRefused("an IPv4 address must be written as four decimal numbers") from None
    return host


def _literal(host: str) -> IPv4 | IPv6 | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_local_name(host: str) -> bool:
    return any(host == name or host.endswith("." + name) for name in _LOCAL_NAMES)


def _no_public_address() -> UrlRefused:
    return UrlRefused("the host of the URL has no public address")


def _listed(ports: frozenset[int]) -> str:
    return ", ".join(str(port) for port in sorted(ports))
