"""Settings: read once at the edge, passed on as a value.

Nothing in this package reads the environment when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any, Final

from router_core.errors import Misconfigured
from router_core.records import dataclass

__all__ = ["ENVIRONMENTS", "Settings", "unknown_variables"]

ENVIRONMENTS: Final = ("localhost", "serverless", "hosted", "decentralized")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "json", "text", "service")
TLS_VERSIONS: Final = ("1.2", "1.3")
LOG_MASKINGS: Final = ("secrets", "personal")
_ENVIRONMENT_ALIASES: Final = {"local": "localhost"}
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator may set; the environment variable of a field is in ``VARIABLES``."""

    provider: str = "fastapi"
    """Which entry point of the group ``router_core.providers`` serves the app."""
    environment: str = "localhost"
    """localhost, serverless, hosted or decentralized."""
    app: str = ""
    """``module:attribute`` of the router or app to serve."""
    jobs: str = "sqlite:///.router-core/jobs.db"
    """Where job records live: ``sqlite:///path``, ``memory://``, ``dynamodb://table``; ``none://`` takes no
    jobs."""
    queue: str = "inprocess"
    """How a worker learns of a job: ``inprocess``, ``pull`` (remote workers ask), ``sqs://name`` or
    ``runpod``."""
    blobs: str = "file://.router-core/blobs"
    """Where large inputs and results live: ``file://folder``, ``memory://``, ``s3://bucket/prefix``."""
    state: str = field(default="memory://", repr=False)
    """Where processes keep what they share: ``memory://`` (nothing), ``sqlite:///path``, ``dynamodb://table``,
    ``redis://host:port/db`` or ``rediss://``. ``REDIS_URL`` does where this is not set."""
    encryption_key: str = field(default="", repr=False)
    """Encrypts what jobs, blobs and state keep: base64 of 32 bytes, or several, the newest first; empty keeps
    it readable."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    api_keys: str = field(default="", repr=False)
    """Comma-separated API keys (``name:key``, with roles ``name:key:developer``), or ``@path`` of a file with
    one a line; where no other way to say who one is is set, empty means no authentication."""
    keys: str = ""
    """``state``: API keys are kept in the shared state, too; ``router-core keys create`` and ``/api/keys``
    make them."""
    keys_belief: float = 5.0
    """Seconds for which a key of the shared state is believed before it is looked up again; a revoked one is
    refused everywhere by then."""
    keys_stale: float = 60.0
    """Seconds for which such a key goes on being believed while the shared state does not answer."""
    jwt_issuer: str = ""
    """Who issues the JSON Web Tokens that are taken (claim ``iss``); empty takes none."""
    jwt_audience: str = ""
    """For whom they have to be issued (claim ``aud``); of several, separated by commas, any one."""
    jwt_jwks: str = ""
    """Where the keys of the issuer are: an https URL of its JWKS, or ``@path`` of a file."""
    jwt_secret: str = field(default="", repr=False)
    """Secret of at least 32 bytes that is shared with the issuer, in place of a JWKS: tokens are HS256 then,
    and nothing else."""
    jwt_algorithms: str = "RS256,ES256,EdDSA"
    """Algorithms that tokens may be signed with, each with keys of its own type alone."""
    jwt_roles_claim: str = "roles"
    """Claim that holds roles, with dots where it is inside another (``realm_access.roles``)."""
    jwt_workspaces_claim: str = "workspaces"
    """Claim that holds workspaces; ``*`` lets every token into every workspace."""
    jwt_tier_claim: str = "tier"
    """Claim that holds the tier of the user."""
    jwt_leeway: float = 30.0
    """Seconds by which the clocks of issuer and service may differ."""
    jwt_stale: float = 3600.0
    """Seconds for which known keys of the issuer go on being used while it does not answer."""
    client_certificates: str = ""
    """Which client certificates are whose, ``pattern=role|scope@workspace`` separated by commas, or ``@path``
    of a file with one a line; empty: a certificate says nothing about who is calling."""
    tls_min: str = "1.2"
    """Oldest version of TLS that is spoken: 1.2 or 1.3."""
    roles: str = ""
    """Roles beside viewer, developer, operator and admin: ``auditor=read``, comma-separated, with a bar
    between scopes."""
    webhook_secret: str = ""
    """Secret that signs webhooks (``whsec_`` + base64); empty refuses webhooks."""
    max_body_bytes: int = 10 * _MIB
    """Largest request body that is not a multipart upload."""
    max_upload_bytes: int = 100 * _MIB
    """Largest multipart body."""
    max_header_bytes: int = 32 * 1024
    """Largest headers."""
    max_json_depth: int = 64
    """How deep lists and objects of a JSON body may be nested."""
    header_timeout: float = 10.0
    """Seconds in which all headers must have arrived."""
    body_timeout: float = 30.0
    """Seconds in which a body must have arrived."""
    sync_wait_max: float = 60.0
    """Longest sync wait or long poll, in seconds."""
    lease: float = 30.0
    """Seconds for which a claimed job belongs to a worker without a heartbeat."""
    heartbeat: float = 10.0
    """Seconds between heartbeats."""
    retention: float = 24 * 3600.0
    """Seconds for which a finished job and its result stay readable."""
    drain_grace: float = 25.0
    """Seconds that running jobs get to end after SIGTERM."""
    allow_private_urls: bool = False
    """Let ``File`` inputs and webhooks name addresses that are not public (development only)."""
    trusted_hosts: str = ""
    """Comma-separated host names that requests may name; empty means loopback names on a loopback bind,
    anything elsewhere."""
    trusted_origins: str = ""
    """Comma-separated origins (``https://app.example.com``) whose pages may send writes, where something in
    front answers CORS; ``*`` is every page."""
    cors_origins: str = ""
    """Comma-separated origins whose pages may read answers and send writes: ``https://app.example.com``,
    ``https://*.example.com``, or ``*`` for every page."""
    cors_credentials: bool = False
    """Let these pages send cookies and client certificates; not together with ``*``."""
    cors_headers: str = ""
    """Header fields that pages may send besides the usual ones, comma-separated."""
    cors_max_age: int = 600
    """Seconds for which browsers remember what they may send."""
    rate_limit_max: int = 0
    """Requests that a caller, or an address without a caller, may make in a window; 0: 1000 where the window
    is set, else no limit."""
    rate_limit_window_ms: int = 0
    """The window in milliseconds; 0: 900000 where the number is set, else no limit."""
    trusted_proxies: str = ""
    """Addresses and networks (``10.0.0.0/8``) of proxies whose ``X-Forwarded-For`` is believed, where callers
    are counted by address."""
    audit_retention: float = 90 * 24 * 3600.0
    """Seconds for which entries of the audit log are kept in the shared state."""
    audit_required: bool = False
    """Refuse a change whose audit entry cannot be written first."""
    log_level: str = "info"
    """debug, info, warning or error."""
    log_format: str = "auto"
    """json, text, auto (text on a terminal, json elsewhere), or service: JSON with the members timestamp,
    level, service, message, requestId, modelId and latency, in the place of ours."""
    service_name: str = "router-core"
    """What the service is called in traces, and in lines of the log in the format ``service``."""
    otlp_endpoint: str = ""
    """Where traces go as OTLP over HTTP (needs the extra ``otel``); empty: nothing is traced."""
    log_masking: str = "secrets"
    """What is kept out of logs: ``secrets``, or ``personal`` for addresses and numbers of people as well."""
    log_masker: str = ""
    """``module:function`` that masks more, text in and text out, where ``log_masking`` is ``personal``."""
    server_url: str = ""
    """Public address of the service, for absolute links."""
    tracebacks: bool = False
    """Put tracebacks into the errors that callers get (development only); they are in the log anyway."""
    worker_keys: str = ""
    """Keys of remote workers, ``name:key``, or ``name:key:/route`` for one route only; empty takes no remote
    workers."""
    progress_interval: float = 1.0
    """Seconds between writes of a job's progress to its record; steps in between are left out."""
    runpod_concurrency: int = 4
    """Jobs that one RunPod worker runs at once, within what the routes allow."""
    runpod_result_bytes: int = 9 * _MIB
    """Largest output of a RunPod job, twice that for /runsync; a larger one needs ``s3://`` blobs."""
    runpod_refresh: bool = False
    """Have RunPod replace the worker after each job."""
    lambda_grace: float = 10.0
    """Seconds before the deadline of a Lambda invocation at which a running job is given back."""

    @property
    def authenticates(self) -> bool:
        """Whether callers have to say who they are."""
        tokens = self.jwt_issuer or self.jwt_jwks or self.jwt_secret
        return bool(self.api_keys or self.keys or tokens or self.client_certificates)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: Any) -> Settings:
        """Read the variables named in ``VARIABLES``; ``overrides`` that are not None win.

        Raises Misconfigured, naming the variable, when a value cannot be read.
        """
        values: dict[str, Any] = {}
        for name, variables in VARIABLES.items():
            for variable in variables:
                text = environ.get(variable, "").strip()
                if text and _is_ours(variable, text):
                    values[name] = _parse(variable, text, cls.__dataclass_fields__[name].type)
                    break
        known = {f.name for f in fields(cls)}
        for name, value in overrides.items():
            if name not in known:
                raise Misconfigured(
                    f"there is no setting named {name!r}; the settings are {', '.join(sorted(known))}"
                )
            if value is not None:
                values[name] = value
        environment = str(values.get("environment", "")).lower()
        if environment == "decentralized":  # the workers are elsewhere, and come for their jobs
            values.setdefault("queue", "pull")
        return replace(cls(), **values).checked()

    def checked(self) -> Settings:
        """Return these settings with aliases resolved; raises Misconfigured for an impossible value."""
        environment = _ENVIRONMENT_ALIASES.get(self.environment.lower(), self.environment.lower())
        if environment not in ENVIRONMENTS:
            choices = ", ".join(("local", *ENVIRONMENTS))
            raise Misconfigured(f"EXECUTION_ENVIRONMENT is {self.environment!r}; it must be one of {choices}")
        level, form, masking = self.log_level.lower(), self.log_format.lower(), self.log_masking.lower()
        for variable, value, allowed in (
            ("ROUTER_LOG_LEVEL", level, LOG_LEVELS), ("ROUTER_LOG_FORMAT", form, LOG_FORMATS),
            ("ROUTER_LOG_MASKING", masking, LOG_MASKINGS),
        ):  # fmt: skip
            if value not in allowed:
                raise Misconfigured(f"{variable} is {value!r}; it must be one of {', '.join(allowed)}")
        for variable, value, allowed in (
            ("ROUTER_TLS_MIN", self.tls_min, TLS_VERSIONS), ("ROUTER_KEYS", self.keys, ("", "state"))
        ):  # fmt: skip
            if value not in allowed:
                raise Misconfigured(
                    f"{variable} is {value!r}; it must be one of {', '.join(filter(None, allowed))}"
                )
        self._check_numbers()
        return replace(self, environment=environment, log_level=level, log_format=form, log_masking=masking)

    def _check_numbers(self) -> None:
        if not 0 <= self.port <= 65535:
            raise Misconfigured(f"PORT is {self.port}; it must be between 0 and 65535")
        if self.heartbeat * 2 > self.lease:
            raise Misconfigured(
                f"ROUTER_HEARTBEAT ({self.heartbeat} s) must be at most half of ROUTER_LEASE "
                f"({self.lease} s), or a single late heartbeat loses the job"
            )
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise Misconfigured(f"{VARIABLES[name][0]} must be greater than 0")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise Misconfigured(f"{VARIABLES[name][0]} must not be less than 0")


VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "provider": ("EXECUTION_PROVIDER",),
    # the second spelling is the one that the first published readme used
    "environment": ("EXECUTION_ENVIRONMENT", "EXECUTION_ENVIORNMENT"),
    "app": ("ROUTER_APP",),
    "jobs": ("ROUTER_JOBS",),
    "queue": ("ROUTER_QUEUE",),
    "blobs": ("ROUTER_BLOBS",),
    "state": ("ROUTER_STATE", "REDIS_URL"),
    "encryption_key": ("ROUTER_ENCRYPTION_KEY",),
    "host": ("ROUTER_HOST",),
    "port": ("PORT",),
    "api_keys": ("ROUTER_API_KEYS",),
    "keys": ("ROUTER_KEYS",),
    "keys_belief": ("ROUTER_KEYS_BELIEF",),
    "keys_stale": ("ROUTER_KEYS_STALE",),
    "jwt_issuer": ("ROUTER_JWT_ISSUER",),
    "jwt_audience": ("ROUTER_JWT_AUDIENCE",),
    "jwt_jwks": ("ROUTER_JWT_JWKS",),
    "jwt_secret": ("ROUTER_JWT_SECRET",),
    "jwt_algorithms": ("ROUTER_JWT_ALGORITHMS",),
    "jwt_roles_claim": ("ROUTER_JWT_ROLES_CLAIM",),
    "jwt_workspaces_claim": ("ROUTER_JWT_WORKSPACES_CLAIM",),
    "jwt_tier_claim": ("ROUTER_JWT_TIER_CLAIM",),
    "jwt_leeway": ("ROUTER_JWT_LEEWAY",),
    "jwt_stale": ("ROUTER_JWT_STALE",),
    "client_certificates": ("ROUTER_CLIENT_CERTIFICATES",),
    "tls_min": ("ROUTER_TLS_MIN",),
    "roles": ("ROUTER_ROLES",),
    "webhook_secret": ("ROUTER_WEBHOOK_SECRET",),
    "max_body_bytes": ("ROUTER_MAX_BODY_BYTES",),
    "max_upload_bytes": ("ROUTER_MAX_UPLOAD_BYTES",),
    "max_header_bytes": ("ROUTER_MAX_HEADER_BYTES",),
    "max_json_depth": ("ROUTER_MAX_JSON_DEPTH",),
    "header_timeout": ("ROUTER_HEADER_TIMEOUT",),
    "body_timeout": ("ROUTER_BODY_TIMEOUT",),
    "sync_wait_max": ("ROUTER_SYNC_WAIT_MAX",),
    "lease": ("ROUTER_LEASE",),
    "heartbeat": ("ROUTER_HEARTBEAT",),
    "retention": ("ROUTER_RETENTION",),
    "drain_grace": ("ROUTER_DRAIN_GRACE",),
    "allow_private_urls": ("ROUTER_ALLOW_PRIVATE_URLS",),
    "trusted_hosts": ("ROUTER_TRUSTED_HOSTS",),
    "trusted_origins": ("ROUTER_TRUSTED_ORIGINS",),
    "cors_origins": ("ROUTER_CORS_ORIGINS",),
    "cors_credentials": ("ROUTER_CORS_CREDENTIALS",),
    "cors_headers": ("ROUTER_CORS_HEADERS",),
    "cors_max_age": ("ROUTER_CORS_MAX_AGE",),
    "rate_limit_max": ("RATE_LIMIT_MAX",),
    "rate_limit_window_ms": ("RATE_LIMIT_WINDOW_MS",),
    "trusted_proxies": ("ROUTER_TRUSTED_PROXIES",),
    "audit_retention": ("ROUTER_AUDIT_RETENTION",),
    "audit_required": ("ROUTER_AUDIT_REQUIRED",),
    "log_level": ("ROUTER_LOG_LEVEL", "LOG_LEVEL"),
    "log_format": ("ROUTER_LOG_FORMAT",),
    "service_name": ("OTEL_SERVICE_NAME",),
    "otlp_endpoint": ("OTEL_EXPORTER_OTLP_ENDPOINT",),
    "log_masking": ("ROUTER_LOG_MASKING",),
    "log_masker": ("ROUTER_LOG_MASKER",),
    "server_url": ("ROUTER_SERVER_URL",),
    "tracebacks": ("ROUTER_TRACEBACKS",),
    "worker_keys": ("ROUTER_WORKER_KEYS",),
    "progress_interval": ("ROUTER_PROGRESS_INTERVAL",),
    "runpod_concurrency": ("ROUTER_RUNPOD_CONCURRENCY",),
    "runpod_result_bytes": ("ROUTER_RUNPOD_RESULT_BYTES",),
    "runpod_refresh": ("ROUTER_RUNPOD_REFRESH",),
    "lambda_grace": ("ROUTER_LAMBDA_GRACE",),
}
"""Field -> environment variables that set it, the first that is set wins."""


