"""A TCP proxy that breaks connections where a test says so: a bad network before a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable


class CuttingProxy:
    """Forwards to ``port``, and breaks the connection of requests that begin as ``lose`` or ``cut`` say."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lose: list[bytes] = []
        """Starts of requests whose answer is dropped, each once."""
        self.cut: list[tuple[bytes, int]] = []
        """Starts of requests whose answer is cut after so many bytes, each once."""
        self.seen: list[bytes] = []
        """First lines of all requests."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What to connect to."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return  # nobody there: the connection just breaks
            self._carry(near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with far:
            limit: list[int | None] = [None]

            def upwards(data: bytes) -> bytes:
                line = data.split(b"\r\n", 1)[0]
                if b" HTTP/1.1" in line:
                    self.seen.append(line)
                    limit[0] = self._limit(line)
                return data

            def downwards(data: bytes) -> bytes:
                left = limit[0]
                if left is None:
                    return data
                limit[0] = left - len(data)
                if len(data) >= left:
                    near.sendall(data[:left])
                    raise ConnectionAbortedError
                return data

            thread = threading.Thread(target=_copy, args=(near, far, upwards), daemon=True)
            thread.start()
            _copy(far, near, downwards)

    def _limit(self, line: bytes) -> int | None:
        for start in self.lose:
            if line.startswith(start):
                self.lose.remove(start)
                return 0
        for start, count in self.cut:
            if line.startswith(start):
                self.cut.remove((start, count))
                return count
        return None


def _copy(source: socket.socket, target: socket.socket, through: Callable[[bytes], bytes]) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(through(data))
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
