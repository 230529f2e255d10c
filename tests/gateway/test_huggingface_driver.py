"""The driver for Hugging Face against the stand-in, over sockets: every state, waking, sleeping, timers."""

from __future__ import annotations

import pytest

from router_core.errors import Misconfigured
from router_core.gateway.lifecycle.driver import ManagementError
from router_core.gateway.lifecycle.huggingface import HuggingFaceDriver, inference_url, names_of
from router_core.gateway.lifecycle.states import State
from router_core.gateway.values import EndpointSpec, Secret
from router_core.testing.clock import FakeClock
from router_core.testing.huggingface_api import HuggingFaceApi
from tests.gateway.lifecycle_parts import PlainTransport, passing, spec_of

WORDS = {
    "pending": State.STARTING, "initializing": State.STARTING, "updating": State.STARTING,
    "running": State.RUNNING, "paused": State.SLEEPING, "scaledToZero": State.SLEEPING,
    "failed": State.ERROR, "updateFailed": State.ERROR, "hibernating": State.UNKNOWN,
}  # fmt: skip


def driver_of(hub: HuggingFaceApi, clock: FakeClock, name: str = "big") -> HuggingFaceDriver:
    return HuggingFaceDriver(spec_of(hub, name), PlainTransport(), clock)


@pytest.mark.parametrize("word", WORDS)
async def test_every_state(hub: HuggingFaceApi, clock: FakeClock, word: str) -> None:
    """Each word of the API has its state; one that is new is unknown; the word itself is kept."""
    hub.add("ann", "big", state=word)
    seen = await driver_of(hub, clock).look()
    assert (seen.state, seen.sub) == (WORDS[word], word)
    assert seen.serving is {"running": True, "updating": True, "hibernating": None}.get(word, False)
    assert seen.url == hub.url("big")


