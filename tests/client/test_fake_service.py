"""The service that the client is tested with leaves nothing behind for a later test to fail of."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

from tests.client.fake_service import FakeService, Reply


def test_it_hangs_up_on_everybody_when_it_ends() -> None:
    """On one who does not read a large answer, and on one who has only just come and says nothing."""
    with FakeService().running() as service:
        service.answers["GET /large"] = Reply(200, b"x" * 40_000_000)
        address = (urlsplit(service.url).hostname or "", urlsplit(service.url).port or 0)
        callers = [socket.create_connection(address, 30) for _ in range(2)]
        callers[0].sendall(b"GET /large HTTP/1.1\r\n\r\n")
        assert callers[0].recv(1)
    for caller in callers:
        with caller, contextlib.suppress(ConnectionResetError):
            while caller.recv(1_000_000):
                pass
