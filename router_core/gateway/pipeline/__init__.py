"""The way of a call through the gateway. The order of the layers is fixed here, outermost first:

admission     before anything is done for a call; what it holds is settled when all of it has ended
record        sees how every call ended, whoever ended it, so that none is missing from the accounts
resolve       rules before names: what may serve is known before anybody is asked
fallback      around retry: another model is tried only when this one has nothing left to offer
retry         the one loop that tries again, and it picks again each time; nothing below it repeats
select        inside the loop: what was tried, and how deployments stand by then, changes the choice
wake          a chosen deployment may be asleep; before its circuit, which must not count sleep as failure
circuit       hands out the permit of a half-open breaker, which belongs to one attempt
concurrency   taken together with the permit, and given back with it, however the attempt ends
timeout       innermost but one: the phases of one exchange
client        speaks to the upstream
"""

from __future__ import annotations

from router_core.gateway.pipeline.serve import Pipeline, Served

__all__ = ["Pipeline", "Served"]
