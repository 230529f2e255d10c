"""Which technology stands behind a URL of the settings: records, blobs, queue, state.

Schemes are looked up here first and then among installed packages (entry-point groups ``router_core.jobs``,
``router_core.queues``, ``router_core.blobs`` and ``router_core.states``), so that a stranger's store needs no
change in this file.
An entry point is a function ``(url, settings, clock) -> store``, or ``-> Dispatcher``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote, urlsplit

from router_core.clock import Clock
from router_core.errors import Misconfigured
from router_core.queues.inprocess import InProcessDispatcher
from router_core.settings import Settings
from router_core.telemetry.events import Events
from router_core.types import new_id

if TYPE_CHECKING:
    from router_core.jobs.blobs import BlobStore
    from router_core.jobs.dispatch import Dispatcher
    from router_core.jobs.store import Store
    from router_core.jobs.worker import WorkerPool
    from router_core.security.encryption import Cipher
    from router_core.state import StateStore

__all__ = ["open_blobs", "open_jobs", "open_queue", "open_state"]

Factory = Callable[[str, Settings, Clock], Any]


def _sqlite(url: str, _settings: Settings, clock: Clock) -> Any:
    from router_core.stores.sqlite import SqliteJobStore

    return SqliteJobStore(_sqlite_path(url), clock)


def _memory_jobs(_url: str, _settings: Settings, clock: Clock) -> Any:
    from router_core.stores.memory import MemoryJobStore

    return MemoryJobStore(clock)


def _no_jobs(_url: str, _settings: Settings, clock: Clock) -> Any:
    from router_core.stores.none import NoJobStore

    return NoJobStore(clock)


def _file_blobs(url: str, settings: Settings, clock: Clock) -> Any:
    from router_core.blobs.file import FileBlobStore

    return FileBlobStore(_file_path(url), clock, owner=_owner(settings))


def _memory_state(_url: str, _settings: Settings, clock: Clock) -> Any:
    from router_core.stores.state_memory import MemoryStateStore

    return MemoryStateStore(clock)


def _sqlite_state(url: str, settings: Settings, clock: Clock) -> Any:
    path = os.path.expanduser(_sqlite_path(url, "ROUTER_STATE", "state.db"))
    if settings.jobs.startswith("sqlite:"):
        jobs = os.path.expanduser(_sqlite_path(settings.jobs))
        if os.path.realpath(jobs) == os.path.realpath(path):
            raise Misconfigured(f"ROUTER_STATE is {url!r}, the file of ROUTER_JOBS; name a file of its own")
    from router_core.stores.state_sqlite import SqliteStateStore

    return SqliteStateStore(path, clock)


def _dynamodb_state(url: str, _settings: Settings, clock: Clock) -> Any:
    name = _name("ROUTER_STATE", url, "dynamodb://table")
    from router_core.stores.state_dynamodb import DynamoStateStore

    # longer than the guard before it waits: a write that is late may still be taken
    return DynamoStateStore(name, clock, patience=_DYNAMO_PATIENCE)


def _redis_state(url: str, _settings: Settings, _clock: Clock) -> Any:
    _check_redis(url)
    from router_core.stores.state_redis import RedisStateStore

    return RedisStateStore(url)


def _check_redis(url: str) -> None:
    """Raise Misconfigured for an address that cannot be one: options of the driver have no place in it."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        named = False
        parts = urlsplit("redis://")
    database = parts.path.strip("/")
    if not named or not (database == "" or (database.isascii() and database.isdigit())):
        raise Misconfigured(
            f"ROUTER_STATE (or REDIS_URL) is {_shown(url)!r}; write redis://host:6379/0, or "
            "rediss://user:password@host:6379/0"
        )


def _shown(url: str) -> str:
    """Return a URL as it may be shown: without a name and password."""
    scheme, separator, rest = url.partition("://")
    place, at, _ = rest.rpartition("@")
    return f"{scheme}{separator}***@{rest[len(place) + 1 :]}" if at else url


