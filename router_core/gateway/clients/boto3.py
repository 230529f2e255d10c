"""The credentials that the AWS SDK finds by itself; boto3 is imported when they are first asked for."""

from __future__ import annotations

from typing import Any

from router_core.errors import Misconfigured
from router_core.gateway.clients.bedrock_sigv4 import Credentials

__all__ = ["SdkCredentials"]


class SdkCredentials:
    """The chain of the SDK: variables, profiles, roles of a container or an instance. Blocks."""

    def __init__(self) -> None:
        self._found: Any = None

    def get(self) -> Credentials:
        """Return credentials that hold now; the SDK renews those that expire. Raises LookupError."""
        if self._found is None:
            self._found = self._look()
        frozen = self._found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")

    def _look(self) -> Any:
        try:
            import boto3
        except ModuleNotFoundError as error:
            raise Misconfigured(
                "credentials: default needs boto3, which is not installed: pip install 'router-core[aws]'"
            ) from error
        found = boto3.session.Session().get_credentials()
        if found is None:
            raise LookupError("the AWS SDK finds no credentials")
        return found
