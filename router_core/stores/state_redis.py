"""The state store on a Redis server (6 or newer, or what speaks like it).

Under a prefix, each key is a hash: ``v`` bytes or ``n`` a count, ``w`` its version, ``e`` when it expires.
Beside the keys of a room stand two sorted sets: all of its names, for listings, and when which of them
expires, so that names do not outlive their values: each write takes a few along that have expired. The
braces keep a room together where keys are spread over a cluster.

Each operation is one script, and its time is that of the server: the clocks of processes do not matter.
"""

from __future__ import annotations

import math
import secrets
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import BadRequest, Conflict, StoreError
from router_core.state import Entry, StatePage, check_key, check_prefix, check_value, room_of
from router_core.vendors.redis import RedisServer, Script

__all__ = ["RedisStateStore"]

_EXACT: Final = 2**53 - 1
"""Lua counts in doubles."""
_PAGE_BYTES: Final = 1024 * 1024

_COMMON: Final = """
local items, names, ends = KEYS[1], KEYS[2], KEYS[3]
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local function live(name)
  local held = redis.call('HMGET', items .. name, 'w', 'e', 'v', 'n')
  if not held[1] or (held[2] and tonumber(held[2]) <= now) then return nil end
  return held
end
local function drop(name)
  redis.call('DEL', items .. name)
  redis.call('ZREM', names, name)
  redis.call('ZREM', ends, name)
end
local function purge()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 8)) do drop(name) end
end
local function keep(name, field, value, version, ttl)
  redis.call('DEL', items .. name)
  redis.call('HSET', items .. name, field, value, 'w', version)
  redis.call('ZADD', names, 0, name)
  if ttl then
    redis.call('HSET', items .. name, 'e', string.format('%.0f', now + ttl))
    redis.call('PEXPIRE', items .. name, string.format('%.0f', math.max(1, ttl)))
    redis.call('ZADD', ends, now + ttl, name)
  else
    redis.call('ZREM', ends, name)
  end
end
"""
_GET: Final = Script(
    _COMMON
    + """
local held = live(ARGV[2])
if not held then return false end
return {held[3] or held[4], held[1]}
"""
)
_PUT: Final = Script(
    _COMMON
    + """
local name, value, version, seen, absent, ttl = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local held = live(name)
if seen ~= '' and not (held and held[1] == seen) then return 'changed' end
if absent == '1' and held then return 'present' end
purge()
keep(name, 'v', value, version, tonumber(ttl))
return 'done'
"""
)
_DELETE: Final = Script(
    _COMMON
    + """
local name, seen = ARGV[2], ARGV[3]
local held = live(name)
if seen ~= '' and not (held and held[1] == seen) then return -1 end
drop(name)
return held and 1 or 0
"""
)
_INCREMENT: Final = Script(
    _COMMON
    + """
local name, by, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local version, ttl = ARGV[5], tonumber(ARGV[6])
local held = live(name)
if held and not held[4] then return 'value' end
local count = by + (held and tonumber(held[4]) or 0)
if by > 0 and limit and count > limit then return false end
if math.abs(count) > 9007199254740991 then return 'far' end
local text = string.format('%.0f', count)
if held then
  redis.call('HSET', items .. name, 'n', text, 'w', version)
else
  purge()
  keep(name, 'n', text, version, ttl)
end
return text
"""
)
_ENTRIES: Final = Script(
    _COMMON
    + """
local found, size, last, limit = {}, 0, '', tonumber(ARGV[4])
local all = redis.call('ZRANGEBYLEX', names, ARGV[2], ARGV[3], 'LIMIT', 0, limit + 1)
for _, name in ipairs(all) do
  if #found / 3 >= limit or size > tonumber(ARGV[5]) then return {last, unpack(found)} end
  local held = live(name)
  if held then
    local value = held[3] or held[4]
    found[#found + 1], found[#found + 2], found[#found + 3] = name, value, held[1]
    size = size + #value
  elseif redis.call('EXISTS', items .. name) == 0 then
    drop(name)
  end
  last = name
end
if #all <= limit then last = '' end
return {last, unpack(found)}
"""
)
_PING: Final = Script(_COMMON + "redis.call('SET', items, 'ping', 'PX', 1000) return 'done'")