def _owner(settings: Settings) -> str:
    """Return what tells this service's record store from others that may share its folder of blobs.

    Records in memory end with their process, so no other process may take its blobs for its own.
    """
    if settings.jobs.startswith(("memory:", "none:")):
        return new_id()
    if settings.jobs.startswith("sqlite:"):
        return f"sqlite:{os.path.realpath(os.path.expanduser(_sqlite_path(settings.jobs)))}"
    return settings.jobs


def _memory_blobs(_url: str, _settings: Settings, clock: Clock) -> Any:
    from router_core.blobs.memory import MemoryBlobStore

    return MemoryBlobStore(clock)


def _dynamodb(url: str, _settings: Settings, clock: Clock) -> Any:
    name = _name("ROUTER_JOBS", url, "dynamodb://table")
    from router_core.stores.dynamodb import DynamoJobStore

    return DynamoJobStore(name, clock)


def _s3(url: str, settings: Settings, clock: Clock) -> Any:
    bucket, _, prefix = _name("ROUTER_BLOBS", url, "s3://bucket/prefix").partition("/")
    from router_core.blobs.s3 import S3BlobStore

    return S3BlobStore(bucket, prefix.strip("/"), clock, owner=_owner(settings))


def _name(variable: str, url: str, example: str) -> str:
    """Return what follows the scheme; raises Misconfigured where there is nothing, or a query."""
    name = unquote(url.partition("://")[2])
    if not name.strip("/") or name.startswith("/") or "?" in name:
        raise Misconfigured(f"{variable} is {url!r}; write {example}")
    return name


_JOBS: Mapping[str, Factory] = {
    "sqlite": _sqlite, "memory": _memory_jobs, "dynamodb": _dynamodb, "none": _no_jobs,
}  # fmt: skip
_BLOBS: Mapping[str, Factory] = {"file": _file_blobs, "memory": _memory_blobs, "s3": _s3}


_STATES: Mapping[str, Factory] = {
    "memory": _memory_state, "sqlite": _sqlite_state, "dynamodb": _dynamodb_state, "redis": _redis_state,
    "rediss": _redis_state,
}  # fmt: skip
_DYNAMO_PATIENCE: Final = 5.0
_STATE_PATIENCE: Final[Mapping[str, float]] = {"dynamodb": 2.0}
"""Seconds for one operation, where half of one is too little: a request over HTTPS in a cold process."""


def _cipher(settings: Settings) -> Cipher | None:
    """Return what encrypts everything that is kept; None where nothing is."""
    if not settings.encryption_key:
        return None
    from router_core.security.encryption import Cipher, parse_encryption_keys

    return Cipher(parse_encryption_keys(settings.encryption_key))


def open_jobs(settings: Settings, clock: Clock) -> Store:
    """Return the job store that ``settings.jobs`` names; it is opened by ``App.start``."""
    store = cast("Store", _choose("ROUTER_JOBS", settings.jobs, _JOBS, "router_core.jobs", settings, clock))
    cipher = _cipher(settings)
    if cipher is None:
        return store
    from router_core.stores.encrypted import EncryptedJobStore

    return cast("Store", EncryptedJobStore(store, cipher))


def open_blobs(settings: Settings, clock: Clock) -> BlobStore:
    """Return the blob store that ``settings.blobs`` names."""
    store = cast(
        "BlobStore", _choose("ROUTER_BLOBS", settings.blobs, _BLOBS, "router_core.blobs", settings, clock)
    )
    cipher = _cipher(settings)
    if cipher is None:
        return store
    from router_core.blobs.encrypted import EncryptedBlobStore

    return EncryptedBlobStore(store, cipher)


