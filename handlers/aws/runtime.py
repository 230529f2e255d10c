"""A runtime of our own that streams: ``python -m handlers.aws.runtime``.

AWS's client for Python collects an answer before it sends it. This one sends the answers of a function URL
(with ``InvokeMode: RESPONSE_STREAM``) piece by piece as they are made, and everything else as AWS does. It
runs as the command of a container image, or in the managed runtime where AWS_LAMBDA_EXEC_WRAPPER names the
script ``handlers/aws/bootstrap``. Needs no package beside the core.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import pydantic_core

from handlers.aws.events import HTTP_V2, sniff
from handlers.aws.function import LambdaApp, build
from handlers.aws.http_v2 import is_url, prelude
from handlers.aws.runtime_api import Invocation, RuntimeApi, RuntimeApiError
from router_core.http.message import Response
from router_core.telemetry.events import Note

__all__ = ["main", "serve"]

_MARGIN: Final = 0.5
"""Seconds before the deadline at which a stream that still runs is ended, so that its reader learns why."""


async def serve(app: LambdaApp, api: RuntimeApi) -> None:
    """Answer invocations until the runtime API is gone."""
    while True:
        invocation = await api.next()
        os.environ["_X_AMZN_TRACE_ID"] = invocation.trace_id
        app.telemetry.begin(invocation)
        try:
            with app.traced():
                await _answered(app, api, invocation)
        finally:
            await app.loop.settle()


async def _answered(app: LambdaApp, api: RuntimeApi, invocation: Invocation) -> None:
    try:
        event = pydantic_core.from_json(invocation.body)
        if sniff(event) == HTTP_V2 and is_url(event):
            response = await app.calls.respond(HTTP_V2, event, invocation)
            await _streamed(app, api, invocation, response)
            return
        reply = await app.answer(event, invocation)
        body = json.dumps(reply, ensure_ascii=False).encode("utf-8", "replace")
    except Exception as error:
        app.note(Note("invocation_failed", "error", str(error), error=error))
        await api.fail(invocation.aws_request_id, _told(error))
        return
    try:
        await api.reply(invocation.aws_request_id, body)
    except RuntimeApiError as error:  # too large: nobody gets it
        app.note(Note("reply_refused", "error", str(error), {"bytes": len(body)}))
        await api.fail(invocation.aws_request_id, _told(error))


async def _streamed(app: LambdaApp, api: RuntimeApi, invocation: Invocation, response: Response) -> None:
    response, fields, request_id = app.calls.sendable(response)
    head = prelude(response.status, fields, request_id)
    seconds = invocation.get_remaining_time_in_millis() / 1000 - _MARGIN
    try:
        await api.stream(invocation.aws_request_id, head, _chunks(response.body), seconds)
    except RuntimeApiError as error:
        app.note(Note("stream_cut", "info", f"the reader of the stream has gone: {error}"))
    except Exception as error:  # the status is out: its end says what went wrong
        app.note(Note("stream_failed", "error", str(error), error=error))


async def _chunks(body: bytes | AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        yield body
        return
    try:
        async for chunk in body:
            yield chunk
    finally:
        aclose = getattr(body, "aclose", None)
        if aclose is not None:
            await aclose()


def _told(error: BaseException) -> dict[str, Any]:
    """Return an error in the words of the runtime API."""
    return {
        "errorMessage": str(error),
        "errorType": type(error).__name__,
        "stackTrace": traceback.format_tb(error.__traceback__, -20),
    }


async def _refused(api: RuntimeApi, error: dict[str, Any]) -> None:
    await api.init_error(error)
    await api.close()


def main() -> int:
    """Load the service and serve it; the exit code is 1 when it could not start."""
    address = os.environ.get("AWS_LAMBDA_RUNTIME_API", "")
    if not address:
        print("AWS_LAMBDA_RUNTIME_API is not set: this is started by AWS Lambda", file=sys.stderr)
        return 2
    api = RuntimeApi(address)
    try:
        app = build(os.environ, threads=True)
    except Exception as error:
        asyncio.run(_refused(api, _told(error)))
        return 1
    try:
        app.loop.start(serve(app, api))
    except (ConnectionError, EOFError):
        return 0  # the environment ends
    return 0


if __name__ == "__main__":
    sys.exit(main())
