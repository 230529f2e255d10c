"""Ports of 127.0.0.1 for servers that tests start, stop and start again: others are not given them.

A port that was found free and let go may be somebody else's a moment later, if only as the near end of a
connection. On Linux a socket that is bound and does not listen keeps it: a server with ``SO_REUSEADDR``,
which nearly all have, listens there all the same, and until it does, callers are refused.
"""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["HeldPort", "free_port"]


def free_port() -> int:
    """Return a port on which nobody listens; it is held as long as this process lives."""
    port = HeldPort()
    port.forget()
    return port.number


class HeldPort:
    """A port that is held until it is released, or nobody knows this object any more."""

    def __init__(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        self.number: int = sock.getsockname()[1]
        self._descriptor = -1
        if sys.platform == "linux":
            self._descriptor = sock.detach()
        else:  # nobody could listen there beside us
            sock.close()

    def release(self) -> None:
        """Let others have it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def forget(self) -> None:
        """Hold it for good."""
        self._descriptor = -1

    def __del__(self) -> None:
        self.release()
