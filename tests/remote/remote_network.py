"""A bad network in front of a coordinator: answers are lost, connections break, the far end moves."""

from __future__ import annotations

import socket
import threading

__all__ = ["Network"]


class Network:
    """Forwards to ``port``, request by request, and loses answers as it is told."""

    def __init__(self, port: int) -> None:
        self.port = port
        """Where the coordinator is; it may come back at another one."""
        self.lose: dict[bytes, int] = {}
        """Part of a request line -> every how manieth answer to such requests is lost."""
        self.lost = 0
        self._counts: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near:
            try:
                far = socket.create_connection(("127.0.0.1", self.port), 5)
            except OSError:
                return  # nobody there: the connection just breaks
            with far:
                doomed = threading.Event()
                back = threading.Thread(target=self._back, args=(far, near, doomed), daemon=True)
                back.start()
                self._forth(near, far, doomed)
                back.join(30)

    def _forth(self, near: socket.socket, far: socket.socket, doomed: threading.Event) -> None:
        try:
            while data := near.recv(65536):
                line = data.split(b"\r\n", 1)[0]
                if line.endswith(b" HTTP/1.1") and self._is_lost(line):
                    doomed.set()
                far.sendall(data)
        except OSError:
            pass
        _end(far)

    def _back(self, far: socket.socket, near: socket.socket, doomed: threading.Event) -> None:
        try:
            while data := far.recv(65536):
                if doomed.is_set():
                    break  # it has been done, and nobody hears of it
                near.sendall(data)
        except OSError:
            pass
        _end(near)

    def _is_lost(self, line: bytes) -> bool:
        with self._lock:
            for part, every in self.lose.items():
                if part in line:
                    self._counts[part] = self._counts.get(part, 0) + 1
                    if self._counts[part] % every == 0:
                        self.lost += 1
                        return True
        return False


def _end(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
