"""Call a server with ``fastsdk`` and print what came back, as JSON.

python fastsdk_client.py http://127.0.0.1:8000
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastsdk
from fastsdk.service_access import service_contract


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def status(job: Any) -> str:
    """Return the status word of the last answer."""
    return str(getattr(job.response, "status", "")).upper()


def error_of(job: Any) -> str:
    """Return the text of the error that the result of a job raises."""
    try:
        return f"no error but {job.get_result()!r}"
    except Exception as error:
        return str(error)


def everything(client: Any) -> dict[str, Any]:
    """Call, follow, send and receive a file, fail, cancel, stream."""
    text = b"hello " * 100  # it does not take a few bytes of base64 for a file
    uri = f"data:text/plain;base64,{base64.b64encode(text).decode()}"
    contract = service_contract(client.service)
    steps: list[list[Any]] = []
    loud = client.submit_job("shout", file=uri)
    loud.subscribe(
        lambda event: steps.append([getattr(event, "progress", None), str(getattr(event, "message", ""))])
    )
    failed = client.submit_job("fail", reason="no cat")
    long = client.submit_job("wait")
    told = client.submit_job("tokens", prompt="to be or not")
    until(lambda: getattr(long.response, "status", None) is not None)
    cancelled = long.cancel(wait=True)
    file = loud.get_result()
    return {
        "specification": contract.specification,
        "queue": contract.has_job_queue,
        "operations": sorted(endpoint.path for endpoint in contract.endpoints),
        "added": client.submit_job("add", a=40, b=2).get_result(),
        "defaulted": client.submit_job("/add", a=1).get_result(),
        "file": [file.file_name, file.content_type, file.to_bytes().decode()],
        "steps": steps,
        "error": error_of(failed),
        "cancelled": str(getattr(cancelled, "status", "")).upper(),
        "tokens": told.get_result(),
    }


def uploaded(client: Any) -> str:
    """Send a file from disk by its path."""
    Path("note.txt").write_text("from disk " * 20)
    try:
        return str(client.submit_job("shout", file="note.txt").get_result().to_bytes().decode())
    except Exception as error:
        return str(error)


def streamed(client: Any) -> list[Any]:
    """Read the output of a job while it comes."""
    return list(client.submit_job("tokens", prompt="a b").stream(timeout_s=20))


if __name__ == "__main__":
    base = sys.argv[1]
    native = fastsdk.connect(base)
    runpod = fastsdk.connect(f"{base}/v2/local", provider="runpod", api_key="local")
    results = {
        "native": everything(native), "stream": streamed(native), "runpod": everything(runpod),
        "uploaded": [uploaded(native), uploaded(runpod)],
    }  # fmt: skip
    print(json.dumps(results, default=str))
