"""Names of OpenTelemetry's conventions, in one place: those of GenAI are still worked on and may change.

Those that are nobody's convention begin with ``router.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "AGENT_TYPE", "ATTEMPT", "ATTEMPTS", "CACHED_TOKENS", "COST", "DEPLOYMENT", "ENDPOINT",
    "ERROR_TYPE", "ESTIMATED", "FALLBACK_FROM", "FIRST_CHUNK", "HEDGE", "HTTP_METHOD", "HTTP_ROUTE",
    "HTTP_STATUS", "INPUT_TOKENS", "JOB_ATTEMPT", "JOB_ID", "JOB_MOVE", "JOB_STATE", "MAX_TOKENS",
    "OPERATION", "OPERATIONS", "OUTCOME", "OUTPUT_TOKENS", "PRINCIPAL", "PROVIDER", "PROVIDERS",
    "REASONING_TOKENS", "REQUEST_ID", "REQUEST_MODEL", "RESPONSE_MODEL", "RULE", "STREAM", "SYSTEM",
    "TRIAL", "URL_PATH", "WORKSPACE",
]  # fmt: skip

# GenAI
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
SYSTEM: Final = "gen_ai.system"
"""The older name of the provider, which many tools still look for."""
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
MAX_TOKENS: Final = "gen_ai.request.max_tokens"
STREAM: Final = "gen_ai.request.stream"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
OPERATIONS: Final[Mapping[str, str]] = {
    "chat/completions": "chat", "responses": "chat", "completions": "text_completion",
    "embeddings": "embeddings", "rerank": "rerank", "audio/transcriptions": "transcription",
    "images/generations": "generate_content",
}  # fmt: skip
"""Endpoint -> word for what is done."""
PROVIDERS: Final[Mapping[str, str]] = {"azure": "azure.ai.openai", "bedrock": "aws.bedrock"}
"""Types of deployments that have another word there."""

# HTTP and errors
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
URL_PATH: Final = "url.path"
ERROR_TYPE: Final = "error.type"

# ours
REQUEST_ID: Final = "router.request_id"
PRINCIPAL: Final = "router.principal"
WORKSPACE: Final = "router.workspace"
AGENT_TYPE: Final = "router.agent_type"
ENDPOINT: Final = "router.endpoint"
DEPLOYMENT: Final = "router.deployment"
OUTCOME: Final = "router.outcome"
ATTEMPT: Final = "router.attempt"
ATTEMPTS: Final = "router.attempts"
HEDGE: Final = "router.hedge"
COST: Final = "router.cost_microdollars"
ESTIMATED: Final = "router.usage.estimated"
FALLBACK_FROM: Final = "router.fallback_from"
RULE: Final = "router.rule"
TRIAL: Final = "router.trial"
JOB_ID: Final = "router.job.id"
JOB_MOVE: Final = "router.job.move"
JOB_STATE: Final = "router.job.state"
JOB_ATTEMPT: Final = "router.job.attempt"
