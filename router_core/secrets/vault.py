"""Secrets of HashiCorp Vault, or OpenBao: ``${vault:secret/data/models#openai}``.

The name is the path of Vault's HTTP API behind ``/v1/``, so that of a KV engine in version 2 has ``data/`` in
it; https://developer.hashicorp.com/vault/api-docs/secret/kv. The variables are Vault's own: VAULT_ADDR,
VAULT_TOKEN (or VAULT_TOKEN_FILE, which an agent keeps fresh), VAULT_NAMESPACE, VAULT_CACERT; VAULT_ROLE logs
in with the service account of a Kubernetes pod.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from router_core.errors import Misconfigured, Unavailable
from router_core.secrets.files import read_secret_file

__all__ = ["VaultSecrets"]

_SECONDS: Final = 5.0
_MAX_ANSWER: Final = 1024 * 1024
_SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}\Z")
_AWAY: Final = frozenset({429, 472, 473, 500, 502, 503, 504})
"""Standby, sealed, busy: https://developer.hashicorp.com/vault/api-docs/system/health."""


class VaultSecrets:
    """Asks Vault by HTTP; redirects are not followed, since they would carry the token elsewhere."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._login = ""
        """A token that a log-in gave."""

    def fetch(self, name: str, field: str) -> str:
        """Return one member of a secret, ``value`` where none is named."""
        what = f"the secret {name} of Vault"
        status, answer = self._ask("GET", name, self._token())
        if status == 403 and self._login:  # a token of a log-in ends
            self._login = ""
            status, answer = self._ask("GET", name, self._token())
        if status != 200:
            raise _refused(what, status)
        data = answer.get("data")
        if isinstance(data, dict) and isinstance(data.get("data"), dict) and "metadata" in data:
            data = data["data"]  # version 2 of the KV engine
        field = field or "value"
        value = data.get(field) if isinstance(data, dict) else None
        if not isinstance(value, str) or not value:
            raise Misconfigured(f"{what} has no text {field!r}")
        return value

    def _token(self) -> str:
        environ = self._environ
        if token := environ.get("VAULT_TOKEN", "").strip():
            return _checked(token, "VAULT_TOKEN")
        if path := environ.get("VAULT_TOKEN_FILE", "").strip():
            return _checked(read_secret_file(path).strip(), "VAULT_TOKEN_FILE")
        if not self._login:
            self._login = self._log_in()
        return self._login

    def _log_in(self) -> str:
        role = self._environ.get("VAULT_ROLE", "").strip()
        if not role:
            raise Misconfigured(
                "Vault needs VAULT_TOKEN, VAULT_TOKEN_FILE, or VAULT_ROLE in a pod of Kubernetes"
            )
        account = self._environ.get("VAULT_JWT_FILE", "").strip() or _SERVICE_ACCOUNT
        mount = self._environ.get("VAULT_AUTH_MOUNT", "").strip() or "kubernetes"
        body = json.dumps({"role": role, "jwt": read_secret_file(account)}).encode()
        status, answer = self._ask("POST", f"auth/{mount}/login", "", body)
        if status != 200:
            raise _refused(f"the log-in to Vault as {role}", status)
        auth = answer.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        return _checked(str(token or ""), "the token of Vault's log-in")

    def _ask(self, method: str, path: str, token: str, body: bytes | None = None) -> tuple[int, Any]:
        address = self._environ.get("VAULT_ADDR", "").strip() or "https://127.0.0.1:8200"
        parts = urlsplit(address)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username:
            raise Misconfigured("VAULT_ADDR has to be like https://vault.example.com:8200")
        headers = {"X-Vault-Request": "true", "Accept": "application/json"}
        if token:
            headers["X-Vault-Token"] = token
        if namespace := self._environ.get("VAULT_NAMESPACE", "").strip():
            headers["X-Vault-Namespace"] = namespace
        connection = self._connection(parts.scheme, parts.hostname, parts.port)
        target = f"{parts.path.rstrip('/')}/v1/{quote(path.strip('/'), safe='/-_.~')}"
        try:
            connection.request(method, target, body=body, headers=headers)
            reply = connection.getresponse()
            data = reply.read(_MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"Vault at {parts.hostname} does not answer: {type(error).__name__}") from None
        finally:
            connection.close()
        return reply.status, _read(data) if len(data) <= _MAX_ANSWER else {}

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme == "http":
            return http.client.HTTPConnection(host, port or 8200, timeout=_SECONDS)
        authority = self._environ.get("VAULT_CACERT", "").strip() or None
        try:
            context = ssl.create_default_context(cafile=authority)
        except (OSError, ssl.SSLError):
            raise Misconfigured(f"VAULT_CACERT: {authority} holds no certificates") from None
        return http.client.HTTPSConnection(host, port or 8200, timeout=_SECONDS, context=context)


def _read(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _checked(token: str, what: str) -> str:
    if not _TOKEN.match(token):
        raise Misconfigured(f"{what} does not hold a token")
    return token


def _refused(what: str, status: int) -> Exception:
    if status in _AWAY:
        return Unavailable(f"{what} cannot be read now: Vault answered {status}")
    if status == 404:
        return Misconfigured(f"there is no such thing as {what}; in version 2 a path has data/ in it")
    if status in (400, 403):
        return Misconfigured(f"{what}: Vault refused it ({status})")
    return Misconfigured(f"{what}: Vault answered {status}")
