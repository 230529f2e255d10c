"""What bodies of the control plane look like, for the OpenAPI document; they are read elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from router_core.gateway.control.model_body import ENDPOINT_TYPES
from router_core.gateway.control.providers import MODEL_KINDS, PROVIDERS
from router_core.gateway.values import STATUSES, StrategyName

__all__ = [
    "BATCH",
    "ENDPOINT",
    "HEALTH",
    "IMPORT",
    "MODEL",
    "PREFERENCES",
    "ROLLBACK",
    "RULE",
    "STATUS",
    "WORKSPACE",
]

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_TEXTS: Final[Json] = {"type": "array", "items": _TEXT}
_SHARE: Final[Json] = {"type": "number", "description": "0 to 1"}
_AMOUNT: Final[Json] = {"type": "number", "minimum": 0}
_COUNT: Final[Json] = {"type": "integer", "minimum": 1}
_TOLD: Final = ("createdAt", "updatedAt", "managedBy", "warnings")
_URL: Final[Json] = {"type": "string", "description": "https://..."}
_FLAG: Final[Json] = {"type": "boolean"}
_ANY: Final[Json] = {"type": "object", "additionalProperties": True}
_LIST: Final[Json] = {"type": "array", "items": _ANY}


def _object(required: tuple[str, ...] = (), /, **properties: Json) -> Json:
    made: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**made, "required": list(required)} if required else made


def _resource(required: tuple[str, ...] = (), /, **properties: Json) -> Json:
    """Describe a body that may be an answer sent back, with what only answers say."""
    return _object(required, **properties, **{name: {"readOnly": True} for name in _TOLD})


def _words(words: tuple[str, ...] | Mapping[str, Any]) -> Json:
    return {"type": "string", "enum": list(words)}


_LIMITS: Final[Mapping[str, Json]] = {
    "budgetLimits": _object(daily=_AMOUNT, weekly=_AMOUNT, monthly=_AMOUNT),
    "rateLimits": _object(requestsPerMinute=_COUNT, tokensPerMinute=_COUNT, concurrency=_COUNT),
    "onStoreFailure": {"description": "open or closed, or one for each limit"},
    "unpriced": {"description": "allow or refuse, or one for each budget"},
    "alerts": {"description": "percents, or some for each limit"},
}
ENDPOINT: Final = _resource(
    ("url",), id=_TEXT, url=_URL, type=_words(ENDPOINT_TYPES), weight=_AMOUNT,
    healthCheckUrl=_URL, apiKeyRef=_TEXT, region=_TEXT, compliance=_TEXTS,
    tags=_TEXTS, maxConcurrency=_COUNT, timeout={**_COUNT, "description": "milliseconds"}, model=_TEXT,
)  # fmt: skip
MODEL: Final = _resource(
    ("name", "provider"), id=_TEXT, name=_TEXT, version=_TEXT, provider=_words(PROVIDERS),
    modelType=_words(MODEL_KINDS), status=_words(STATUSES), tags=_TEXTS, aliases=_TEXTS,
    description=_TEXT, ownedBy=_TEXT, apiKeyRef=_TEXT, region=_TEXT,
    capabilities={"type": "array", "items": {"anyOf": [
        _TEXT, _object(("type",), type=_TEXT, maxTokens=_COUNT),
    ]}},
    parameters=_object(
        temperature={"type": "number", "minimum": 0, "maximum": 2}, maxTokens=_COUNT, topP=_SHARE,
        frequencyPenalty={"type": "number", "minimum": -2, "maximum": 2},
        presencePenalty={"type": "number", "minimum": -2, "maximum": 2}, seed={"type": "integer"},
        stop={"anyOf": [_TEXT, _TEXTS]},
    ),
    strategy=_words(get_args(StrategyName)), fallbacks=_TEXTS, contextFallbacks=_TEXTS,
    policyFallbacks=_TEXTS, compliance=_TEXTS, contextLength=_COUNT, limits=_object(**_LIMITS),
    price=_object(input=_AMOUNT, output=_AMOUNT, cachedInput=_AMOUNT, request=_AMOUNT),
    endpoints={**_LIST, "description": "as those of /api/models/{modelId}/endpoints"},
)  # fmt: skip
STATUS: Final = _object(("status",), status=_words(STATUSES))
BATCH: Final = _object(
    ("updates",), atomic=_FLAG,
    updates={"type": "array", "items": _object(
        ("modelId", "status"), modelId=_TEXT, status=_words(STATUSES),
    )},
)  # fmt: skip
HEALTH: Final = _object(
    ("status",), status=_words(("healthy", "degraded", "unhealthy")), errorRate=_SHARE,
    responseTime={**_AMOUNT, "description": "milliseconds"}, detail=_TEXT, endpointId=_TEXT,
    availability={"type": "number", "minimum": 0, "maximum": 100, "description": "percent"},
    ttl={"type": "number", "minimum": 0, "maximum": 3600, "description": "seconds"},
)  # fmt: skip
_CONDITION: Final = _object(
    agentType=_TEXTS, requestType=_TEXTS, workspaceId=_TEXTS, userTier=_TEXTS, tags=_TEXTS, custom=_ANY,
    contentLength=_object(min={"type": "integer", "minimum": 0}, max={"type": "integer", "minimum": 0}),
    timeOfDay=_object(start=_TEXT, end=_TEXT, timezone=_TEXT, days=_TEXTS),
)  # fmt: skip
RULE: Final = _resource(
    ("name", "targetModels"), id=_TEXT, name=_TEXT, condition=_CONDITION, priority={"type": "integer"},
    enabled=_FLAG, shadow=_FLAG,
    targetModels={"type": "array", "items": _object(
        ("modelId",), modelId=_TEXT, weight=_AMOUNT, fallbackOrder=_COUNT,
    )},
    trafficSplit=_object(primary=_AMOUNT, canary=_AMOUNT, experimental=_AMOUNT),
)  # fmt: skip
PREFERENCES: Final = _resource(
    preferredModels=_TEXTS, fallbackModels=_TEXTS, requiredCapabilities=_TEXTS,
    performanceRequirements=_object(
        maxLatency={**_AMOUNT, "description": "milliseconds"}, minSuccessRate=_SHARE,
        maxCostPerToken={**_AMOUNT, "description": "dollars"},
    ),
)  # fmt: skip
WORKSPACE: Final = _resource(
    modelRestrictions=_TEXTS, **_LIMITS, complianceRequirements=_TEXTS, regions=_TEXTS,
    qualityRequirements=_object(
        minSuccessRate=_SHARE, maxLatency={**_AMOUNT, "description": "milliseconds"}
    ),
    webhook=_URL,
)  # fmt: skip
IMPORT: Final = _object(
    ("config",), version={"type": "integer"}, exportedAt={"type": "string"}, why=_TEXT,
    config=_object(
        models=_LIST, routingRules=_LIST, agentPreferences=_ANY, workspaceConfigs=_ANY, rollouts=_LIST,
        experiments=_LIST,
    ),
)  # fmt: skip
ROLLBACK: Final = _object(("version",), version={"type": "integer", "minimum": 0}, why=_TEXT, dryRun=_FLAG)
