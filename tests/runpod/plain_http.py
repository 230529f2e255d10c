"""Plain HTTP to the pretended platform, as a worker and as a caller."""

from __future__ import annotations

import http.client
import json
from typing import Any

from router_core.testing.runpod_api import RunpodApi

__all__ = ["Wire"]


class Wire:
    """Plain HTTP to the API, as a worker and as a caller."""

    def __init__(self, api: RunpodApi) -> None:
        self.api = api

    def send(
        self, method: str, path: str, body: bytes | None = None, *, key: str = "", connect: float = 30
    ) -> tuple[int, Any]:
        """Return status and decoded body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=connect)
        try:
            headers = {"Authorization": key or self.api.key}
            connection.request(method, f"/v2/fake/{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        """Post JSON."""
        return self.send("POST", path, json.dumps(value).encode())

    def take(self, worker: str = "w") -> dict[str, Any]:
        """Take one job."""
        status, job = self.send("GET", f"job-take/{worker}?gpu=X&job_in_progress=0")
        assert status == 200, status
        assert isinstance(job, dict)
        return job

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.api.base_url.split(":")[2].split("/")[0])