def open_state(settings: Settings, clock: Clock, events: Events) -> StateStore:
    """Return the state store that ``settings.state`` names; it is opened when it is first asked.

    Raises Misconfigured for a URL that no store has. One that processes share has a guard before it.
    """
    store = _choose("ROUTER_STATE", settings.state, _STATES, "router_core.states", settings, clock)
    if not getattr(store, "multi_process", True):
        return cast("StateStore", store)
    from router_core.stores.state_guard import PATIENCE, GuardedStateStore

    patience = _STATE_PATIENCE.get(settings.state.partition("://")[0], PATIENCE)
    guarded = GuardedStateStore(store, clock, events, patience=patience)
    cipher = _cipher(settings)
    if cipher is None:
        return guarded
    from router_core.stores.state_encrypted import EncryptedStateStore

    return EncryptedStateStore(
        guarded, cipher
    )  # before the guard: what cannot be read is no store that is away


def open_queue(settings: Settings, clock: Clock, pool: WorkerPool) -> Dispatcher:
    """Return the queue that ``settings.queue`` names; only those in this process need its workers."""
    url = settings.queue
    if url in _OWN_QUEUES:
        return _OWN_QUEUES[url](pool)
    scheme, separator, _ = url.partition("://")
    factory = (_QUEUES.get(scheme) or _installed("router_core.queues", scheme)) if separator else None
    if factory is None:
        raise Misconfigured(
            f"ROUTER_QUEUE is {url!r}; it must be {', '.join(_OWN_QUEUES)}, or a URL whose scheme is "
            f"{', '.join(_QUEUES)} or comes from an installed package (entry-point group router_core.queues)"
        )
    return cast("Dispatcher", factory(url, settings, clock))


def _choose(
    variable: str, url: str, known: Mapping[str, Factory], group: str, settings: Settings, clock: Clock
) -> Any:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise Misconfigured(
            f"{variable} is {_shown(url)!r}; it must be a URL such as {next(iter(known))}://..."
        )
    factory = known.get(scheme) or _installed(group, scheme)
    if factory is None:
        raise Misconfigured(
            f"{variable} is {_shown(url)!r}; the scheme must be one of {', '.join(sorted(known))}, "
            f"or come from an installed package (entry-point group {group})"
        )
    return factory(url, settings, clock)


def _installed(group: str, scheme: str) -> Factory | None:
    from importlib.metadata import entry_points

    for point in entry_points(group=group, name=scheme):
        try:
            return cast("Factory", point.load())
        except (ImportError, AttributeError) as error:
            raise Misconfigured(f"{point.value} of the group {group} cannot be loaded: {error}") from error
    return None


def _sqlite_path(url: str, variable: str = "ROUTER_JOBS", file: str = "jobs.db") -> str:
    """Return the path as SQLAlchemy reads it: three slashes are relative, four are absolute."""
    rest = url.removeprefix("sqlite://")
    if not rest.startswith("/") or rest.endswith("/") or "?" in rest:
        raise Misconfigured(
            f"{variable} is {url!r}; write sqlite:///relative/{file} or sqlite:////absolute/{file}"
        )
    return unquote(rest[1:])


def _file_path(url: str) -> str:
    """Return the path of ``file:///absolute/folder`` or ``file://relative/folder``."""
    path = unquote(url.removeprefix("file://"))
    if not path or "?" in path:
        raise Misconfigured(
            f"ROUTER_BLOBS is {url!r}; write file:///absolute/folder or file://relative/folder"
        )
    return path


def _runpod(pool: WorkerPool) -> Dispatcher:
    from router_core.queues.runpod import RunpodDispatcher

    return RunpodDispatcher(pool)


def _pull(_pool: WorkerPool) -> Dispatcher:
    from router_core.queues.pull import PullDispatcher

    return PullDispatcher()


def _sqs(url: str, _settings: Settings, clock: Clock) -> Any:
    name = _name("ROUTER_QUEUE", url, "sqs://queue-name")
    from router_core.queues.sqs import SqsDispatcher

    return SqsDispatcher(name, clock)


_OWN_QUEUES: Final[Mapping[str, Callable[[WorkerPool], Dispatcher]]] = {
    "inprocess": InProcessDispatcher, "pull": _pull, "runpod": _runpod,
}  # fmt: skip
_QUEUES: Final[Mapping[str, Factory]] = {"sqs": _sqs}
