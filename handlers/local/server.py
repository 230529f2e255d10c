"""Run an app under uvicorn: limits, TLS, and a shutdown that loses nothing.

SIGTERM or SIGINT: readiness turns 503, no more jobs are claimed, running jobs and requests get
``drain_grace`` seconds, exit 0. A second signal ends the process and its children at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from handlers.local.asgi import Application, AsgiApp
from handlers.local.certificates import check_certificates
from handlers.local.limits import Limits, LocalConfig
from handlers.local.listen import bind
from handlers.local.processes import kill_tree
from router_core.errors import Misconfigured
from router_core.middleware.gates import is_loopback
from router_core.middleware.headers import HSTS
from router_core.settings import Settings
from router_core.telemetry.events import Note

if TYPE_CHECKING:
    from router_core.telemetry.pooled import MetricsPool

__all__ = ["LocalServer", "ServeOptions", "check_exposure", "make_config", "run_app", "run_worker"]

_KEEP_ALIVE_SECONDS: Final = 15
_LAST_CONNECTIONS_SECONDS: Final = 5.0
_GC_THRESHOLD: Final = 20_000
"""Objects after which cycles are looked for: with hundreds of calls under way the usual 700 are reached all
the time by what is merely in use. What is in no cycle is freed at once in any case."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line may say beyond the settings."""

    workers: int = 1
    certfile: str = ""
    keyfile: str = ""
    client_ca: str = ""
    """Certificates signed by this authority are required of clients."""
    max_connections: int = 1000
    allow_unauthenticated: bool = False
    """Bind an address that others can reach although nobody has to say who they are."""
    direct: bool = True
    """Let plain requests enter below ASGI, which halves what they cost; the answers are the same."""


def check_exposure(settings: Settings, options: ServeOptions) -> None:
    """Refuse to serve strangers: an address that others can reach needs authentication."""
    if settings.authenticates or options.allow_unauthenticated or options.client_ca:
        return
    if is_loopback(settings.host):
        return
    raise Misconfigured(
        f"refusing to serve {settings.host} without authentication: set ROUTER_API_KEYS (name:key or @file), "
        "or ROUTER_KEYS or ROUTER_JWT_ISSUER, bind 127.0.0.1, or pass --allow-unauthenticated if something "
        "in front of this server authenticates"
    )


def make_config(asgi: Callable[..., Any] | None, app: Application, options: ServeOptions) -> LocalConfig:
    """Return uvicorn's configuration for an app."""
    settings = app.settings
    check_certificates(options)
    if settings.client_certificates and not options.client_ca:
        raise Misconfigured(
            "ROUTER_CLIENT_CERTIFICATES says whose certificates are, and nothing asks clients for one: pass "
            "--client-ca"
        )

    def on_refusal(status: int, reason: str, client: str) -> None:
        app.events.emit(Note("http_refused", "info", reason, {"status": status, "client": client}))

    protocol = _protocol_class()
    door = None
    if options.direct and _has("httptools") and isinstance(asgi, AsgiApp):
        from handlers.local.direct import DirectHttpToolsProtocol
        from handlers.local.door import Door

        protocol, door = DirectHttpToolsProtocol, Door(asgi)
    if settings.client_certificates:
        from handlers.local.peers import certified

        protocol = certified(protocol)
    config = LocalConfig(
        asgi or AsgiApp(app),
        door=door,
        limits=Limits.from_settings(settings, options.max_connections),
        on_refusal=on_refusal,
        host=settings.host,
        port=settings.port,
        http=protocol,
        loop="uvloop" if _has("uvloop") else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=[HSTS] if options.certfile or settings.server_url.startswith("https:") else [],
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=settings.max_header_bytes + 16 * 1024,
        ssl_certfile=options.certfile or None,
        ssl_keyfile=options.keyfile or None,
        ssl_ca_certs=options.client_ca or None,
        ssl_cert_reqs=_CERT_REQUIRED if options.client_ca else 0,
    )
    try:
        config.load()
    except OSError as error:
        names = ", ".join(name for name in (options.certfile, options.keyfile, options.client_ca) if name)
        raise Misconfigured(f"TLS cannot be served with {names}: {error.strerror or error}") from None
    if config.ssl is not None:
        import ssl

        newest = settings.tls_min == "1.3"
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3 if newest else ssl.TLSVersion.TLSv1_2
    return config


_CERT_REQUIRED: Final = 2  # ssl.CERT_REQUIRED; ssl costs 20 ms to import and most servers here have no TLS


