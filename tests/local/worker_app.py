"""What a worker process of the supervisor's test runs."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

from handlers.local.server import ServeOptions, run_worker
from handlers.local.workers import Supervisor, end_with_parent
from router_core.http.message import Request, Response
from tests.local.tiny_app import TinyApp


async def whoami(_request: Request) -> Response:
    """Answer with the process id."""
    return Response.text(str(os.getpid()))


async def slow(_request: Request) -> Response:
    """Answer after a while."""
    await asyncio.sleep(1)
    return Response.text("done")


class Stubborn(TinyApp):
    """Does not drain."""

    async def drain(self, grace: float) -> None:
        """Take far too long."""
        await asyncio.sleep(60)


def work(kind: str, sockets: list[socket.socket]) -> None:
    """Serve in a worker."""
    end_with_parent()
    if kind == "broken":
        raise SystemExit(3)
    make = Stubborn if kind == "stubborn" else TinyApp
    app = make({("GET", "/echo"): whoami, ("GET", "/slow"): slow}, drain_grace=300.0)
    raise SystemExit(run_worker(app, ServeOptions(), sockets))


def main() -> int:
    """Supervise two workers; the port is printed."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        print(sock.getsockname()[1], flush=True)
        return Supervisor(work, (sys.argv[1],), 2, [sock], 5.0).run()


if __name__ == "__main__":
    sys.exit(main())
