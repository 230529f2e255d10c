"""The JSON of a gateway's control plane, for editors and type checkers; every field may be left out.

What fields mean is told in docs/gateway-control.md, -rules.md, -budgets.md and -experiments.md.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

__all__ = [
    "AgentPreferences", "Capability", "Condition", "Configuration", "Experiment", "HealthReport", "Managed",
    "Model", "ModelEndpoint", "ModelStatus", "Rollout", "Rule", "Target", "TrafficSplit", "Variant",
    "Workspace",
]  # fmt: skip

ModelStatus = Literal["active", "inactive", "maintenance", "deprecated"]


class Managed(TypedDict, total=False):
    """What answers say beside everything that is configured."""

    managedBy: Literal["api", "file", "environment"]
    createdAt: str
    updatedAt: str
    warnings: list[str]


class Capability(TypedDict, total=False):
    """Something that a model can do."""

    type: str
    maxTokens: int


class ModelEndpoint(TypedDict, total=False):
    """A place that serves a model."""

    id: str
    url: str
    type: str
    weight: float
    healthCheckUrl: str
    apiKeyRef: str
    """Name of a secret, never the secret itself."""
    region: str


class Model(Managed, total=False):
    """A model."""

    id: str
    name: str
    version: str
    provider: str
    modelType: str
    capabilities: list[Capability]
    parameters: dict[str, Any]
    status: ModelStatus
    tags: list[str]
    aliases: list[str]
    endpoints: list[ModelEndpoint]


class HealthReport(TypedDict, total=False):
    """What somebody has seen of a model: milliseconds, a share, percent."""

    status: str
    responseTime: float
    errorRate: float
    availability: float


class Condition(TypedDict, total=False):
    """When a rule holds."""

    agentType: list[str]
    requestType: list[str]
    workspaceId: list[str]
    userTier: list[str]
    contentLength: dict[str, int]
    timeOfDay: dict[str, Any]
    tags: list[str]
    custom: dict[str, Any]


class Target(TypedDict, total=False):
    """A model that a rule sends calls to."""

    modelId: str
    weight: float
    fallbackOrder: int


class TrafficSplit(TypedDict, total=False):
    """Percent of the calls."""

    primary: float
    canary: float
    experimental: float


class Rule(Managed, total=False):
    """A routing rule."""

    id: str
    name: str
    condition: Condition
    targetModels: list[Target]
    trafficSplit: TrafficSplit
    priority: int
    enabled: bool
    shadow: bool


class AgentPreferences(Managed, total=False):
    """What agents of a type want."""

    agentType: str
    preferredModels: list[str]
    fallbackModels: list[str]
    requiredCapabilities: list[str]
    performanceRequirements: dict[str, float]


class Workspace(Managed, total=False):
    """A tenant: budgets in dollars, rates a minute."""

    workspaceId: str
    modelRestrictions: list[str]
    budgetLimits: dict[str, float]
    rateLimits: dict[str, int]
    qualityRequirements: dict[str, float]
    complianceRequirements: list[str]
    regions: list[str]
    onStoreFailure: Any
    alerts: list[int]
    webhook: str


class Rollout(Managed, total=False):
    """A canary deployment."""

    id: str
    model: str
    canary: str
    rule: str
    strategy: Literal["linear", "exponential", "manual"]
    startShare: float
    step: float
    stages: list[float]
    intervalSeconds: float
    minRequests: int
    success: dict[str, float]
    rollback: dict[str, float]
    alpha: float
    stickyBy: Literal["session", "user", "principal"]
    enabled: bool


class Variant(TypedDict, total=False):
    """An arm of an experiment."""

    name: str
    modelId: str
    weight: float


class Experiment(Managed, total=False):
    """A comparison of models on the same calls."""

    id: str
    model: str
    condition: Condition
    variants: list[Variant]
    metric: Literal["successRate", "latency", "cost", "tokens", "score"]
    alpha: float
    power: float
    minSamples: int
    minDetectableEffect: float
    guardrails: dict[str, float]
    maxDurationSeconds: float
    onVerdict: Literal["report", "promote"]
    stickyBy: Literal["session", "user", "principal"]
    enabled: bool


class Configuration(TypedDict, total=False):
    """All of it, as an export gives it out."""

    models: list[Model]
    routingRules: list[Rule]
    agentPreferences: dict[str, AgentPreferences]
    workspaceConfigs: dict[str, Workspace]
    rollouts: list[Rollout]
    experiments: list[Experiment]