_OTHERS: Final = (
    "ROUTER_URL", "ROUTER_API_KEY", "ROUTER_COORDINATOR", "ROUTER_WORKER_KEY", "ROUTER_FAILPOINT",
    "ROUTER_DEPLOYMENT", "ROUTER_LAMBDA_ROLE", "ROUTER_TRACER", "ROUTER_GATEWAY",
    "ROUTER_GATEWAY_RECORDS",
)  # fmt: skip
"""Variables that are read elsewhere: by the command line, deployments, functions, tests that break things."""


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that looks like a setting and is none: probably it is misspelt."""
    known = [variable for variables in VARIABLES.values() for variable in variables]
    said = []
    for name in sorted(environ):
        if not name.startswith("ROUTER_") or name in known or name in _OTHERS:
            continue
        import difflib  # only who has misspelt one pays for it

        near = difflib.get_close_matches(name, [*known, *_OTHERS], 1, 0.75)
        said.append(
            f"{name} is no setting and has no effect" + (f"; did you mean {near[0]}?" if near else "")
        )
    return said


def _is_ours(variable: str, text: str) -> bool:
    """Return whether a variable that others set as well says something that we understand."""
    if variable == "REDIS_URL":
        return text.startswith(_REDIS)
    return variable != "LOG_LEVEL" or text.lower() in LOG_LEVELS


def _parse(variable: str, text: str, kind: object) -> object:
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except ValueError:
        raise Misconfigured(f"{variable} is {text!r}; it must be a number") from None
    if kind == "bool":
        word = text.lower()
        if word not in _TRUE | _FALSE:
            raise Misconfigured(f"{variable} is {text!r}; it must be true or false")
        return word in _TRUE
    return text


_REDIS: Final = ("redis://", "rediss://")
"""What we take of a variable that is not ours: others may mean more by it."""
_POSITIVE: Final = (
    "max_body_bytes", "max_upload_bytes", "max_header_bytes", "max_json_depth", "header_timeout",
    "body_timeout", "sync_wait_max", "lease", "heartbeat", "retention", "progress_interval",
    "audit_retention", "runpod_concurrency", "runpod_result_bytes", "lambda_grace", "keys_belief",
    "keys_stale", "jwt_stale",
)  # fmt: skip
_NOT_NEGATIVE: Final = ("rate_limit_max", "rate_limit_window_ms", "cors_max_age")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
