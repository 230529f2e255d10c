"""From a base URL, as people write it, to where connections go and which paths are asked for."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from router_core.errors import Misconfigured
from router_core.gateway.transport.protocol import Origin
from router_core.gateway.values import ENDPOINTS

__all__ = ["Address", "check_path", "parse_address"]

_PORTS: Final = {"http": 80, "https": 443}
_FORBIDDEN: Final = re.compile(r"[^\x21-\x7e]")
_VERSION: Final = re.compile(r"/v[0-9]+[a-z0-9]*(?=/|$)")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
"""Whether there is such a host is found out when it is called."""
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]+")


class Address:
    """One base URL, taken apart."""

    __slots__ = ("host_header", "origin", "path", "root")

    def __init__(self, origin: Origin, path: str) -> None:
        self.origin = origin
        self.path = path
        """Before the paths of a table, without a slash at its end."""
        self.root = path.removesuffix("/v1")
        """Before the paths of the server itself (``/health``)."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        standard = _PORTS[origin.scheme] == origin.port
        self.host_header = host if standard else f"{host}:{origin.port}"

    def join(self, path: str) -> str:
        """Return the path to ask for.

        A base that names its version (``.../v1``, ``.../v1beta/openai``, ``.../paas/v4``) stands for the
        ``/v1`` of the table, as it does for the clients of OpenAI; any other has the table's added. What is
        not below ``/v1`` stands beside it.
        """
        if not path.startswith("/v1/"):
            return (self.root + path) or "/"
        return self.path + (path[3:] if _VERSION.search(self.path) else path)


def parse_address(
    url: str, *, ca_file: str = "", where: str = "base_url", exact: bool = False
) -> Address:  # fmt: skip
    """Take a base URL apart; an ``exact`` one is no base, but all of an address.

    Raises Misconfigured, without showing what might be a password in it.
    """
    if not url or _FORBIDDEN.search(url):
        raise Misconfigured(f"{where}: write http(s)://host[:port][/path], without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Misconfigured(f"{where}: the host or the port cannot be read") from None
    host = parts.hostname or ""
    if parts.scheme not in _PORTS or not (_HOST.fullmatch(host) or _ADDRESS.fullmatch(host)):
        raise Misconfigured(f"{where}: write http(s)://host[:port][/path]")
    if parts.username is not None or parts.password is not None:
        raise Misconfigured(f"{where}: no name and password in a URL; write the key where keys are written")
    if parts.query or parts.fragment:
        raise Misconfigured(f"{where}: leave away what follows ? or #")
    path = parts.path if exact else parts.path.rstrip("/")
    for endpoint in () if exact else ENDPOINTS:
        path = path.removesuffix(f"/{endpoint}")  # the address of one endpoint, pasted as it was found
    check_path(path, where)
    origin = Origin(
        parts.scheme, host, port or _PORTS[parts.scheme], ca_file if parts.scheme == "https" else ""
    )
    return Address(origin, path)


def check_path(path: str, where: str) -> str:
    """Return the path if it can stand in a request line. Raises Misconfigured."""
    if not _PATH.fullmatch(path):
        raise Misconfigured(f"{where}: {path[:80]!r} is no path; write /like/this")
    return path
