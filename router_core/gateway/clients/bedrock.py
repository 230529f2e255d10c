"""Amazon Bedrock's Converse API, spoken to in the words of OpenAI's chat completions.

    clients:
      - {type: bedrock, model: eu.anthropic.claude-sonnet-4-5-20250929-v1:0, args: {
          region: eu-central-1, access_key_id: "${AWS_ACCESS_KEY_ID}",
          secret_access_key: "${AWS_SECRET_ACCESS_KEY}"}}

Arguments: ``region`` (else of the base URL); credentials, which are ``api_key`` (a Bedrock API key, as in
AWS_BEARER_TOKEN_BEDROCK), or ``access_key_id``, ``secret_access_key`` and ``session_token``, or
``credentials: default`` for those that the AWS SDK finds; ``max_tokens`` for callers that set none;
``guardrail`` (a guardrailConfig for every call); ``request_fields`` (additionalModelRequestFields of every
call); ``family`` (anthropic or openai, where the id is that of a profile); the words of
``anthropic_models.ModelTraits`` (true or false). How requests are translated: ``bedrock_request``. There is
no probe: nothing that Bedrock's runtime answers is free of charge.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import quote

import msgspec

from router_core.errors import HTTPError, Misconfigured
from router_core.gateway.call import Call
from router_core.gateway.clients.address import parse_address
from router_core.gateway.clients.anthropic_models import traits_of
from router_core.gateway.clients.bedrock_answer import ConverseTranslator, read_converse
from router_core.gateway.clients.bedrock_credentials import CredentialSource, credential_source
from router_core.gateway.clients.bedrock_request import ConverseWriter
from router_core.gateway.clients.bedrock_sigv4 import Signer
from router_core.gateway.clients.chat_request import read_chat, read_wanted
from router_core.gateway.clients.chat_stream import TranslatedStream, answer_headers
from router_core.gateway.clients.errors import error_body, error_reply, masked
from router_core.gateway.clients.headers import credential, header_lines
from router_core.gateway.clients.http import argument
from router_core.gateway.clients.probe import Probe
from router_core.gateway.reply import Reply
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import Deployment

__all__ = ["BedrockClient"]

_SERVICE: Final = "bedrock"
_EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
_STATUSES: Final[Mapping[int, int]] = {408: 504, 424: 500}
"""ModelTimeoutException and ModelErrorException are no fault of the request."""
_ERRORS: Final[Mapping[str, tuple[int, str]]] = {
    "throttlingexception": (429, "rate_limit_error"), "validationexception": (400, "invalid_request_error"),
    "accessdeniedexception": (403, "permission_error"), "modelstreamerrorexception": (500, "server_error"),
    "serviceunavailableexception": (503, "server_error"), "internalserverexception": (500, "server_error"),
    "modeltimeoutexception": (504, "server_error"),
}  # fmt: skip
"""Name of an exception inside a stream -> what it would have come with in front of it."""


class BedrockClient:
    """One deployment at Amazon Bedrock."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {"chat/completions": "/model/{model}/converse"}

    def __init__(self, deployment: Deployment, transport: Transport) -> None:
        """Raises Misconfigured."""
        self.deployment = deployment
        self.probe: Probe | None = None
        self._transport = transport
        where = f"deployment {deployment.id}"
        if not deployment.model:
            raise Misconfigured(f"{where}: type bedrock needs the id of a model")
        region = _region(deployment, where)
        url = deployment.base_url or f"https://bedrock-runtime.{region}.{_domain(region)}"
        ca_file = argument(deployment, "ca_file", str, "")
        self._address = parse_address(url, ca_file=ca_file, where=f"{where}: base_url")
        path = f"{self._address.path}/model/{quote(deployment.model, safe='~')}/converse"
        self._paths = (path, f"{path}-stream")
        self._key = credential(deployment.key.reveal(), where)
        self._source: CredentialSource | None = None
        if not self._key:
            self._source = credential_source(deployment.args, where)
        self._signer = Signer(region, _SERVICE)
        self._common = header_lines(
            (("accept-encoding", "identity"), ("user-agent", "router-core"), *deployment.headers), where
        )
        self._secrets = (self._key, *(value for _, value in deployment.headers))
        defaults = _defaults(deployment, where)
        max_tokens = argument(deployment, "max_tokens", int, 0)
        self._writer = ConverseWriter(
            deployment.model, traits_of(deployment.model, deployment.args), max_tokens=max_tokens,
            defaults=defaults, family=argument(deployment, "family", str, ""),
        )  # fmt: skip

    async def send(self, call: Call, deadline: float) -> Reply:
        """Make one attempt. Raises UpstreamFailure without a usable answer."""
        if call.endpoint not in self.ENDPOINT_TABLE:
            raise HTTPError(422, "Wrong model type", code="wrong_model_type")
        body = self._writer.write(read_chat(call))
        head = await self._head(self._paths[call.stream], body, call.stream)
        reply = await self._transport.send(
            self._address.origin, head, body, timeouts=self.deployment.timeouts, deadline=deadline,
            stream=call.stream,
        )  # fmt: skip
        if 200 <= reply.status < 300:
            return self._answer(call, reply)
        return self._refusal(reply)

    async def probe_once(self, timeout: float, probe: Probe | None = None) -> Reply:
        """Raise LookupError: there is nothing to ask that costs nothing."""
        raise LookupError(f"deployment {self.deployment.id} has no probe")

    async def aclose(self) -> None:
        """Let go of nothing: the transport is shared and stays."""

    async def _head(self, path: str, body: bytes, stream: bool) -> bytes:
        signed = {
            "host": self._address.host_header, "content-type": "application/json",
            "accept": _EVENT_STREAM if stream else "application/json",
        }  # fmt: skip
        if self._source is None:
            signed["authorization"] = f"Bearer {self._key}"
        else:
            credentials = await self._source.get()
            signed |= self._signer.sign(credentials, "POST", path, signed, body, time.time())
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items()).encode("ascii")
        return b"POST %b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n" % (
            path.encode("ascii"), lines, self._common, len(body),
        )  # fmt: skip

    def _answer(self, call: Call, reply: Reply) -> Reply:
        json_tool = ""
        if call.fields and "response_format" in call.fields:
            json_tool = self._writer.json_tool(*read_wanted(call))
        answer_id = f"chatcmpl-{reply.headers.get('x-amzn-requestid', 'bedrock')[:64]}"
        model, created = self.deployment.model, int(time.time())
        if reply.chunks is None:
            body = read_converse(reply.body or b"", answer_id, model, created, json_tool)
            return Reply(reply.status, answer_headers(reply, "application/json"), body)
        translator = ConverseTranslator(answer_id, model, created, self._error_event, json_tool)
        chunks = TranslatedStream(reply.chunks, translator)
        return Reply(reply.status, answer_headers(reply, "text/event-stream"), chunks=chunks)

    def _refusal(self, reply: Reply) -> Reply:
        """Return an error in the shape of OpenAI; its name stands in a header there."""
        status = _STATUSES.get(reply.status, reply.status)
        told = error_reply(Reply(status, reply.headers, reply.body), self._secrets)
        name = reply.headers.get("x-amzn-errortype", "").partition(":")[0]
        return _named(told, masked(name, self._secrets)[:100]) if name else told

    def _error_event(self, kind: str, message: str) -> bytes:
        status, word = _ERRORS.get(kind.lower(), (500, "server_error"))
        body = error_body(status, masked(message, self._secrets), kind=word,
                          code=masked(kind, self._secrets))  # fmt: skip
        return b"data: %b\n\n" % body


def _named(reply: Reply, name: str) -> Reply:
    """Return an error with the name of the exception as its code."""
    error = msgspec.json.decode(reply.body or b"{}")
    error["error"]["code"] = name
    return Reply(reply.status, reply.headers, msgspec.json.encode(error))


def _region(deployment: Deployment, where: str) -> str:
    region = str(argument(deployment, "region", str, "")) or deployment.region
    if not region and ".amazonaws.com" in deployment.base_url:
        region = deployment.base_url.partition("bedrock-runtime.")[2].partition(".")[0]
    if not region or not all(each.isalnum() or each == "-" for each in region) or not region.isascii():
        raise Misconfigured(f"{where}: type bedrock needs a region, such as eu-central-1")
    return region


def _domain(region: str) -> str:
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def _defaults(deployment: Deployment, where: str) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for name, field in (("guardrail", "guardrailConfig"), ("request_fields", "additionalModelRequestFields")):
        given = deployment.args.get(name)
        if given is not None and not isinstance(given, Mapping):
            raise Misconfigured(f"{where}: {name} has to be a mapping")
        if given:
            defaults[field] = dict(given)
    return defaults
