"""The words by which upstreams say that a prompt is too long, that it is refused, or what else is wrong.

Codes are compared whole, wordings are looked for inside the message. Each line names who writes so.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CONTEXT_CODES",
    "CONTEXT_WORDS",
    "POLICY_CODES",
    "POLICY_WORDS",
    "QUOTA_CODES",
    "STATUS_WORDS",
    "WORDLESS",
]

CONTEXT_CODES: Final = frozenset({
    "context_length_exceeded",  # OpenAI, Azure, DeepSeek, Groq
    "context_window_exceeded", "contextwindowexceedederror",  # other gateways
    "model_context_window_exceeded",  # Anthropic
    "exceed_context_size_error",  # llama.cpp
    "model_max_prompt_tokens_exceeded", "tokens_limit_reached",  # GitHub Models
    "string_above_max_length",  # OpenAI: one string of the prompt
    "request_too_large",  # Anthropic
    "input_too_long", "prompt_too_long",
})  # fmt: skip

CONTEXT_WORDS: Final = (
    "context length", "context window",  # OpenAI, vLLM, SGLang, Mistral, Ollama, Groq
    "context size", "context limit",  # llama.cpp; Anthropic
    "maximum model length", "max_model_len",  # vLLM
    "prompt is too long",  # Anthropic, Fireworks
    "input is too long", "too many input tokens",  # Bedrock
    "maximum prompt length",  # xAI
    "maximum input length",  # OpenAI embeddings
    "reduce the length of the",  # OpenAI, Groq, vLLM
    "exceeds the maximum number of tokens",  # Gemini
    "`inputs` tokens + `max_new_tokens` must be", "`inputs` must have less than",  # TGI, TEI
    "inputs must have less than", "exceeds max input length",  # TEI
    "model token limit",  # Moonshot
    "too many tokens",  # Cohere
    "range of input length should be",  # DashScope
)  # fmt: skip

POLICY_CODES: Final = frozenset({
    "content_filter", "content_policy_violation", "moderation_blocked",  # OpenAI
    "responsibleaipolicyviolation",  # Azure, as the inner error's code
    "invalid_prompt",  # OpenAI: flagged by the policy of reasoning models
    "data_inspection_failed", "datainspectionfailed",  # DashScope
    "content_filtered", "content_moderation", "moderation_error", "contentpolicyviolationerror",
})  # fmt: skip

POLICY_WORDS: Final = (
    "content management policy", "responsibleaipolicyviolation",  # Azure
    "content policy", "content_policy_violation", "safety system", "usage policy",  # OpenAI
    "content filtering policy",  # Anthropic
    "requires moderation", "input was flagged",  # OpenRouter
    "content exists risk",  # DeepSeek
    "inappropriate content",  # DashScope
)  # fmt: skip

QUOTA_CODES: Final = frozenset({
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_balance_too_low",
    "insufficient_balance", "quota_exceeded",
})  # fmt: skip
"""What a 429 says when waiting a second does not help: nobody has paid."""

STATUS_WORDS: Final[tuple[tuple[str, int], ...]] = (
    ("insufficient_quota", 429), ("rate_limit", 429), ("ratelimit", 429), ("too_many_requests", 429),
    ("resource_exhausted", 429), ("throttl", 429),
    ("overloaded", 529), ("unavailable", 503), ("capacity", 503),
    ("authentication", 401), ("invalid_api_key", 401), ("unauthorized", 401), ("unauthenticated", 401),
    ("permission", 403), ("billing", 402),
    ("model_not_found", 404), ("not_found", 404), ("notfound", 404),
    ("timeout", 504), ("deadline_exceeded", 504),
    ("context_length", 400), ("invalid_request", 400), ("badrequest", 400), ("bad_request", 400),
    ("invalid_argument", 400), ("validation", 400), ("content_filter", 400), ("content_policy", 400),
    ("invalid_prompt", 400),
)  # fmt: skip
"""Part of a code or type -> the status it would have come with, for errors inside an answer of 200."""

WORDLESS: Final = "the upstream answered "
"""How the message begins that the clients write for an error that came without words of its own."""
