"""AWS clients of this process: made when first needed, called in threads, dropped on demand.

boto3 costs a fifth of a second to import, so nothing here imports it before the first call. Its clients
block: ``request`` runs them in a bounded pool of threads and may be awaited from any event loop and thread.

Region, credentials and endpoint come from the standard variables (AWS_REGION, AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from router_core.errors import Misconfigured, Unavailable

__all__ = [
    "CutAnswer",
    "call",
    "client",
    "error_code",
    "forget",
    "is_misconfigured",
    "is_throttled",
    "is_transient",
    "is_unclear",
    "request",
]

CONNECT_SECONDS: Final = 2.0
READ_SECONDS: Final = 5.0
_THREADS: Final = 32
_PENDING: Final = 4000
"""Calls that may wait for a thread: more than these would only be answered long after anybody cares."""
_ATTEMPTS: Final[Mapping[str, int]] = {"dynamodb": 1}
"""Tries of one call that boto3 makes itself. The stores on DynamoDB repeat a write themselves, as they read
back in between what became of the last try."""
_USUAL_ATTEMPTS: Final = 3
_SAY_LENGTH: Final = frozenset({"dynamodb", "sqs"})
"""Services that say with every answer how long it is."""
_THROTTLED: Final = frozenset(
    {
        "BandwidthLimitExceeded", "LimitExceededException", "ProvisionedThroughputExceededException",
        "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown",
        "ThrottledException", "Throttling", "ThrottlingException", "TooManyRequestsException",
    }
)  # fmt: skip
_DENIED: Final = frozenset(
    {
        "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException",
        "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
        "MissingAuthenticationToken", "MissingAuthenticationTokenException", "NotAuthorized",
        "SignatureDoesNotMatch", "UnrecognizedClientException",
    }
)  # fmt: skip


class CutAnswer(ConnectionError):
    """The connection ended before the answer did."""


def _check_length(response_dict: Mapping[str, Any] | None = None, **_: Any) -> None:
    """Raise CutAnswer for one that is shorter than it says, or does not say.

    botocore takes an answer that was cut off for an empty one: of a record that is there, its DynamoDB client
    says that there is none.
    """
    if response_dict is None:
        return
    said = response_dict["headers"].get("content-length")
    if said is None or int(said) != len(response_dict["body"]):
        raise CutAnswer("the connection to AWS was cut in the middle of an answer")


class _Aws:
    """What is shared by all callers of this process; made anew in a forked child, which has no threads."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="aws")
        self.pending = 0
        self.guard = threading.Lock()
        """Around ``clients`` and the session, which is not safe to share; making a client takes its time."""
        self.count_guard = threading.Lock()
        self.session: Any = None
        self.clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """Return the client of a service."""
        found = self.clients.get(service)
        if found is not None:
            return found
        with self.guard:
            if service not in self.clients:
                self.clients[service] = self._make(service)
            return self.clients[service]

    def _make(self, service: str) -> Any:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import NoRegionError
        except ModuleNotFoundError as error:
            raise Misconfigured(
                f"{service} needs boto3, which is not installed: pip install 'router-core[aws]'"
            ) from error
        if self.session is None:
            self.session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
        attempts = _ATTEMPTS.get(service, _USUAL_ATTEMPTS)
        config = Config(
            connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, max_pool_connections=_THREADS,
            tcp_keepalive=True, retries={"mode": "standard", "total_max_attempts": attempts},
            # presigned addresses and encrypted buckets need the newer signature
            signature_version="s3v4" if service == "s3" else None,
        )  # fmt: skip
        try:
            made = self.session.client(service, config=config)
        except NoRegionError as error:
            raise Misconfigured("no AWS region is set: set AWS_REGION, such as eu-central-1") from error
        if service in _SAY_LENGTH:
            made.meta.events.register("response-received", _check_length)
        return made

    def enter(self) -> None:
        """Count a call in; raises Unavailable when too many wait."""
        with self.count_guard:
            if self.pending >= _PENDING:
                raise Unavailable("too many calls to AWS wait already")
            self.pending += 1

    def leave(self, _done: object = None) -> None:
        """Count a call out."""
        with self.count_guard:
            self.pending -= 1

    def close(self) -> None:
        """Let calls that run end by themselves, and take no more."""
        if self.pid == os.getpid():
            self.pool.shutdown(wait=False)


