"""``POST /select_endpoint``: ``ENDPOINT_LIST``, shuffled, until one answers with 200."""

from __future__ import annotations

import json
from typing import Any

from router_core.telemetry.events import Note
from router_core.testing.upstream import Upstream, closed_port
from router_core.testing.upstream_faults import ok, status
from tests.gateway.serving import House, house


def listed(*urls: str) -> dict[str, str]:
    """Return the environment of a list of endpoints."""
    entries = {
        str(number): {"endpoint_url": url, "endpoint_token": f"TOKEN_{number}"}
        for number, url in enumerate(urls, 1)
    }
    return {"ENDPOINT_LIST": json.dumps(entries)}


def notes(made: House) -> list[dict[str, Any]]:
    """Return what was logged of selections."""
    return [
        event.fields for event in made.seen if isinstance(event, Note) and event.name == "endpoint_selected"
    ]


async def test_the_first_that_answers_with_200_is_passed_on() -> None:
    """Its body as it is; tried in random order, each with its own token."""
    async with Upstream(ok({"result": "yes"})) as good, Upstream(status(500)) as bad:
        with closed_port() as port:
            urls = (
                f"{bad.url}/llm-model-1",
                f"{good.url}/llm-model-2",
                f"http://127.0.0.1:{port}/llm-model-3",
            )
            async with house("", listed(*urls)) as made:
                for _ in range(12):
                    reply = await made.ask("/select_endpoint", {"message": "YOUR_MESSAGE"})
                    assert (reply.status, reply.json()) == (200, {"result": "yes"})
                found = notes(made)
                metrics = (await made.ask("/metrics")).body.decode()
    assert {seen.target for seen in good.requests} == {"/llm-model-2"}
    assert good.requests[0].headers["authorization"] == "EndpointToken TOKEN_2"
    assert good.requests[0].json() == {"message": "YOUR_MESSAGE"}
    assert 0 < len(bad.requests) < 12, "the order is always the same"
    assert {fields["request-status"] for fields in found} == {200}
    assert {fields["endpoint-attempt"] for fields in found} >= {1, 2}
    tried_all = next(fields for fields in found if fields["endpoint-attempt"] == 3)
    assert {tried_all[f"statut-endpoint-{number}"] for number in (1, 2, 3)} == {500, -1, 200}
    assert sorted(tried_all[f"endpoint-candidate-{number}"] for number in (1, 2, 3)) == sorted(urls)
    assert all(fields["total-duration"] >= fields["post-duration-1"] > 0 for fields in found)
    assert 'model_router_request_status_total{status="200"} 12' in metrics
    assert "TOKEN_2" not in str(made.seen)


async def test_when_nobody_answers_that_is_said() -> None:
    """502, the number of attempts and the last status; without a list 503."""
    async with Upstream(status(503)) as bad, house("", listed(f"{bad.url}/a", f"{bad.url}/b")) as made:
        reply = await made.ask("/select_endpoint", {"message": "x"})
        assert (reply.status, reply.json()["attempts"]) == (502, 2)
        assert notes(made)[0]["request-status"] == 503
    async with house("") as made:
        assert (await made.ask("/select_endpoint", {"message": "x"})).status == 503
