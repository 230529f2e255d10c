"""What an arm of a trial may do at most, alone or beside the arm that it is compared with."""

from __future__ import annotations

from typing import Any, Final

from router_core.records import dataclass

__all__ = ["CRITERIA", "Criteria"]

CRITERIA: Final = (
    ("max_error_rate", "maxErrorRate", 1.0),
    ("max_error_rate_increase", "maxErrorRateIncrease", 1.0),
    ("max_latency_p95", "maxLatencyP95", 1000.0),
    ("max_latency_increase", "maxLatencyIncrease", 1.0),
    ("max_cost_increase", "maxCostIncrease", 1.0),
)
"""Name here, name on the wire, and how much larger the number is there."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """Upper ends; None: nothing is asked."""

    max_error_rate: float | None = None
    """Share of the calls of which a try failed at its model, 0 to 1; those that were saved count, too."""
    max_error_rate_increase: float | None = None
    """Above the share of the baseline: 0.02 lets 3 % be where the baseline has 1 %. Calls that were refused
    count here as well: a caller's mistakes fall to both arms alike."""
    max_latency_p95: float | None = None
    """Seconds (milliseconds on the wire) within which 95 % of the calls are answered; streams begin."""
    max_latency_increase: float | None = None
    """Of that, or of how long calls typically take, above the baseline's: 0.2 is a fifth more."""
    max_cost_increase: float | None = None
    """Of the mean cost of a call, above the baseline's: 0.2 is a fifth more."""

    def __bool__(self) -> bool:
        return self != _NONE

    def to_json(self) -> dict[str, Any]:
        """Return those that are set."""
        named = ((wire, getattr(self, name), scale) for name, wire, scale in CRITERIA)
        return {wire: round(value * scale, 6) for wire, value, scale in named if value is not None}


_NONE: Final = Criteria()