_guard = threading.Lock()
_aws: _Aws | None = None


def _shared() -> _Aws:
    global _aws
    aws = _aws
    if aws is None or aws.pid != os.getpid():
        with _guard:
            aws = _aws
            if aws is None or aws.pid != os.getpid():
                aws = _aws = _Aws()
    return aws


def client(service: str) -> Any:
    """Return the client of a service, one for the process. The first one takes 0.2 s: see ``request``.

    Raises Misconfigured when boto3 is missing or no region is set.
    """
    return _shared().client(service)


async def request(service: str, operation: str, **parameters: Any) -> Any:
    """Make one call, such as ``request("sqs", "send_message", QueueUrl=...)``; the client is made in a
    thread, too."""
    aws = _shared()
    return await _in_thread(aws, lambda: getattr(aws.client(service), operation)(**parameters))


async def call(fn: Callable[..., Any], /, **parameters: Any) -> Any:
    """Run a function that blocks on AWS in a thread. Errors of botocore come out as they are.

    A caller that is cancelled stops waiting; a call that was begun goes on.
    """
    return await _in_thread(_shared(), partial(fn, **parameters))


async def _in_thread(aws: _Aws, work: Callable[[], Any]) -> Any:
    aws.enter()
    try:
        future = aws.pool.submit(work)
    except BaseException:
        aws.leave()
        raise
    future.add_done_callback(aws.leave)
    return await asyncio.wrap_future(future)


def forget() -> None:
    """Drop clients, connections and threads; the next call makes new ones.

    After a snapshot was restored the old connections and credentials are dead, and tests change endpoints.
    """
    global _aws
    with _guard:
        old, _aws = _aws, None
    if old is not None:
        old.close()


# --- what an error means --------------------------------------------------------------------------


def error_code(error: BaseException) -> str:
    """Return the code that the service gave, such as ``ConditionalCheckFailedException``; "" for other
    errors, those of the connection among them."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def is_throttled(error: BaseException) -> bool:
    """Whether the service asked to come back later, and did nothing."""
    return error_code(error) in _THROTTLED or _status(error) == 429


def is_unclear(error: BaseException) -> bool:
    """Whether what was asked may have happened: no answer came, half of one, or one of the 5xx."""
    if _answer(error):
        return _status(error) >= 500 and not is_throttled(error)
    return _is_http(error)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    if is_unclear(error) or is_throttled(error):
        return True
    # the role's credentials come from a service beside the process, which may be slow for once
    return type(error).__name__ in ("CredentialRetrievalError", "MetadataRetrievalError")


def is_misconfigured(error: BaseException) -> bool:
    """Whether somebody has to change credentials, permissions or settings first."""
    if error_code(error) in _DENIED:
        return True
    return type(error).__name__ in (
        "NoCredentialsError", "PartialCredentialsError", "NoRegionError", "ProfileNotFound",
        "ConfigParseError", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError",
        "InvalidEndpointDiscoveryConfigurationError", "UnknownServiceError",
    )  # fmt: skip


def _answer(error: BaseException) -> Mapping[str, Any]:
    found = getattr(error, "response", None)
    return found if isinstance(found, Mapping) else {}


def _status(error: BaseException) -> int:
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_http(error: BaseException) -> bool:
    """Whether botocore failed between the request and a readable answer."""
    try:
        from botocore.exceptions import ConnectionError as BotoConnectionError
        from botocore.exceptions import HTTPClientError, IncompleteReadError
        from botocore.parsers import ResponseParserError
    except ModuleNotFoundError:
        return isinstance(error, OSError)
    kinds = (BotoConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError, OSError)
    return isinstance(error, kinds)