async def test_running_means_that_it_answers(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """The API says running before the health route does: until then it is starting."""
    hub.add("ann", "big", state="paused", health_route="/ping")
    hub.habits.pending = hub.habits.initializing = 0.0
    hub.habits.unhealthy = 10.0
    driver = driver_of(hub, clock)
    await driver.wake("paused", 1)
    assert hub.state("big") == "running"
    seen = await driver.look()
    assert (seen.state, seen.serving) == (State.STARTING, False)
    clock.advance(10.0)
    seen = await driver.look()
    assert (seen.state, seen.serving) == (State.RUNNING, True)


async def test_health_is_asked_once(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Looking does not keep an endpoint awake: its health is asked when it comes up, and when in doubt."""
    hub.add("ann", "big", scale_to_zero_timeout=15)
    driver = driver_of(hub, clock)
    for _ in range(5):
        assert (await driver.look()).state is State.RUNNING
        clock.advance(150.0)
    assert len(hub.actions("health")) == 1
    driver.doubt()
    await driver.look()
    assert len(hub.actions("health")) == 2
    for _ in range(7):
        clock.advance(150.0)
        await driver.look()
    assert hub.state("big") == "scaledToZero", "and so it could fall asleep"


async def test_scaled_to_zero_is_woken_by_a_request(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """The knock carries X-Scale-Up-Timeout, and no order goes to the management API."""
    hub.add("ann", "big", state="scaledToZero")
    # the proxy holds the request for as long as it was asked to
    await passing(clock, driver_of(hub, clock).wake("scaledToZero", 1), step=0.1, always=True)
    assert hub.state("big") in ("pending", "initializing", "running")
    (knock,) = hub.actions("health")
    assert knock.headers["x-scale-up-timeout"] == "1"
    assert knock.headers["authorization"] == f"Bearer {hub.token}"
    assert not hub.actions("resume")


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_knock_that_is_refused_is_followed_by_a_resume(
    hub: HuggingFaceApi, clock: FakeClock, status: int
) -> None:
    """A proxy that refuses the request starts nothing."""
    hub.add("ann", "big", state="scaledToZero")
    hub.fault("health", status=status)
    await driver_of(hub, clock).wake("scaledToZero", 1)
    assert len(hub.actions("resume")) == 1


async def test_a_resume_that_is_refused_is_followed_by_a_knock(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """At the second try the other way round: nobody documents whether resume works there."""
    hub.add("ann", "big", state="scaledToZero")
    hub.fault("resume", status=409)
    await passing(clock, driver_of(hub, clock).wake("scaledToZero", 2), step=0.1, always=True)
    assert len(hub.actions("health")) == 1


async def test_pausing_and_scaling_to_zero(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Two ways to sleep, and both are told apart afterwards."""
    hub.add("ann", "big")
    driver = driver_of(hub, clock)
    await driver.sleep(pause=False)
    assert (await driver.look()).sub == "scaledToZero"
    await driver.sleep(pause=True)
    assert (await driver.look()).sub == "paused"
    assert [each.action for each in hub.actions("pause", "scale-to-zero")] == ["scale-to-zero", "pause"]
    with pytest.raises(ManagementError, match="scale-to-zero: 400 Bad Request: Endpoint is paused"):
        await driver.sleep(pause=False)


@pytest.mark.parametrize(
    ("seconds", "minutes"), [(900.0, 15), (1000.0, 17), (60.0, 15), (1e9, 2880)],
    ids=["exact", "rounded-up", "least", "most"],
)  # fmt: skip
async def test_the_timer_is_set_in_minutes(
    hub: HuggingFaceApi, clock: FakeClock, seconds: float, minutes: int
) -> None:
    """scaleToZeroTimeout counts minutes, takes 15 to 2880, and means nothing without minReplica 0."""
    hub.add("ann", "big", min_replica=1)
    driver = driver_of(hub, clock)
    assert (await driver.look()).timer is None
    assert await driver.push_timer(seconds)
    assert hub.actions("update")[0].json == {
        "compute": {"scaling": {"minReplica": 0, "scaleToZeroTimeout": minutes}}
    }
    assert hub.scaling("big")["maxReplica"] == 1
    clock.advance(hub.habits.updating)
    assert (await driver.look()).timer == minutes * 60.0


async def test_while_it_updates_the_old_replicas_serve(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Setting the timer takes no endpoint out of service."""
    hub.add("ann", "big")
    driver = driver_of(hub, clock)
    await driver.look()
    await driver.push_timer(900.0)
    seen = await driver.look()
    assert (seen.state, seen.sub, seen.serving) == (State.STARTING, "updating", True)


@pytest.mark.parametrize("kind", ["drop", "garbage", "answer"])
async def test_an_api_that_does_not_answer(hub: HuggingFaceApi, clock: FakeClock, kind: str) -> None:
    """Whatever is wrong with it is a ManagementError, and one that may pass."""
    hub.add("ann", "big")
    hub.fault("get", kind, times=3)  # type: ignore[arg-type]
    with pytest.raises(ManagementError) as caught:
        await passing(clock, driver_of(hub, clock).look())
    assert caught.value.transient
    assert hub.token not in str(caught.value)


async def test_a_wrong_key(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """It is refused for good, and the error does not hold it."""
    hub.add("ann", "big")
    spec = spec_of(hub, "big", token=Secret("hf_wrong_canary"))
    with pytest.raises(ManagementError, match="401") as caught:
        await HuggingFaceDriver(spec, PlainTransport(), clock).look()
    assert not caught.value.transient
    assert "canary" not in str(caught.value)


async def test_an_address_that_may_not_have_the_key(hub: HuggingFaceApi, clock: FakeClock) -> None:
    """Whatever the API says, the key is not sent in the clear."""
    hub.add("ann", "big")
    body = b'{"status": {"state": "running", "url": "http://evil.example"}}'
    hub.fault("get", status=200, body=body)
    with pytest.raises(ManagementError, match="cannot be used"):
        await driver_of(hub, clock).look()


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"status": null}', b'{"status": "running"}', b'{"status": {"state": 5}}',
     b'{"status": {"state": "paused"}, "compute": {"scaling": 1}, "healthRoute": 7}',
     b'{"status": {"state": "paused", "url": 5, "readyReplica": "x"}, "healthRoute": "/a b\\r\\n"}'],
    ids=["empty", "null", "text", "number", "scaling", "types"],
)  # fmt: skip
async def test_answers_of_the_wrong_shape(hub: HuggingFaceApi, clock: FakeClock, body: bytes) -> None:
    """They make nothing of it: unknown, or what can be read."""
    hub.add("ann", "big")
    hub.fault("get", status=200, body=body)
    seen = await driver_of(hub, clock).look()
    assert seen.state in (State.UNKNOWN, State.SLEEPING)
    assert seen.timer is None


@pytest.mark.parametrize(
    ("url", "names"),
    [("https://endpoints.huggingface.co/ann/endpoints/gpt-oss-120b", ("ann", "gpt-oss-120b")),
     ("https://endpoints.huggingface.co/ann/endpoints/x/", ("ann", "x")),
     ("https://ui.endpoints.huggingface.co/ann/endpoints/x", ("ann", "x")),
     ("https://abc.us-east-1.aws.endpoints.huggingface.cloud", ("", "")),
     ("https://endpoints.huggingface.co.evil.example/ann/endpoints/x", ("", "")),
     ("https://endpoints.huggingface.co/ann/x", ("", "")), ("https://[", ("", "")), ("", ("", ""))],
)  # fmt: skip
def test_names_in_addresses(url: str, names: tuple[str, str]) -> None:
    """The address of the console names the endpoint, and is not where calls go."""
    assert names_of(url) == names
    assert inference_url(url) == ("" if names[1] else url)


def test_a_configured_address_gets_no_key_in_the_clear() -> None:
    """What is configured is held to the same."""
    spec = EndpointSpec("big", "huggingface", "http://big.example", "ann", "big", Secret("k"))
    with pytest.raises(Misconfigured, match="https"):
        HuggingFaceDriver(spec, PlainTransport(), FakeClock())


def test_an_endpoint_that_nobody_names() -> None:
    """Without a name at the provider it is told what to write."""
    spec = EndpointSpec("big", "huggingface", "https://abc.endpoints.huggingface.cloud")
    with pytest.raises(Misconfigured, match="endpoint big: give namespace and remote"):
        HuggingFaceDriver(spec, PlainTransport(), FakeClock())
