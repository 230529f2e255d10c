"""Secrets of AWS: ``${aws-sm:name#field}`` of Secrets Manager, ``${aws-ssm:/name}`` of Parameter Store.

Region, credentials and endpoint are those of the process (AWS_REGION, AWS_ENDPOINT_URL, a role, ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router_core.errors import Misconfigured, Unavailable
from router_core.secrets.reference import member
from router_core.vendors import boto3

__all__ = ["AwsParameters", "AwsSecrets"]


class AwsSecrets:
    """AWS Secrets Manager; ``name`` is a name or an ARN, always in its current version."""

    def fetch(self, name: str, field: str) -> str:
        """Return a secret, or one member of it."""
        what = f"the secret {name} of AWS Secrets Manager"
        answer = _ask("secretsmanager", "get_secret_value", what, SecretId=name)
        text = answer.get("SecretString")
        if text is None:
            raise Misconfigured(f"{what} is binary; keep it as a text")
        return _whole(str(text), field, what)


class AwsParameters:
    """AWS Systems Manager Parameter Store; what is encrypted there is decrypted by it."""

    def fetch(self, name: str, field: str) -> str:
        """Return the value of a parameter, or one member of it."""
        what = f"the parameter {name} of AWS"
        answer = _ask("ssm", "get_parameter", what, Name=name, WithDecryption=True)
        return _whole(str(answer["Parameter"]["Value"]), field, what)


def _whole(text: str, field: str, what: str) -> str:
    value = member(text, field, what) if field else text
    if not value:
        raise Misconfigured(f"{what} is empty")
    return value


def _ask(service: str, operation: str, what: str, **parameters: Any) -> Mapping[str, Any]:
    call = getattr(boto3.client(service), operation)
    try:
        answer: Mapping[str, Any] = call(**parameters)
    except Exception as error:
        code = boto3.error_code(error)
        if code in ("ResourceNotFoundException", "ParameterNotFound"):
            raise Misconfigured(f"there is no such thing as {what}") from None
        if code in ("InvalidRequestException", "ValidationException", "InvalidParameterException"):
            raise Misconfigured(f"{what} cannot be read: {code}") from None
        if boto3.is_misconfigured(error):
            raise Misconfigured(f"{what} may not be read: {code or type(error).__name__}") from None
        raise Unavailable(f"{what} cannot be read now: {code or type(error).__name__}") from None
    return answer
