"""Send a test request to an endpoint and watch its workers until the answer is there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from handlers.deploy.errors import DeployError, Refused, TooSlow
from handlers.deploy.local_test import brief
from handlers.deploy.progress import Step
from handlers.deploy.runpod_api import RunpodApi

__all__ = ["Watch"]

_ENDED: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
_READY: Final = ("RUNNING", "IDLE")
_SICK: Final = 3
"""Looks in a row at nothing but unhealthy workers, before it is given up."""
_LOG_LINES: Final = 15
_UNKNOWN: Final = 15
"""Looks for which an endpoint that was just made may be unknown to the job API."""


class Watch:
    """Waits for one endpoint, within one time limit."""

    def __init__(
        self, api: RunpodApi, endpoint_id: str, *, timeout: float, poll: float,
        sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._api = api
        self._id = endpoint_id
        self._timeout = timeout
        self._poll = poll
        self._sleep = sleep
        self._clock = clock
        self._end = clock() + timeout
        self._sick = 0
        self._last = "no worker yet"
        self._worker = ""

    def log(self) -> list[str]:
        """Return the end of the log of the worker that is to blame, which may soon be gone."""
        return self._api.logs(self._id, self._worker, _LOG_LINES) if self._worker else []

    def rollout(self, step: Step) -> None:
        """Wait until no worker of the version from before takes jobs; those that run one may end it."""
        while True:
            stale = [each for each in self._look(step) if each.get("isStale")]
            busy = [each for each in stale if each.get("status") == "RUNNING"]
            if len(busy) == len(stale):
                ending = f"; {len(busy)} of the version from before end their jobs" if busy else ""
                step.note(f"{self._last}{ending}")
                return
            self._pause(f"{len(stale) - len(busy)} workers still had the version from before")

    def test(self, step: Step, values: Mapping[str, Any]) -> None:
        """Run a job to its end. Raises DeployError when it fails, TooSlow when it does not end."""
        while True:
            answer = self._answer(step, values)
            if answer.get("status") != "COMPLETED":
                self._worker = str(answer.get("workerId") or self._worker)
                raise DeployError(f"the test request {answer.get('status')}: {brief(answer.get('error'))}")
            stale = {each.get("id") for each in self._look(step) if each.get("isStale")}
            if answer.get("workerId") not in stale:
                break
            self._pause("the test request was answered by the version from before")
        waited, ran = answer.get("delayTime"), answer.get("executionTime")
        if isinstance(waited, int) and isinstance(ran, int):
            step.note(f"it waited {waited / 1000:.1f} s for a worker and ran {ran / 1000:.1f} s")

    def _answer(self, step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
        job_id = self._submitted(values)
        try:
            return self._ended(step, job_id)
        except BaseException:
            # it must not wait in the queue for the version that comes back
            with suppress(DeployError):
                self._api.cancel(self._id, job_id)
            raise

    def _submitted(self, values: Mapping[str, Any]) -> str:
        for _ in range(_UNKNOWN):
            try:
                job_id = self._api.run(self._id, values).get("id")
            except Refused as error:
                if error.status != 404:
                    raise
                self._pause("the job API did not know the endpoint")
            else:
                if isinstance(job_id, str) and job_id:
                    return job_id
                raise DeployError("the endpoint answered /run without the id of a job")
        raise DeployError("the job API does not know the endpoint (404)")

    def _ended(self, step: Step, job_id: str) -> dict[str, Any]:
        while True:
            answer = self._api.status(self._id, job_id)
            if answer.get("status") in _ENDED:
                return answer
            self._look(step)
            self._pause(f"the test request was {answer.get('status')} with {self._last}")

    def _look(self, step: Step) -> list[dict[str, Any]]:
        """Read the workers; raises DeployError when all of the new version are sick and stay so."""
        workers = self._api.workers(self._id)
        states = Counter(str(each.get("status", "UNKNOWN")) for each in workers if not each.get("isStale"))
        fresh = sorted((each for each in workers if not each.get("isStale")), key=_suspicion)
        self._worker = str(fresh[0].get("id", "")) if fresh else self._worker
        counts = ", ".join(f"{number} {state.lower()}" for state, number in sorted(states.items()))
        self._last = f"workers: {counts}" if counts else "no worker yet"
        step.status(self._last)
        well = any(states[state] for state in (*_READY, "INITIALIZING", "THROTTLED"))
        self._sick = self._sick + 1 if states["UNHEALTHY"] and not well else 0
        if self._sick >= _SICK:
            raise DeployError(
                "the workers are unhealthy: the container does not start or stops again; see its log in "
                "RunPod's console"
            )
        return workers

    def _pause(self, state: str) -> None:
        if self._clock() + self._poll > self._end:
            hint = "; no capacity: name more GPU pools or fewer data centers" if "throttled" in state else ""
            raise TooSlow(f"after {self._timeout:g} s {state}{hint} (--timeout gives it longer)")
        self._sleep(self._poll)


def _suspicion(worker: Mapping[str, Any]) -> int:
    """Sort workers: those whose log tells why nothing works come first."""
    order = ("UNHEALTHY", "INITIALIZING", "RUNNING", "IDLE")
    state = str(worker.get("status"))
    return order.index(state) if state in order else len(order)
