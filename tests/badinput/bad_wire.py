"""Requests as bytes, so that nothing between a test and the server mends them, and answers taken apart."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CT_JSON",
    "Answer",
    "Bad",
    "chunked",
    "get",
    "many",
    "multipart",
    "part",
    "post",
    "request",
    "send",
]

CT_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that must be refused, and how."""

    name: str
    status: int
    raw: bytes
    code: str = ""
    """Stable code of the problem; empty: not fixed."""
    headers: tuple[str, ...] = ()
    """Headers that the answer must have."""
    loc: tuple[str | int, ...] | None = None
    """Where the first of ``errors`` must be."""
    framing: bool = False
    """HTTP itself is broken: the connection must be closed, and nothing after it be served."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    rest: bytes
    """What came after it on the same connection, where that was read."""
    closed: bool

    @property
    def problem(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def request(
    method: str, target: str | bytes, body: bytes = b"", *, host: str = "localhost",
    fields: Mapping[str, str] | None = None, **headers: str,
) -> bytes:  # fmt: skip
    """Return a request; an underscore in a header's name is a dash. A body gets its Content-Length."""
    headers = {**(fields or {}), **headers}
    path = target if isinstance(target, bytes) else target.encode("utf-8", "surrogatepass")
    lines = [method.encode() + b" " + path + b" HTTP/1.1", b"host: " + host.encode("latin-1")]
    if body and "content_length" not in headers and "transfer_encoding" not in headers:
        lines.append(b"content-length: %d" % len(body))
    lines += [
        name.replace("_", "-").encode() + b": " + value.encode("latin-1") for name, value in headers.items()
    ]
    return b"\r\n".join([*lines, b"", body])


def get(target: str | bytes, **headers: str) -> bytes:
    """Return a GET."""
    return request("GET", target, fields=headers)


def post(target: str | bytes, body: Any = b"", content_type: str = CT_JSON, **headers: str) -> bytes:
    """Return a POST; what is neither bytes nor text is written as JSON."""
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    elif not isinstance(body, bytes):
        body = json.dumps(body).encode()
    kind = {"content_type": content_type} if content_type else {}
    return request("POST", target, body, fields={**kind, **headers})


def many(*lines: bytes, method: bytes = b"GET", target: bytes = b"/hello", body: bytes = b"") -> bytes:
    """Return a request with header lines as they are, for what a mapping cannot hold."""
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"host: localhost", *lines, b"", body])


def chunked(target: str, *chunks: bytes, content_type: str = CT_JSON, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a POST with a body in chunks."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return request("POST", target, body, content_type=content_type, transfer_encoding="chunked")


def part(
    disposition: str = 'form-data; name="image"; filename="a.png"', data: bytes = b"data", *headers: str
) -> bytes:
    """Return one part of a multipart body, with its boundary before it."""
    lines = ["--BOUND", *([f"Content-Disposition: {disposition}"] if disposition else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + data + b"\r\n"


def multipart(
    target: str, *parts: bytes, end: bytes = b"--BOUND--\r\n", content_type: str = "", **headers: str
) -> bytes:
    """Return a POST of parts."""
    kind = content_type or "multipart/form-data; boundary=BOUND"
    return post(target, b"".join(parts) + end, kind, **headers)


def send(port: int, raw: bytes, *, timeout: float = 15.0, to_the_end: bool = False) -> Answer:
    """Send bytes and read the first answer; ``to_the_end`` reads on until the server closes.

    The bytes are sent from another thread: a server may answer, and close, before it has read them all.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        if len(raw) < 32 * 1024:
            sock.sendall(raw)
            return _read(sock, to_the_end)
        thread = threading.Thread(target=_push, args=(sock, raw))
        thread.start()
        try:
            return _read(sock, to_the_end)
        finally:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            thread.join()


def _push(sock: socket.socket, raw: bytes) -> None:
    try:
        sock.sendall(raw)
    except OSError:
        pass  # it has heard enough


def _read(sock: socket.socket, to_the_end: bool) -> Answer:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(sock)
    head, _, data = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(data) < length:
        data += _receive(sock)
    closed = False
    rest = data[length:]
    while to_the_end and not closed:
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            more = b""
        closed = not more
        rest += more
    return Answer(int(first.split(" ")[1]), headers, data[:length], rest, closed)


def _receive(sock: socket.socket) -> bytes:
    more = sock.recv(65536)
    if not more:
        raise EOFError("the connection was closed without a whole answer")
    return more
