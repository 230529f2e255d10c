"""Every front door of AWS answers like the core."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from handlers.aws.function import LambdaApp
from router_core.testing.adapter_contract import AdapterContract, Answer, Call, Send, contract_app
from tests.aws.lambda_events import SHAPES, Context, received, round_trip

_LAST_ONE = frozenset({"query list", "query twice"})
"""Without multi-value headers a load balancer passes the last value of a name only."""


@pytest.fixture(scope="module")
def served() -> Iterator[LambdaApp]:
    """Run the contract's service, with its jobs beside the calls."""
    handler = LambdaApp(contract_app())
    handler.start(background=True)
    yield handler
    handler.stop()


@pytest.mark.parametrize("shape", list(SHAPES))
class TestLambda(AdapterContract):
    """The handler, called with each kind of HTTP event."""

    @pytest.fixture
    def call(self, served: LambdaApp, shape: str, request: pytest.FixtureRequest) -> Send:
        """Go through an event and a reply, both carried by JSON."""
        if shape == "alb" and request.node.callspec.params["name"] in _LAST_ONE:
            pytest.skip("this load balancer passes the last value of a name only")

        async def through(call: Call) -> Answer:
            event = round_trip(SHAPES[shape](call))
            reply = await asyncio.to_thread(served, event, Context(request_id="0" * 32))
            return received(round_trip(reply))

        return through
