"""Stand-ins for Vault and for two services of AWS, as far as reading secrets goes, by their HTTP APIs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Aws", "Vault", "served"]


@dataclass
class Vault:
    """Answers as Vault does: KV in both versions, a log-in of Kubernetes, tokens that end."""

    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Path behind /v1/ -> ``data`` of the answer."""
    tokens: set[str] = field(default_factory=lambda: {"s.root"})
    logins: int = 0
    status: int = 0
    """Answer everything with this one."""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Return status and JSON."""
        self.asked.append((path, headers))
        path = path.removeprefix("/v1/")
        if self.status:
            return self.status, {"errors": ["no"]}
        if method == "POST" and path == "auth/kubernetes/login":
            told = json.loads(body)
            if told != {"role": "gateway", "jwt": "account-token"}:
                return 403, {"errors": ["permission denied"]}
            self.logins += 1
            token = f"s.login{self.logins}"
            self.tokens.add(token)
            return 200, {"auth": {"client_token": token, "lease_duration": 3600}}
        if headers.get("x-vault-token") not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        found = self.secrets.get(path)
        return (404, {"errors": []}) if found is None else (200, {"data": found})


@dataclass
class Aws:
    """Answers GetSecretValue and GetParameter in the JSON protocol of AWS."""

    secrets: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    error: str = ""
    """Answer everything with this code."""

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Return status and JSON."""
        told, target = json.loads(body), headers.get("x-amz-target", "")
        if self.error:
            return 400, {"__type": self.error, "message": "no"}
        if target == "secretsmanager.GetSecretValue":
            name = told["SecretId"]
            if name not in self.secrets:
                return 400, {"__type": "ResourceNotFoundException", "message": "no"}
            return 200, {"Name": name, "SecretString": self.secrets[name]}
        if target == "AmazonSSM.GetParameter" and told.get("WithDecryption") is True:
            name = told["Name"]
            if name not in self.parameters:
                return 400, {"__type": "ParameterNotFound", "message": "no"}
            value = {"Name": name, "Type": "SecureString", "Value": self.parameters[name]}
            return 200, {"Parameter": value}
        return 400, {"__type": "UnknownOperationException", "message": target}


@contextmanager
def served(service: Vault | Aws) -> Iterator[str]:
    """Serve one of them on loopback; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, found = service.answer(method, self.path, headers, body)
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
