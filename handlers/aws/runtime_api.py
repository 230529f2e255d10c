"""The HTTP interface between Lambda and the program in a function, spoken over one kept connection."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Invocation", "OutOfTime", "RuntimeApi", "RuntimeApiError"]

_ROOT: Final = "/2018-06-01/runtime"
_STREAM_TYPE: Final = "application/vnd.awslambda.http-integration-response"
_ERROR_TYPE: Final = "Lambda-Runtime-Function-Error-Type"
_ERROR_BODY: Final = "Lambda-Runtime-Function-Error-Body"
_LIMIT: Final = 64 * 1024


class RuntimeApiError(Exception):
    """The runtime API did not take an answer, or has gone away while it was sent."""


class OutOfTime(Exception):
    """The function's time is up while it still streams."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call, and what a handler's context says about it."""

    body: bytes
    aws_request_id: str
    invoked_function_arn: str
    deadline_ms: int
    trace_id: str = ""
    client_context: Any = None
    identity: Any = None

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the call may still take."""
        return max(0, self.deadline_ms - int(time.time() * 1000))

    @property
    def function_name(self) -> str:
        """The name of the function."""
        return os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "")

    @property
    def function_version(self) -> str:
        """The version of the function."""
        return os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", "")

    @property
    def memory_limit_in_mb(self) -> str:
        """The memory of the function."""
        return os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")

    @property
    def log_group_name(self) -> str:
        """Where its logs go."""
        return os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME", "")

    @property
    def log_stream_name(self) -> str:
        """Where the logs of this environment go."""
        return os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class RuntimeApi:
    """Asks for calls and sends their answers, one after the other."""

    def __init__(self, address: str) -> None:
        self._address = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def next(self) -> Invocation:
        """Wait for the next call. Raises ConnectionError when the environment ends."""
        answer = await self._exchange("GET", "/invocation/next")
        if answer.status != 200:
            raise ConnectionError(f"the runtime API answered {answer.status} when asked for a call")
        headers = answer.headers
        context = headers.get("lambda-runtime-client-context")
        return Invocation(
            body=answer.body,
            aws_request_id=headers.get("lambda-runtime-aws-request-id", ""),
            invoked_function_arn=headers.get("lambda-runtime-invoked-function-arn", ""),
            deadline_ms=int(headers.get("lambda-runtime-deadline-ms", "0")),
            trace_id=headers.get("lambda-runtime-trace-id", ""),
            client_context=json.loads(context) if context else None,
        )

    async def reply(self, request_id: str, body: bytes) -> None:
        """Send a whole answer. Raises RuntimeApiError when it is not taken."""
        path = f"/invocation/{request_id}/response"
        _taken(await self._exchange("POST", path, body, "content-type: application/json\r\n"))

    async def fail(self, request_id: str, error: Mapping[str, Any]) -> None:
        """Say that a call failed."""
        await self._failed(f"/invocation/{request_id}/error", error)

    async def init_error(self, error: Mapping[str, Any]) -> None:
        """Say that the function cannot start."""
        await self._failed("/init/error", error)

    async def _failed(self, path: str, error: Mapping[str, Any]) -> None:
        kind = f"{_ERROR_TYPE}: {error.get('errorType', 'Error')}\r\ncontent-type: application/json\r\n"
        await self._exchange("POST", path, json.dumps(error).encode(), kind)

    async def close(self) -> None:
        """Let go of the connection."""
        writer = self._writer
        self._close()
        if writer is not None:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def stream(
        self, request_id: str, head: bytes, chunks: AsyncGenerator[bytes, None], seconds: float
    ) -> None:
        """Send an answer piece by piece, ``head`` first, for up to so many seconds.

        An error of ``chunks`` is told at the end of the answer and raised, OutOfTime as well. Raises
        RuntimeApiError when the reader has gone; ``chunks`` is closed in any case.
        """
        _reader, writer = await self._opened()
        writer.write(
            self._head("POST", f"/invocation/{request_id}/response")
            + f"content-type: {_STREAM_TYPE}\r\nlambda-runtime-function-response-mode: streaming\r\n"
            f"transfer-encoding: chunked\r\ntrailer: {_ERROR_TYPE}, {_ERROR_BODY}\r\n\r\n".encode()
        )
        failed: Exception | None = None
        answer = asyncio.ensure_future(self._answer())
        try:
            failed = await self._pieces(writer, head, chunks, answer, seconds)
            writer.write(_trailer(failed))
            await writer.drain()
            _taken(await answer)
        except (OSError, EOFError, ValueError) as error:
            raise RuntimeApiError(str(error) or type(error).__name__) from error
        finally:
            await chunks.aclose()
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                answer.cancel()
                await asyncio.wait([answer])
                self._close()
        if failed is not None:
            raise failed

    async def _pieces(
        self, writer: asyncio.StreamWriter, head: bytes, chunks: AsyncGenerator[bytes, None],
        answer: asyncio.Future[_Answer], seconds: float,
    ) -> Exception | None:  # fmt: skip
        """Send the pieces; returns the error that they ended with."""
        now = asyncio.get_running_loop().time
        until = now() + seconds
        writer.write(_chunk(head))
        await writer.drain()
        while True:
            step = asyncio.ensure_future(_next(chunks))
            left = max(0.0, until - now())
            try:
                await asyncio.wait((step, answer), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not step.done():  # the function is stopped where it stands
                    step.cancel()
                    await asyncio.wait([step])
            if answer.done():
                raise EOFError("the answer was given up")
            if step.cancelled():
                return OutOfTime("the function may not run any longer; the stream ends before its end")
            error = step.exception()
            if error is not None:
                return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
            piece = step.result()
            if piece is None:
                return None
            if piece:
                writer.write(_chunk(piece))
                await writer.drain()

    # --- the connection --------------------------------------------------------------------------

    async def _exchange(self, method: str, path: str, body: bytes = b"", headers: str = "") -> _Answer:
        _reader, writer = await self._opened()
        length = f"content-length: {len(body)}\r\n" if method == "POST" else ""
        writer.write(self._head(method, path) + f"{headers}{length}\r\n".encode() + body)
        try:
            await writer.drain()
            return await self._answer()
        except (OSError, EOFError) as error:
            self._close()
            raise ConnectionError(str(error) or "the runtime API has gone") from error

    def _head(self, method: str, path: str) -> bytes:
        return f"{method} {_ROOT}{path} HTTP/1.1\r\nhost: {self._address}\r\n".encode()

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = self._reader, self._writer
        if reader is None or writer is None or writer.is_closing() or reader.at_eof():
            self._close()
            reader, writer = await asyncio.open_connection(self._host, self._port, limit=_LIMIT)
            self._reader, self._writer = reader, writer
        return reader, writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _answer(self) -> _Answer:
        reader = self._reader
        if reader is None:
            raise EOFError("there is no connection")
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = await _unchunked(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0") or 0))
        if headers.get("connection", "").lower() == "close":
            self._close()
        return _Answer(int(lines[0].split(" ", 2)[1]), headers, body)


async def _unchunked(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        size = int((await reader.readline()).partition(b";")[0], 16)
        parts.append(await reader.readexactly(size))
        if size == 0:
            while (await reader.readline()).strip():
                pass
            return b"".join(parts)
        await reader.readexactly(2)


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(chunks, None)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _trailer(error: Exception | None) -> bytes:
    if error is None:
        return b"0\r\n\r\n"
    told = json.dumps({"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": []})
    body = base64.b64encode(told.encode()).decode()
    return f"0\r\n{_ERROR_TYPE}: {type(error).__name__}\r\n{_ERROR_BODY}: {body}\r\n\r\n".encode()


def _taken(answer: _Answer) -> None:
    if answer.status not in (200, 202):
        said = answer.body[:300].decode("utf-8", "replace")
        raise RuntimeApiError(f"the runtime API answered {answer.status}: {said}")
