"""What a gateway is configured with, as values: models, their deployments, and how each is treated.

The configuration is read into these once (``config``), and nothing below the registry ever looks at a file
or at the environment. Every value is frozen: a call works with those it began with to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = [
    "CLIENT_TYPES", "ENDPOINTS", "LIMIT_KINDS", "MODEL_TYPES", "SERVING", "STATUSES", "AgentPreferences",
    "BreakerPolicy", "ControlPolicy", "Deployment", "EjectionPolicy", "EndpointSpec", "GatewayConfig",
    "HealthPolicy", "HedgePolicy", "Limit", "Model", "Price", "Requirements", "RetryPolicy", "Secret",
    "StrategyName", "Timeouts", "Workspace",
]  # fmt: skip

CLIENT_TYPES: Final = (
    "openai", "azure", "anthropic", "vllm", "tei", "albert", "huggingface", "runpod", "bedrock", "craftai",
    "generic", "scripted",
)  # fmt: skip

ENDPOINTS: Final = (
    "chat/completions", "completions", "embeddings", "rerank", "audio/transcriptions", "images/generations",
    "responses",
)  # fmt: skip
"""What a model can be called through; the words that follow ``/v1/``."""

MODEL_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "text-generation": ("chat/completions", "completions", "responses"),
    "image-text-to-text": ("chat/completions", "completions", "responses"),
    "text-embeddings-inference": ("embeddings",),
    "text-classification": ("rerank",),
    "automatic-speech-recognition": ("audio/transcriptions",),
    "text-to-image": ("images/generations",),
}
"""Type of a model -> the endpoints that fit it."""

STATUSES: Final = ("active", "inactive", "deprecated", "maintenance")
SERVING: Final = frozenset({"active", "deprecated"})
"""Statuses in which a model answers calls."""

StrategyName = Literal[
    "shuffle", "round_robin", "weighted", "least_busy", "latency", "cheapest", "priority", "sticky"
]


class Secret:
    """A credential that does not show itself in logs, tracebacks or exports."""

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """Return it, for the one place that sends it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('***')" if self._value else "Secret()"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that one attempt may take, phase by phase."""

    connect: float = 5.0
    first_byte: float = 60.0
    """From the request being sent to the first byte of the answer; for a stream, to its first content."""
    idle: float = 30.0
    """Between two pieces of an answer."""
    total: float = 600.0
    """From the beginning of the attempt to the end of its answer. A call with all its attempts has
    ``Model.total_timeout``."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a deployment costs, in micro-dollars: integers, so that sums of many calls stay exact."""

    input: int = 0
    """For a million tokens of input. One dollar for a million tokens is 1,000,000 here."""
    output: int = 0
    cached_input: int | None = None
    """For a million tokens that the provider read from its cache; None: as other input."""
    request: int = 0
    """For one request, whatever its size."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is tried again, on another deployment where there is one."""

    max_attempts: int = 4
    """Tries of one model, not retries; fallback models have their own. Three deployments that have fallen ill
    at once do not fail a call that a fourth can serve. Those that could not be reached are not counted: each
    is asked once more at most, while there is another one."""
    budget_ratio: float = 0.2
    """Retries (and hedges) allowed as a share of the calls of this process."""
    budget_floor: float = 10.0
    """Retries a second that are allowed whatever the share."""
    backoff: float = 0.05
    """Seconds before the same deployment is tried again: doubled each time, fully jittered."""
    backoff_max: float = 2.0
    retry_after_max: float = 60.0
    """A deployment is not left out for longer, whatever its Retry-After says."""
    unclear: bool = True
    """Try again also where it is not known whether the upstream has done (and will bill) the work: a reset
    or a timeout after the request was sent, 502 and 504. Asking a model twice changes nothing but the bill,
    and that only as far as the retry budget allows; False where even that is too much."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a deployment is left out for failing, and how it comes back."""

    window: float = 60.0
    """Seconds looked back upon, in 10 buckets."""
    ratio: float = 0.5
    minimum: int = 5
    """Calls in the window below which the ratio says nothing."""
    in_a_row: int = 5
    """Failures in a row that open it whatever the ratio."""
    open_for: float = 5.0
    """Seconds; doubled at each failed probe up to ``open_max``, jittered by 20 %."""
    open_max: float = 20.0
    probes: int = 1
    """Calls let through at once while half-open."""
    successes: int = 2
    """Good probes in a row that close it."""
    probe_lease: float = 30.0
    """Seconds after which a probe that never ended no longer holds its permit."""


