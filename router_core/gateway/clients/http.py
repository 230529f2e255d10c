"""What all clients of OpenAI-compatible upstreams share: the request, and what is made of the answer.

Everything that does not change from call to call is made once: for each endpoint the head up to the value of
``content-length``, the name of the model as JSON, the credentials. A call adds its body and a number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from router_core.errors import HTTPError, Misconfigured
from router_core.gateway.call import Call
from router_core.gateway.clients.address import Address, check_path, parse_address
from router_core.gateway.clients.errors import error_reply, without
from router_core.gateway.clients.headers import credential, header_lines, passed_on
from router_core.gateway.clients.multipart import MULTIPART, replace_model
from router_core.gateway.clients.probe import MODELS, Probe
from router_core.gateway.reply import Reply, UpstreamFailure
from router_core.gateway.transport.connection import Coming
from router_core.gateway.transport.protocol import Transport
from router_core.gateway.values import Deployment

__all__ = ["HttpClient", "argument"]

_USAGE_ENDPOINTS: Final = frozenset({"chat/completions", "completions"})
"""Those that understand ``stream_options.include_usage``; ``responses`` always ends with its usage."""
_AGENT: Final = ("user-agent", "router-core")
_JSON: Final = b"content-type: application/json\r\n"
_LENGTH: Final = b"content-length: "
_TRUE: Final = msgspec.Raw(b"true")
_WITH_USAGE: Final = msgspec.Raw(b'{"include_usage":true}')
_PEEK: Final = 256
"""Bytes of an answer of 2xx in which the word "error" is looked for, as whoever judges it does."""
_OPENERS: Final = (b"{", b"n")

_encode: Final = msgspec.json.Encoder().encode
_decode_options: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class HttpClient:
    """One OpenAI-compatible deployment. A type of its own overrides what is different there."""

    ENDPOINT_TABLE: ClassVar[Mapping[str, str]] = {}
    BASE_URL: ClassVar[str] = ""
    """Used where the deployment names none; empty: it has to."""
    EXACT_URL: ClassVar[bool] = False
    """Whether the base URL is all of the address."""
    NEEDS_KEY: ClassVar[bool] = False
    STREAMS_USAGE: ClassVar[bool] = True
    """Whether it understands ``stream_options.include_usage``; ``stream_usage`` of args overrides it."""

    def __init__(self, deployment: Deployment, transport: Transport) -> None:
        self.deployment = deployment
        self.locate: Callable[[], str | None] | None = None
        """Tells the base URL where the deployment has none of its own, because its endpoint gets a new one
        whenever it is started."""
        self._transport = transport
        prompt: Callable[..., Coming | None] | None = getattr(transport, "ask", None)
        self._prompt = prompt if type(self).send is HttpClient.send else None
        self._where = f"deployment {deployment.id}"
        self._key = credential(deployment.key.reveal(), self._where)
        if self.NEEDS_KEY and not self._key:
            raise Misconfigured(f"{self._where}: type {deployment.type} needs a key (api_key)")
        self._ca_file = argument(deployment, "ca_file", str, "")
        self._usage = argument(deployment, "stream_usage", bool, self.STREAMS_USAGE)
        self._model = msgspec.Raw(_encode(deployment.model)) if deployment.model else None
        self._common = header_lines((*self._headers(), *deployment.headers), self._where)
        self._secrets = (self._key, *(value for name, value in deployment.headers))
        self._table = self._own_table()
        if self._table != self.ENDPOINT_TABLE:
            self.ENDPOINT_TABLE = self._table  # type: ignore[misc]  # this one alone differs from its type
        self._located = ""
        self._heads: dict[str, tuple[bytes, bytes]] = {}
        url = deployment.base_url or ("" if deployment.endpoint else self.BASE_URL)
        if url:
            self._settle(url)
        elif not deployment.endpoint:
            raise Misconfigured(f"{self._where}: type {deployment.type} needs a base_url")
        self.probe, self.metrics = self._probes()
        """What tells whether it is alive, and how busy it is; None: nothing that is free of charge."""
        if deployment.health.path:
            path = check_path(deployment.health.path, f"{self._where}: health: path")
            self.probe = Probe("GET", path, "health")

    def ask(self, call: Call, deadline: float) -> Coming | None:
        """Begin an attempt, whose answer is then ``received``; None: ``send`` makes it, as it has to wait.

        Raises what ``send`` raises. After a StaleConnection the whole of it has to be sent again.
        """
        if self._prompt is None:
            return None
        head, body = self._request(call)
        return self._prompt(
            self._address.origin, head, body, self.deployment.timeouts, deadline, call.stream
        )  # fmt: skip

    async def send(self, call: Call, deadline: float) -> Reply:
        """Make one attempt. Raises UpstreamFailure without a usable answer."""
        head, body = self._request(call)
        reply = await self._transport.send(
            self._address.origin, head, body, timeouts=self.deployment.timeouts, deadline=deadline,
            stream=call.stream,
        )  # fmt: skip
        return self.received(call, reply)

    def _request(self, call: Call) -> tuple[bytes, bytes]:
        """Return head and body of the request for a call."""
        if not self._located or self.locate is not None:
            self._follow()
        heads = self._heads.get(call.endpoint)
        if heads is None:
            raise HTTPError(422, "Wrong model type", code="wrong_model_type")
        fields = call.fields
        if fields is None:
            kind, body = self._raw_body(call)
            head = _extended(heads[1], kind, call)
        else:
            body = self._body(call, fields)
            head = _extended(heads[1], _JSON, call) if call.headers else heads[0]
        return b"%b%d\r\n\r\n" % (head, len(body)), body

    def received(self, call: Call, reply: Reply) -> Reply:
        """Return what is made of an answer."""
        if 200 <= reply.status < 300:
            whole = reply.body
            if whole is None:
                reply.secrets = self._secrets
            elif whole.find(b'"error"', 0, _PEEK) >= 0:
                reply.body = without(whole, self._secrets)
            return self._answer(call, reply)
        return self._refusal(reply)

    async def probe_once(self, timeout: float, probe: Probe | None = None) -> Reply:
        """Ask how it is (or what ``probe`` asks), within ``timeout`` seconds. Raises UpstreamFailure."""
        probe = probe or self.probe
        if probe is None:
            raise LookupError(f"{self._where} has no probe")
        if not self._located or self.locate is not None:
            self._follow()
        head = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (
            probe.method.encode(), self._address.join(probe.path).encode(),
            self._address.host_header.encode(), self._common,
        )  # fmt: skip
        reply = await self._transport.send(
            self._address.origin, head, b"", timeouts=self.deployment.timeouts,
            deadline=asyncio.get_running_loop().time() + timeout,
        )  # fmt: skip
        return reply if 200 <= reply.status < 300 else self._refusal(reply)

    async def aclose(self) -> None:
        """Let go of nothing: the transport is shared and stays."""

    # --- what types override ---------------------------------------------------------------------

    def _headers(self) -> tuple[tuple[str, str], ...]:
        """Return what every request carries, credentials first."""
        return (*self._authorization(), ("accept", "*/*"), ("accept-encoding", "identity"), _AGENT)

    def _authorization(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._key}"),) if self._key else ()

    def _probes(self) -> tuple[Probe | None, Probe | None]:
        """Return what asks whether it is alive, and what asks how busy it is."""
        return MODELS, None

    def _path(self, address: Address, endpoint: str, path: str) -> str:
        """Return the path of a request line for a path of the table."""
        return address.join(path)

    def _body(self, call: Call, fields: Mapping[str, msgspec.Raw]) -> bytes:
        """Return the JSON to send: the fields as they came, with the model's name at the upstream."""
        sent: dict[str, Any] = dict(fields)
        sent["model"] = self._model or call.model_name
        if call.stream and self._usage and call.endpoint in _USAGE_ENDPOINTS:
            sent["stream_options"] = _with_usage(fields.get("stream_options"))
        return _encode(sent)

    def _raw_body(self, call: Call) -> tuple[bytes, bytes]:
        """Return an upload, behind the line that says what it is."""
        if not call.content_type.lower().startswith(MULTIPART):
            raise HTTPError(415, "send JSON, or multipart/form-data", code="unsupported_media_type")
        body = replace_model(call.body, call.content_type, self.deployment.model or call.model_name)
        return b"content-type: %b\r\n" % call.content_type.strip().encode("ascii"), body

    def _answer(self, call: Call, reply: Reply) -> Reply:
        """Return what is made of an answer of 2xx: usually nothing, it passes as it came."""
        return reply

    # --- the rest --------------------------------------------------------------------------------

    def _own_table(self) -> dict[str, str]:
        """Return the table of the type with what ``paths`` of args says: null takes an endpoint out."""
        table = dict(self.ENDPOINT_TABLE)
        paths = self.deployment.args.get("paths") or {}
        if not isinstance(paths, Mapping):
            raise Misconfigured(f"{self._where}: paths has to be a mapping of endpoint to path")
        for endpoint, path in paths.items():
            if path is None:
                table.pop(endpoint, None)
            elif isinstance(path, str) and path.startswith("/"):
                table[endpoint] = check_path(path, f"{self._where}: paths: {endpoint}")
            else:
                raise Misconfigured(f"{self._where}: paths: {endpoint}: write a path that begins with /")
        return table

    def _follow(self) -> None:
        """Take over where the endpoint is now."""
        url = self.locate() if self.locate is not None else None
        if url and url != self._located:
            try:
                self._settle(url)
            except Misconfigured as error:
                raise UpstreamFailure("unreachable", "connect", error.detail) from None
        if not self._located:
            raise UpstreamFailure("unreachable", "connect", "the address of the endpoint is not known yet")

    def _settle(self, url: str) -> None:
        self._address = parse_address(
            url, ca_file=self._ca_file, where=f"{self._where}: base_url", exact=self.EXACT_URL
        )
        self._heads = {
            endpoint: self._head(self._path(self._address, endpoint, path))
            for endpoint, path in self._table.items()
            if endpoint != "models"
        }
        self._located = url

    def _head(self, path: str) -> tuple[bytes, bytes]:
        """Return the head up to the value of content-length, whole for plain JSON, and up to the type."""
        start = f"POST {path} HTTP/1.1\r\nhost: {self._address.host_header}\r\n".encode("ascii")
        return start + self._common + _JSON + _LENGTH, start + self._common

    def _refusal(self, reply: Reply) -> Reply:
        if 300 <= reply.status < 400:
            # following it would carry our key, and the caller's data, to wherever it points
            raise UpstreamFailure(
                "malformed",
                "first_byte",
                f"answered with a redirect ({reply.status})",
                sent=True,
                started=True,
            )
        return error_reply(reply, self._secrets)


def argument(deployment: Deployment, name: str, kind: type[Any], default: Any) -> Any:
    """Return what ``args`` of a deployment say, held to its type. Raises Misconfigured."""
    value = deployment.args.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise Misconfigured(f"deployment {deployment.id}: {name} has to be of type {kind.__name__}")
    return value


def _extended(start: bytes, kind: bytes, call: Call) -> bytes:
    """Return a head with the type of the body and what is passed on of the caller's headers."""
    return b"%b%b%b%b" % (start, kind, passed_on(call.headers), _LENGTH)


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw | dict[str, msgspec.Raw]:
    """Return the options of a stream with usage asked for; what is no object is left to be refused."""
    if options is None:
        return _WITH_USAGE
    if not bytes(options).startswith(_OPENERS):
        return options
    given = {} if bytes(options) == b"null" else _decode_options(options)
    given["include_usage"] = _TRUE
    return given
