"""How upstreams prove who they are. There is no way to switch it off."""

from __future__ import annotations

import asyncio
import ssl

__all__ = ["Contexts"]


class Contexts:
    """One TLS context for each private authority, and one for none; made once, as that reads files."""

    def __init__(self) -> None:
        self._made: dict[str, ssl.SSLContext] = {}

    async def get(self, ca_file: str) -> ssl.SSLContext:
        """Return the context that trusts the system's authorities and those of a file; raises ``OSError``."""
        context = self._made.get(ca_file)
        if context is None:
            context = await asyncio.get_running_loop().run_in_executor(None, make_context, ca_file)
            context = self._made.setdefault(ca_file, context)
        return context


def make_context(ca_file: str) -> ssl.SSLContext:
    """Read the authorities and fix what is spoken."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        context.load_verify_locations(ca_file)
    return context