@dataclass(frozen=True, slots=True)
class EjectionPolicy:
    """When a deployment is left out for being unlike its peers (slower, or failing more)."""

    enabled: bool = True
    interval: float = 5.0
    minimum: int = 20
    """Calls in the window that a deployment needs to be judged."""
    failure_gap: float = 0.3
    """Share of failures above the median of the peers."""
    latency_factor: float = 5.0
    """Times the median latency of the peers."""
    eject_for: float = 30.0
    max_share: float = 0.5
    """At most this share of a model's deployments is ejected at once."""
    panic: float = 0.34
    """With a smaller share of healthy deployments, health and ejection are ignored: too few are left to
    believe that all the others are ill."""


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """A second copy of a slow call, the first answer wins. Only non-streaming calls or before the first
    content; counted against the retry budget."""

    after: float
    """Seconds without an answer."""
    max_share: float = 0.05
    """Hedges as a share of the calls of the model."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How deployments are looked after beside the traffic."""

    interval: float = 10.0
    """Seconds between two active probes; 0 switches them off."""
    timeout: float = 3.0
    billed: bool = False
    """Probe with a real call of one token where nothing cheaper exists; costs money."""
    path: str = ""
    """Path of the probe instead of that of the client type."""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """A place that can be asleep: it is woken before it is called, and put to sleep when nobody calls."""

    name: str
    driver: Literal["huggingface", "runpod", "none"]
    url: str
    """Where inference goes."""
    namespace: str = ""
    """Owner of the endpoint at the provider (huggingface)."""
    remote: str = ""
    """Its name or id at the provider."""
    token: Secret = field(default_factory=Secret)
    api_url: str = ""
    """Management API, where it is not the provider's usual one."""
    wake_timeout: float = 300.0
    auto_sleep: float = 900.0
    """Seconds without a call after which it is put to sleep; 0: never."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One place that can serve a model."""

    id: str
    """Unique in the gateway, and stable over reloads: its statistics hang on it."""
    model_id: str
    type: str
    """One of CLIENT_TYPES."""
    model: str
    """What the upstream calls the model."""
    base_url: str = ""
    """Scheme, host, port and the path before the endpoint, without a slash at its end."""
    key: Secret = field(default_factory=Secret)
    weight: float = 1.0
    priority: int = 0
    """Strategy ``priority``: lower is asked first."""
    tags: frozenset[str] = frozenset()
    region: str = ""
    compliance: frozenset[str] = frozenset()
    """Data policies that it satisfies: gdpr, hipaa, ..."""
    capabilities: frozenset[str] = frozenset()
    """tools, vision, json, ...; empty: unknown, so nothing is held against it."""
    max_context_length: int | None = None
    """Tokens."""
    max_concurrency: int | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    price: Price | None = None
    """None: looked up by the name of the model; a model that nobody knows is "unpriced"."""
    endpoint: str = ""
    """Name of its EndpointSpec; empty: always awake."""
    health: HealthPolicy = field(default_factory=HealthPolicy)
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every call, beside those of its type."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else its client type understands (api_version, script, ca_file, ...)."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a body for calls that do not say them: temperature, max_tokens, ..."""


@dataclass(frozen=True, slots=True)
class Model:
    """A name that callers ask for, and the deployments behind it."""

    id: str
    type: str
    """One of MODEL_TYPES."""
    deployments: tuple[Deployment, ...]
    aliases: tuple[str, ...] = ()
    strategy: StrategyName = "shuffle"
    owned_by: str = "router-core"
    created: int = 0
    """Unix seconds."""
    fallbacks: tuple[str, ...] = ()
    """Models that are tried, in this order, when this one cannot serve."""
    context_fallbacks: tuple[str, ...] = ()
    """Models for calls that do not fit into the context of this one."""
    policy_fallbacks: tuple[str, ...] = ()
    """Models for calls that this one's content filter refuses."""
    wake_fallback: str = ""
    """Model that serves while this one's endpoint wakes."""
    sticky_by: str = "user"
    """Strategy ``sticky``: what keeps calls together: ``user`` (of the body), ``principal``, or
    ``header:NAME``."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    ejection: EjectionPolicy = field(default_factory=EjectionPolicy)
    hedge: HedgePolicy | None = None
    total_timeout: float = 600.0
    """Seconds for one call with all its attempts and fallbacks."""
    status: str = "active"
    """``active``; one that is ``inactive`` or in ``maintenance`` is listed by the control plane alone and
    serves nobody, one that is ``deprecated`` serves and is told to be."""
    tags: frozenset[str] = frozenset()
    limits: tuple[Limit, ...] = ()
    """For all callers together."""

    @property
    def max_context_length(self) -> int | None:
        """Tokens that fit into every deployment: the least of theirs."""
        known = [each.max_context_length for each in self.deployments if each.max_context_length]
        return min(known) if known else None

    def fits(self, endpoint: str) -> bool:
        """Return whether a model of this type can be called through an endpoint."""
        return endpoint in MODEL_TYPES.get(self.type, ())


LIMIT_KINDS: Final = ("daily", "weekly", "monthly", "requests", "tokens", "concurrency")


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of something a workspace, a caller or a model may use."""

    kind: str
    """One of LIMIT_KINDS. Money of a calendar day, week (from Monday) or month in UTC; requests or tokens of
    a minute; calls at once."""
    amount: int
    """Micro-dollars for money, else a count."""
    on_store_failure: Literal["open", "closed"] = "closed"
    """Whether calls pass while the shared state cannot be asked: ``open`` lets them, and counts them here
    alone."""
    alerts: tuple[int, ...] = ()
    """Of money: percent of the amount at each of which the owner is told, once in each window."""
    unpriced: Literal["allow", "refuse"] = "allow"
    """Of money: whether deployments may serve whose price nobody knows, so that their calls count as 0."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the measured quality of a model has to be for it to be chosen."""

    min_success_rate: float = 0.0
    """0 to 1."""
    max_latency: float = 0.0
    """Seconds; 0: any."""
    max_cost_per_token: float = 0.0
    """Dollars; 0: any."""
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentPreferences:
    """What agents of a type want where no rule decides."""

    agent_type: str
    preferred: tuple[str, ...] = ()
    """Ids of models, the first one that can serve is taken."""
    fallback: tuple[str, ...] = ()
    """Asked when none of the preferred can."""
    requirements: Requirements = field(default_factory=Requirements)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A tenant: what its calls may use, and how much of it."""

    id: str
    models: tuple[str, ...] = ()
    """Ids of the models that it may call; empty: all."""
    limits: tuple[Limit, ...] = ()
    requirements: Requirements = field(default_factory=Requirements)
    compliance: frozenset[str] = frozenset()
    """Data policies that every deployment which serves it has to satisfy."""
    regions: frozenset[str] = frozenset()
    """Where its calls may be served; empty: anywhere."""
    webhook: str = ""
    """URL that is told of alerts; empty: the log alone."""


@dataclass(frozen=True, slots=True)
class ControlPolicy:
    """What may be configured through the API, as the file says."""

    secrets: tuple[tuple[str, frozenset[str]], ...] = ()
    """Names of variables whose values may be keys of deployments, each with the hosts that they may be sent
    to; no hosts: any."""
    private_urls: bool = False
    """Whether deployments may be at addresses that are not public."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Everything that one configuration says; valid as a whole, or not made."""

    models: tuple[Model, ...] = ()
    endpoints: tuple[EndpointSpec, ...] = ()
    rules: tuple[Any, ...] = ()
    """``rules.Rule`` values."""
    workspaces: tuple[Workspace, ...] = ()
    workspaces_required: bool = False
    """Refuse calls that name no workspace, or one that is not among these."""
    agents: tuple[AgentPreferences, ...] = ()
    rollouts: tuple[Any, ...] = ()
    """``trials.rollout.Rollout`` values."""
    experiments: tuple[Any, ...] = ()
    """``trials.experiment.Experiment`` values."""
    default_model: str = ""
    """What /api/route uses where neither a rule nor the caller names a model."""
    selector: tuple[Deployment, ...] = ()
    """ENDPOINT_LIST: what POST /select_endpoint tries."""
    control: ControlPolicy = field(default_factory=ControlPolicy, repr=False)
    version: str = ""
    """Hash of what it was read from: equal text, equal version."""
    source: str = ""
    """Where it came from, for messages."""
