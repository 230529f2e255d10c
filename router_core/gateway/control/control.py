"""The control plane of one process: changes are published as versions, and versions are served by."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from router_core.clock import Clock
from router_core.errors import BadRequest, Conflict, Misconfigured, StoreError, Unavailable
from router_core.gateway.control.addresses import Addresses
from router_core.gateway.control.build import Builder, Built, Invalid, Key
from router_core.gateway.control.model_body import Bodies
from router_core.gateway.control.resource import Document, Draft
from router_core.gateway.control.secrets import Secrets
from router_core.gateway.control.versions import Held, Version, Versions
from router_core.gateway.values import ControlPolicy, GatewayConfig
from router_core.security.audit import audited
from router_core.state import StateStore
from router_core.telemetry.events import Events, Note

__all__ = ["Change", "Control", "Edit"]

_TRIES: Final = 40
_PAUSE: Final = 0.25
"""Seconds before the next try at most: so long that everybody else has written by then."""
_COLLECT_EVERY: Final = 8
"""Versions after which somebody looks for what is left over."""
_SHOWN: Final = 50
_OPENING: Final = 5.0
"""Seconds for which a start waits for the store to open."""
_MANY: Final = 500
"""Things from which working through them takes longer than calls should wait."""
_MAX_SIZE: Final = 128 * 1024
"""Bytes of one resource."""

Edit = Callable[[Draft], Any]
"""Changes a draft, and returns what the caller is to be told; may be a coroutine function. It is called
again, with another draft, when somebody else was quicker."""


@dataclass(frozen=True, slots=True)
class Change:
    """What came of an edit."""

    version: Version
    result: Any
    document: Document
    changed: bool
    remarks: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Edited:
    """What an edit made, and of what."""

    held: Held
    builder: Builder
    built: Built
    touched: tuple[Key, ...]
    change: Change


class Control:
    """Holds the version that this process serves by, and is asked for every change.

    ``check`` and ``apply`` take a whole configuration (``Registry.check``, and what makes it current); both
    raise Misconfigured. ``prepare`` does in a thread what they would take long for. ``state`` is asked each
    time: an app may lend another store later.
    """

    def __init__(
        self, state: Callable[[], StateStore], check: Callable[[GatewayConfig], None],
        apply: Callable[[GatewayConfig], None], clock: Clock, events: Events, *,
        environ: Mapping[str, str], private: bool = False,
        prepare: Callable[[GatewayConfig], None] = lambda config: None,
    ) -> None:  # fmt: skip
        self._prepare = prepare
        self._check = check
        self._apply = apply
        self.clock = clock
        self._events = events
        self._environ = environ
        self._private = private
        self._versions = Versions(state, clock.now)
        self._state = state
        self._held = Held()
        self._built = Built()
        self._builder = Builder(
            GatewayConfig(), self._secrets(ControlPolicy()), private=private, private_hooks=private
        )
        self._refused = -1
        self._collected = 0
        self._looked = float("-inf")
        self._writing = asyncio.Lock()
        self._looking = asyncio.Lock()
        self.problem = ""
        """Why this process may not run the newest version; empty: it does, as far as it knows."""

    # --- what holds ---

    @property
    def version(self) -> int:
        """Number of the version that this process runs; 0: nothing was ever configured."""
        return self._held.version.number

    @property
    def current(self) -> Version:
        """The version that this process runs."""
        return self._held.version

    @property
    def history(self) -> tuple[Version, ...]:
        """The versions before it that are kept, the newest first."""
        return self._held.history

    @property
    def document(self) -> Document:
        """What is configured through the API."""
        return self._held.document

    @property
    def base(self) -> GatewayConfig:
        """What the file and the environment say."""
        return self._builder.base

    @property
    def config(self) -> GatewayConfig:
        """Both together."""
        return self._built.config

    @property
    def durable(self) -> bool:
        """Whether what is configured outlives this process."""
        return bool(getattr(self._state(), "multi_process", True))

    @property
    def bodies(self) -> Bodies:
        """What reads models and endpoints."""
        policy = self.base.control
        return Bodies(self._secrets(policy), Addresses(private=self._builder.private))

    def by_file(self, kind: str, key: str) -> bool:
        """Return whether the file says this one."""
        return self._builder.has(kind, key)

    def remarks(self, kind: str, key: str) -> tuple[str, ...]:
        """Return what an operator should know about a resource."""
        return self._built.remarks.get((kind, key), ())

    def fenced(self) -> frozenset[str]:
        """Return the hosts that only the API has named, where these have to be public."""
        return self._built.fenced

    # --- following ---

    def follow(self, base: GatewayConfig) -> None:
        """Serve by another file from now on. Raises Misconfigured, and then nothing has changed."""
        policy = base.control
        private = policy.private_urls or self._private
        builder = Builder(base, self._secrets(policy), private=private, private_hooks=self._private)
        built = builder.build(self._held.document, number=self.version)
        self._apply(built.config)
        self._builder, self._built = builder, built
        self._tell(built)

    def allow_private(self) -> None:
        """Let the API name addresses that are not public."""
        if not self._private:
            self._private = True
            self.follow(self.base)

    async def start(self) -> None:
        """Take what is configured, if the store tells; else serve by the file alone, and say so."""
        try:
            with suppress(StoreError, Misconfigured, TimeoutError):
                # it may take longer to open than to answer: calls should not be served without it for that
                async with asyncio.timeout(_OPENING):
                    await self._state().open()
            await self.look()
        except StoreError as error:
            text = f"the configuration of the API cannot be read, the file alone is served by: {error}"
            self._events.emit(Note("control_store_away", "error", text))

    async def look(self) -> None:
        """See whether there is another version, and serve by it. Raises StoreError; what holds stays then."""
        async with self._looking:
            self._looked = self.clock.monotonic()
            try:
                held = await self._versions.look(self._held)
            except StoreError:
                self.problem = "the state store does not answer"
                raise
            if held is self._held:
                if self._refused != held.version.number:
                    self.problem = ""
                return
            await self._take(held)

    async def look_if_due(self, interval: float = 1.0) -> None:
        """Look unless that was done within the last second; never raises."""
        if self.clock.monotonic() - self._looked < interval:
            return
        try:
            await self.look()
        except StoreError:
            return  # what holds stays

    @property
    def due(self) -> bool:
        """Whether it was not looked within the last second."""
        return self.clock.monotonic() - self._looked >= 1.0

    async def tick(self) -> None:
        """Look, and tidy up now and then."""
        try:
            await self.look()
            if self.version >= self._collected + _COLLECT_EVERY:
                self._collected = self.version
                await self._versions.collect(self._held)
        except StoreError:
            return  # the store's guard tells of it

    async def _take(self, held: Held) -> None:
        """Serve by a version that another process has made; one that cannot be served by changes nothing."""
        number, builder = held.version.number, self._builder
        try:
            many = sum(map(len, held.document.kinds.values())) >= _MANY
            wanted: tuple[Document, tuple[Key, ...], int] = (held.document, (), number)
            built = await asyncio.to_thread(builder.build, *wanted) if many else builder.build(*wanted)
            await self._ready(built.config)
            if builder is not self._builder:
                return  # the file was read again meanwhile; the next look finds this version again
            self._apply(built.config)
        except Misconfigured as error:
            self._refuse(number, error)
            return
        self._held, self._built, self.problem = held, built, ""
        text = f"version {number} of the configuration applies from now on"
        self._events.emit(Note("control_applied", "info", text, {"version": number}))
        self._tell(built)

    def _refuse(self, number: int, error: Misconfigured) -> None:
        """Stay at the version that is served by, and say so once."""
        self.problem = f"version {number} cannot be served by here: {error.detail}"
        if self._refused != number:
            self._refused = number
            text = f"version {number} of the configuration is refused, {self.version} stays: {error.detail}"
            self._events.emit(Note("control_refused", "error", text, {"version": number}))

    # --- changing ---

    async def change(self, edit: Edit, *, who: str, why: str = "") -> Change:
        """Publish what an edit makes of the newest version, and serve by it.

        Raises what the edit raises, 400 for what it makes cannot be, Conflict for names that are taken,
        StoreError; nothing has changed then.
        """
        async with self._writing:
            for attempt in range(_TRIES):
                await self.look()
                made = await self._edited(edit)
                if not made.change.changed:
                    return made.change
                try:
                    return await self._publish(made, who, why)
                except Conflict:
                    pause = min(_PAUSE, 0.005 * 2**attempt)
                    await asyncio.sleep(pause * random.random())  # noqa: S311 - spreads writers
            raise Unavailable(
                "the configuration is being changed all the time; try again", code="config_busy"
            )

    async def preview(self, edit: Edit) -> Change:
        """Return what a change would come to, without making it."""
        async with self._writing:
            await self.look()
            return (await self._edited(edit)).change

    async def version_of(self, number: int) -> Document:
        """Return an older document. Raises NotFound."""
        return (await self._versions.version(number, self._held)).document

    async def _edited(self, edit: Edit) -> _Edited:
        held, builder = self._held, self._builder
        draft = held.document.draft()
        result = edit(draft)
        if inspect.isawaitable(result):
            result = await result
        touched = tuple(draft.touched)
        if not touched:
            same = Change(held.version, result, held.document, False, self._built.remarks)
            return _Edited(held, builder, self._built, touched, same)
        document = draft.document()
        for kind, key in touched:
            resource = document.get(kind, key)
            if resource is not None and resource.size > _MAX_SIZE:
                raise Invalid(kind, key, f"body: has more than {_MAX_SIZE:,} bytes")
        wanted = document, frozenset(touched), held.version.number + 1
        many = len(touched) >= _MANY
        built = await asyncio.to_thread(builder.build, *wanted) if many else builder.build(*wanted)
        await self._check_urls(builder, built, touched)
        try:
            await self._ready(built.config)
            self._check(built.config)
        except Misconfigured as error:
            raise BadRequest(error.detail, code="invalid_configuration") from None
        return _Edited(
            held, builder, built, touched, Change(held.version, result, document, True, built.remarks)
        )

    async def _publish(self, made: _Edited, who: str, why: str) -> Change:
        """Make it the next version. Raises Conflict when something else holds by now."""
        async with self._looking:
            if made.builder is not self._builder:
                raise Conflict("the file was read again meanwhile")
            held = await self._versions.publish(
                made.held, made.change.document, who=who, why=why, changes=len(made.touched)
            )
            try:
                self._apply(made.built.config)
                self._held, self._built, self.problem = held, made.built, ""
            except Misconfigured as error:  # it was checked; others may serve by it
                self._refuse(held.version.number, error)
        changes = [f"{kind}/{key}" for kind, key in made.touched[:_SHOWN]]
        number = held.version.number
        text = f"version {number} of the configuration, by {who}: {len(made.touched)} changes"
        fields = {"version": number, "by": who, "why": why, "changes": changes}
        self._events.emit(Note("config_changed", "info", text, fields))
        audited(before=made.held.version.number, after=number, changed=" ".join(changes))
        if not self.durable and number == 1:
            text = "what is configured through the API is gone with this process: set ROUTER_STATE"
            self._events.emit(Note("control_not_durable", "warning", text))
        return replace(made.change, version=held.version)

    async def _check_urls(self, builder: Builder, built: Built, touched: tuple[Key, ...]) -> None:
        addresses = Addresses(private=builder.private)
        checks: list[Awaitable[None]] = []
        for key in touched:
            for path, url in built.urls.get(key, ()):
                checks.append(self._check_url(addresses, key, path, url))
        for start in range(0, len(checks), 16):
            await asyncio.gather(*checks[start : start + 16])

    async def _check_url(self, addresses: Addresses, key: Key, path: str, url: str) -> None:
        try:
            await addresses.check(url, path)
        except ValueError as error:
            raise Invalid(*key, str(error)) from None

    # --- inside ---

    async def _ready(self, config: GatewayConfig) -> None:
        """Prepare a configuration, beside the calls where that takes long."""
        if len(config.rules) >= _MANY and config.rules != self._built.config.rules:
            await asyncio.to_thread(self._prepare, config)

    def _secrets(self, policy: ControlPolicy) -> Secrets:
        return Secrets(self._environ, policy)

    def _tell(self, built: Built) -> None:
        """Say what is left out, for nobody looks for it."""
        for kind, key in sorted(built.left_out)[:_SHOWN]:
            text = f"{kind}/{key} is left out: {'; '.join(built.remarks[(kind, key)])}"
            self._events.emit(Note("control_left_out", "warning", text, {"kind": kind, "id": key}))
