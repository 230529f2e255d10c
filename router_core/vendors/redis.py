"""A Redis server behind a URL: one client for each event loop of this process, and its errors as ours.

The package costs a quarter of a second to import, so nothing here imports it before the first call.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any, Final
from weakref import WeakKeyDictionary

from router_core.errors import Misconfigured, RouterError, StoreError

__all__ = ["RedisServer", "Script"]

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 2.0
_CONNECTIONS: Final = 16
_DENIED: Final = ("NOAUTH", "WRONGPASS", "NOPERM")


class Script:
    """Lua that the server runs in one step."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        """The name by which Redis knows it."""


class RedisServer:
    """Commands and scripts. What cannot be done is StoreError, or Misconfigured when somebody has to change
    the settings first; neither shows the URL, which may hold a password.

    A command is sent once: what was cut may have happened, and only the caller knows whether that matters.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._pid = os.getpid()
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()
        self._closed = False

    async def open(self) -> None:
        """Load the package, and ask the server for its name."""
        self._closed = False
        await asyncio.to_thread(_load)
        await self.command("PING")

    async def command(self, *words: Any) -> Any:
        """Send a command and return the answer as bytes, numbers and lists of them."""
        client = self._client()
        try:
            return await client.execute_command(*words)
        except Exception as error:
            raise await self._told(client, error) from error

    async def run(self, script: Script, keys: tuple[str, ...], *arguments: Any) -> Any:
        """Run a script, and send its text where the server does not know it yet."""
        client = self._client()
        from redis.exceptions import NoScriptError

        try:
            try:
                return await client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
            except NoScriptError:
                return await client.execute_command("EVAL", script.text, len(keys), *keys, *arguments)
        except Exception as error:
            raise await self._told(client, error) from error

    async def _told(self, client: Any, error: Exception) -> RouterError:
        """Return our error, and leave a server that is no longer the one which may be written to."""
        from redis.exceptions import ReadOnlyError

        if isinstance(error, ReadOnlyError):
            await client.connection_pool.disconnect(inuse_connections=False)
        return _translate(error)

    async def close(self) -> None:
        """Close the connections of this loop; those of loops that have ended went with them."""
        self._closed = True
        client = self._clients.pop(asyncio.get_running_loop(), None)
        self._clients.clear()
        if client is not None:
            await client.connection_pool.disconnect()

    def _client(self) -> Any:
        if self._closed:
            raise StoreError("the state store is closed")
        if self._pid != os.getpid():  # a forked child must not speak on its parent's connections
            self._pid, self._clients = os.getpid(), WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = self._made()
        return client

    def _made(self) -> Any:
        _load()
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            pool = BlockingConnectionPool.from_url(
                self._url, max_connections=_CONNECTIONS, timeout=ANSWER_SECONDS,
                socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS, socket_keepalive=True,
                retry=Retry(NoBackoff(), 0), protocol=2,
            )  # fmt: skip
        except ValueError as error:
            raise Misconfigured("the URL of the Redis server cannot be read") from error
        return Redis(connection_pool=pool)


def _load() -> None:
    """Import the package; raises Misconfigured where it is not installed."""
    try:
        import redis.asyncio  # noqa: F401
    except ModuleNotFoundError as error:
        raise Misconfigured(
            "state on Redis needs the package redis, which is not installed: pip install 'router-core[redis]'"
        ) from error


def _translate(error: Exception) -> RouterError:
    """Turn the driver's errors into ours: the only place that knows them."""
    from redis import exceptions as redis

    if isinstance(error, RouterError):
        return error
    text = str(error)
    denied = isinstance(error, (redis.AuthenticationError, redis.NoPermissionError))
    if denied or text.startswith(_DENIED):
        return Misconfigured("the Redis server refuses the name or password of ROUTER_STATE")
    if isinstance(error, redis.TimeoutError):
        return StoreError("the Redis server does not answer in time")
    if isinstance(error, (redis.ConnectionError, OSError)):
        return StoreError("the Redis server cannot be reached")
    if isinstance(error, redis.ResponseError):
        # the driver takes the word off that it has a class for; the rest may show keys
        word = text.split(" ", 1)[0]
        return StoreError(f"the Redis server refuses: {word if word.isupper() else type(error).__name__}")
    return StoreError(f"the Redis server cannot be used: {type(error).__name__}")