class RedisStateStore:
    """Values on one server, in the database that the URL names."""

    multi_process = True

    def __init__(self, url: str, clock: Clock | None = None, *, prefix: str = "router-core") -> None:
        """``clock`` takes the place of the server's time, for tests."""
        self._server = RedisServer(url)
        self._clock = clock
        self._prefix = prefix

    async def get(self, key: str) -> Entry | None:
        """Return what stands under a key."""
        keys, name = self._place(check_key(key))
        found = await self._server.run(_GET, keys, self._now(), name)
        return None if found is None else Entry(key, found[0], found[1].decode())

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> str:
        """Write a value if the condition holds."""
        keys, name = self._place(check_key(key))
        version = secrets.token_hex(8)
        # an empty version is nobody's, and means none in the script
        seen = "" if if_version is None else if_version or "-"
        said = await self._server.run(
            _PUT, keys, self._now(), name, check_value(bytes(value)), version, seen, int(if_absent), _ms(ttl)
        )
        if said == b"changed":
            raise Conflict(f"{key} has changed")
        if said == b"present":
            raise Conflict(f"something stands under {key} already")
        return version

    async def delete(self, key: str, *, if_version: str | None = None) -> bool:
        """Remove a value if the condition holds."""
        keys, name = self._place(check_key(key))
        seen = "" if if_version is None else if_version or "-"
        said = await self._server.run(_DELETE, keys, self._now(), name, seen)
        if said < 0:
            raise Conflict(f"{key} has changed")
        return bool(said)

    async def increment(
        self, key: str, by: int = 1, *, ttl: float | None = None, limit: int | None = None
    ) -> int | None:
        """Add to a count unless that takes it above the limit."""
        keys, name = self._place(check_key(key))
        if abs(by) > _EXACT:
            raise BadRequest(f"{key} cannot count that far")
        most = "" if limit is None else max(-_EXACT, min(_EXACT, limit))
        version = secrets.token_hex(8)
        said = await self._server.run(_INCREMENT, keys, self._now(), name, by, most, version, _ms(ttl))
        if said == b"value":
            raise Conflict(f"{key} holds a value, not a count")
        if said == b"far":
            raise BadRequest(f"{key} cannot count any further")
        return None if said is None else int(said)

    async def entries(self, prefix: str, *, cursor: str = "", limit: int = 100) -> StatePage:
        """List keys in their order."""
        room = room_of(check_prefix(prefix, cursor))
        keys, start = self._place(prefix)
        least = b"[" + start.encode()
        if cursor > prefix:
            # one of another room that comes later ends the listing, as it would anywhere
            least = b"(" + (cursor[len(room) + 1 :].encode() if cursor.startswith(f"{room}/") else b"\xff")
        most = b"(" + start.encode() + b"\xff"  # in no text of UTF-8
        said = await self._server.run(
            _ENTRIES, keys, self._now(), least, most, max(1, min(1000, limit)), _PAGE_BYTES
        )
        last, found = said[0], said[1:]
        entries = tuple(
            Entry(f"{room}/{found[at].decode()}", found[at + 1], found[at + 2].decode())
            for at in range(0, len(found), 3)
        )
        return StatePage(entries, f"{room}/{last.decode()}" if last else "")

    async def ping(self) -> None:
        """Write something."""
        await self._server.run(_PING, self._place("ping/")[0], self._now())

    async def open(self) -> None:
        """Reach the server; raises Misconfigured for a missing package or a wrong password."""
        await self._server.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    def _place(self, key: str) -> tuple[tuple[str, str, str], str]:
        """Return the keys of the room, and the name in it."""
        room, _, name = key.partition("/")
        base = f"{self._prefix}:{{{room}}}"
        return (f"{base}/", f"{base}:names", f"{base}:ends"), name

    def _now(self) -> str:
        return "" if self._clock is None else str(int(self._clock.now() * 1000))


def _ms(ttl: float | None) -> Any:
    if ttl is None:
        return ""
    if not math.isfinite(ttl):
        raise StoreError("a time to live must be a number of seconds")
    return math.ceil(ttl * 1000)