class LocalServer(uvicorn.Server):
    """A uvicorn server that drains the app while it still answers."""

    config: LocalConfig

    def __init__(
        self, config: LocalConfig, app: Application, on_second_signal: Callable[[int], None], ignored: int = 0
    ) -> None:
        super().__init__(config)
        self._app = app
        self._on_second_signal = on_second_signal
        self._ignored = ignored
        self.pool: MetricsPool | None = None
        """Where this is one of several workers: what makes their metrics those of all."""
        self._publishing: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends everything at once.

        The signal is not recorded for uvicorn to raise again afterwards: a drained server exits 0.
        """
        if sig == self._ignored:
            return
        if self.should_exit:
            self._on_second_signal(sig)
        self.should_exit = True

    async def startup(self, sockets: Any = None) -> None:
        """Start, say where, then take what is there out of the garbage collector's way."""
        await super().startup(sockets)
        if self.started:
            self._app.events.emit(self._serving(sockets))
            if self.pool is not None:
                self._publishing = asyncio.create_task(self.pool.run(), name="metrics-pool")
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 20, 20)

    def _serving(self, sockets: list[socket.socket] | None) -> Note:
        settings = self._app.settings
        host = settings.host.strip("[]")
        port = sockets[0].getsockname()[1] if sockets else settings.port
        url = f"{'https' if self.config.is_ssl else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        said = f"serving on {url}"
        fields = {"url": url, "app": settings.app, "jobs": settings.jobs}
        if any(route.path == "/docs" for route in getattr(self._app, "routes", ())):
            said += f", docs at {url}/docs"
            fields["docs"] = f"{url}/docs"
        # the log masks what is secret in these addresses
        return Note("serving", "info", said, {name: value for name, value in fields.items() if value})

    async def shutdown(self, sockets: Any = None) -> None:
        """Drain the app, listening all the while: callers poll for their jobs and probes see 503."""
        began = time.monotonic()
        grace = self._app.settings.drain_grace
        drain = getattr(self._app, "drain", None)
        if drain is not None:
            try:
                await asyncio.wait_for(drain(grace), grace + _LAST_CONNECTIONS_SECONDS)
            except Exception as error:
                self._app.events.emit(Note("drain_failed", "error", str(error), error=error))
        left = grace - (time.monotonic() - began)
        self.config.timeout_graceful_shutdown = int(max(_LAST_CONNECTIONS_SECONDS, left))
        await super().shutdown(sockets)
        if self._publishing is not None:
            self._publishing.cancel()


def run_app(app: Application, options: ServeOptions | None = None, asgi: AsgiApp | None = None) -> int:
    """Serve until a signal comes; returns the exit code. Raises what kept the app from starting."""
    options = options or ServeOptions()
    check_exposure(app.settings, options)
    asgi = asgi or AsgiApp(app)
    config = make_config(asgi, app, options)
    sockets = bind(app.settings.host, app.settings.port)
    return _run(asgi, LocalServer(config, app, _kill_everything), sockets)


def run_worker(
    app: Application, options: ServeOptions, sockets: list[socket.socket], folder: str = ""
) -> int:  # fmt: skip
    """Serve on sockets that a supervisor has bound; the terminal's Ctrl-C is the supervisor's business.

    In ``folder`` the workers tell each other what they count.
    """
    asgi = AsgiApp(app)
    config = make_config(asgi, app, options)
    server = LocalServer(config, app, _kill_everything, ignored=signal.SIGINT)
    metrics = getattr(app, "metrics", None)
    if not folder or metrics is None:
        return _run(asgi, server, sockets)
    from router_core.telemetry.pooled import MetricsPool

    metrics.pool = server.pool = MetricsPool(folder, metrics.render, metrics.across)
    try:
        return _run(asgi, server, sockets)
    finally:
        metrics.pool = None
        server.pool.close()


def _run(asgi: AsgiApp, server: LocalServer, sockets: list[socket.socket]) -> int:
    asgi.raises_start_error = True
    try:
        server.run(sockets)
    except SystemExit:
        # how uvicorn says that it could not start
        if asgi.start_error is not None:
            raise asgi.start_error from None
        raise
    finally:
        for sock in sockets:
            sock.close()
    return 0 if server.started else 1


def _kill_everything(sig: int) -> None:
    kill_tree(os.getpid(), itself=False)
    os._exit(128 + sig)


def _protocol_class() -> Any:
    if _has("httptools"):
        from handlers.local.protocol_httptools import StrictHttpToolsProtocol

        return StrictHttpToolsProtocol
    from handlers.local.protocol_h11 import StrictH11Protocol

    return StrictH11Protocol


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return sys.platform != "win32" and find_spec(module) is not None
