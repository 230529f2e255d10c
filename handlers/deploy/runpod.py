"""Deploy to RunPod: test here, test beside what runs, replace, test again, and go back if that fails.

    new:     test on this machine -> create a candidate -> test it -> give it the name
    update:  test on this machine -> create a candidate -> test it -> delete it -> update -> rollout -> test

The id of an endpoint is in the URL that its callers use, so an update happens in place. Whatever goes wrong,
the last lines say what is deployed now.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from handlers.deploy.errors import DeployError, NotPrepared, Refused, Unclear
from handlers.deploy.image import Build, build_and_push
from handlers.deploy.local_test import LocalReport, local_test
from handlers.deploy.progress import Progress
from handlers.deploy.runpod_api import RunpodApi
from handlers.deploy.runpod_config import EndpointConfig, merged, read_profile
from handlers.deploy.runpod_plan import MARK, Plan, differences, plan_for
from handlers.deploy.runpod_watch import Watch
from handlers.deploy.smoke import DOCUMENT
from handlers.deploy.undo import Undo
from router_core.settings import unknown_variables

__all__ = ["Deployed", "RunpodOptions", "deploy_runpod", "find_endpoint"]

_DEFAULT_PROFILE: Final = "gpu-24gb"
_LEAST_TIMEOUT: Final = 600.0
_GRACE: Final = 60.0
"""Seconds that RunPod waits longer for a job than we do: our own error says more than its TIMED_OUT."""
_CANDIDATE: Final = "-candidate"
_LOOKS: Final = 3
_FLASHBOOT: Final = " -fb"
"""What RunPod's older interfaces put after the name of an endpoint with FlashBoot."""


@dataclass(frozen=True, slots=True)
class RunpodOptions:
    """What is to be deployed, and how carefully."""

    name: str
    app: str = ""
    folder: Path = field(default_factory=Path)
    profile: str = ""
    config: EndpointConfig = field(default_factory=EndpointConfig)
    remove_env: tuple[str, ...] = ()
    build: Build | None = None
    test: Mapping[str, Any] | None = None
    """The test request; None derives one."""
    local: bool = True
    """Test on this machine first."""
    candidate: bool = True
    """Test an update on an endpoint of its own before the real one is touched."""
    force: bool = False
    """Roll out although nothing differs: the image behind a tag may be another one."""
    take_over: bool = False
    """Change an endpoint that was made by other means."""
    dry_run: bool = False
    timeout: float = 900.0
    """Seconds in which an endpoint must have answered a test request."""
    poll: float = 2.0


@dataclass(frozen=True, slots=True)
class Deployed:
    """How it ended."""

    action: str
    """created, updated, unchanged or planned."""
    name: str
    endpoint_id: str = ""
    changes: tuple[str, ...] = ()


def deploy_runpod(options: RunpodOptions, progress: Progress, api: RunpodApi) -> Deployed:
    """Deploy. Raises DeployError after everything that was done has been taken back."""
    undo = Undo(progress)
    try:
        return _Deployment(options, progress, api, undo).run()
    except BaseException as error:
        if undo:
            if isinstance(error, KeyboardInterrupt):
                progress.say("interrupted: taking back what was done (once more leaves it as it is)")
            else:
                progress.say("failed: taking back what was done")
            left = undo.run()
            state = f"NOT taken back: {'; '.join(left)}" if left else "everything is as it was before"
        else:
            state = "nothing was changed"
        if isinstance(error, DeployError):
            error.args = (f"{error}; {state}",)
        else:
            progress.say(state)
        raise


def find_endpoint(endpoints: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """Return the endpoint of that name or id. Raises NotPrepared when several bear the name."""
    found = [each for each in endpoints if str(each.get("name", "")).removesuffix(_FLASHBOOT) == name]
    found = found or [each for each in endpoints if each.get("id") == name]
    if len(found) > 1:
        ids = ", ".join(str(each.get("id")) for each in found)
        raise NotPrepared(f"{len(found)} endpoints are called {name} ({ids}): name one by its id")
    return found[0] if found else None


class _Deployment:
    def __init__(self, options: RunpodOptions, progress: Progress, api: RunpodApi, undo: Undo) -> None:
        self._options = options
        self._progress = progress
        self._api = api
        self._undo = undo
        self._mark = uuid.uuid4().hex[:12]
        self._current_id = ""
        # whether a create is on its way, and nobody knows what becomes of it
        self._creating = False
        self._test: Mapping[str, Any] = options.test or {"path": DOCUMENT}

    def run(self) -> Deployed:
        options, progress = self._options, self._progress
        progress.hide_env(options.config.env or {})
        with progress.step(f"look up {options.name}") as step:
            current = find_endpoint(self._api.endpoints(), options.name)
            step.note(f"endpoint {current['id']}" if current else "there is none yet")
        self._current_id = str(current["id"]) if current else ""
        progress.hide_env((current or {}).get("env") or {})
        self._planned(current, self._config(current, None))
        plan = self._prepared(current)
        self._show(plan)
        if options.dry_run:
            return self._result("planned", plan, current)
        if current is None:
            return self._result("created", plan, self._create(plan))
        if not plan.changes and not options.force:
            self._tested(plan.name, self._watch(current))
            return self._result("unchanged", plan, current)
        if MARK not in (current.get("env") or {}) and not options.take_over:
            raise NotPrepared(
                f"{plan.name} ({current['id']}) was not made by router-core; --yes changes it all the same"
            )
        self._update(plan, current)
        return self._result("updated", plan, current)

    # -- before anything is changed ------------------------------------------------------------------

    def _prepared(self, current: Mapping[str, Any] | None) -> Plan:
        options = self._options
        report = self._tested_here()
        config = self._config(current, report)
        if options.build is not None and not options.dry_run:
            with self._progress.step(f"build and push {options.build.image}") as step:
                image = build_and_push(options.build, step)
                step.note(image)
            config = replace_image(config, image)
        plan = self._planned(current, config)
        self._warn(plan, report)
        return plan

    def _planned(self, current: Mapping[str, Any] | None, config: EndpointConfig) -> Plan:
        name = str(current["name"]).removesuffix(_FLASHBOOT) if current else self._options.name
        return plan_for(name, current, config, self._options.remove_env)

    def _tested_here(self) -> LocalReport | None:
        options = self._options
        if not options.app or not options.local:
            return None
        with self._progress.step(f"test {options.app} on this machine") as step:
            report = local_test(
                options.app, options.test, folder=options.folder, env=options.config.env or {},
                timeout=options.timeout,
            )  # fmt: skip
            step.note(f"{report.routes} routes; {_request(report.test)} succeeded")
        self._test = report.test
        return report

    def _config(self, current: Mapping[str, Any] | None, report: LocalReport | None) -> EndpointConfig:
        options = self._options
        layers = [options.config]
        profile = options.profile or ("" if current else _DEFAULT_PROFILE)
        if profile:
            layers.insert(0, read_profile(profile))
        if options.app:
            layers.insert(0, EndpointConfig(env={"ROUTER_APP": options.app}))
        if current is None and report is not None and report.longest is not None:
            seconds = max(_LEAST_TIMEOUT, report.longest + _GRACE)
            layers.insert(0, EndpointConfig(timeout=int(seconds * 1000)))
        if options.build is not None:
            layers.append(EndpointConfig(image=options.build.image))
        return merged(*layers)

    def _warn(self, plan: Plan, report: LocalReport | None) -> None:
        image, timeout = str(plan.wanted.get("image", "")), plan.wanted.get("timeout")
        tag = image.rpartition("/")[2].partition("@")
        if not tag[1] and tag[0].partition(":")[2] in ("", "latest"):
            self._progress.say(
                f"  note: {image} names no version; RunPod may go on with an older image of that name"
            )
        if report is not None and isinstance(timeout, int):
            if report.longest is None or report.longest * 1000 > timeout:
                self._progress.say(
                    f"  note: RunPod ends jobs after {timeout / 1000:g} s, and a route allows more: "
                    "--execution-timeout"
                )
        for said in unknown_variables(plan.wanted.get("env") or {}):
            self._progress.say(f"  note: {said}")

    def _show(self, plan: Plan) -> None:
        if plan.current is None:
            self._progress.say(f"  create {plan.name}:")
        elif plan.changes:
            self._progress.say(f"  update {plan.name} ({plan.current['id']}):")
        else:
            self._progress.say(f"  {plan.name} ({plan.current['id']}) is as it is wanted")
        for line in plan.lines():
            self._progress.say(f"    {line}")

    # -- changes -------------------------------------------------------------------------------------

    def _create(self, plan: Plan) -> Mapping[str, Any]:
        """Make it under another name: what bears the name has passed its test, come what may."""
        endpoint = self._tried(plan)
        with self._progress.step(f"name it {plan.name}"):
            if find_endpoint(self._api.endpoints(), plan.name) is not None:
                raise Refused(f"another deployment has created {plan.name} meanwhile", 409)
            self._api.update(str(endpoint["id"]), {"name": plan.name})
        self._undo.forget()
        return endpoint

    def _update(self, plan: Plan, current: Mapping[str, Any]) -> None:
        if self._options.candidate and (plan.replaces_workers or self._options.force):
            candidate = self._tried(plan, min=0, max=1)
            # its worker counts against the limit of the account, which the real one may need
            with self._progress.step(f"remove {plan.name}{_CANDIDATE}"):
                self._api.delete(str(candidate["id"]))
            self._undo.forget()
        endpoint_id = str(current["id"])
        body = plan.update_body(self._mark, force=self._options.force)
        self._check_unchanged(plan, current)
        self._undo.add(
            f"restore {plan.name}",
            f"{plan.name} ({endpoint_id}) may be as it was wanted, untested",
            lambda: self._restore(plan, current, body),
        )
        with self._progress.step(f"update {plan.name}"):
            try:
                self._api.update(endpoint_id, body)
            except Refused:
                self._undo.forget()
                raise
        watch = self._watch(current)
        with self._told(watch), self._progress.step(f"replace the workers of {plan.name}") as step:
            watch.rollout(step)
        self._tested(plan.name, watch)
        self._undo.forget()

    def _tried(self, plan: Plan, **workers: int) -> dict[str, Any]:
        """Return an endpoint on which the new version has passed its test, where no caller meets it."""
        name = f"{plan.name}{_CANDIDATE}"
        left = find_endpoint(self._api.endpoints(), name)
        if left is not None:
            raise NotPrepared(
                f"{name} ({left['id']}) is there: another deployment runs, or one was killed. In the second "
                f"case remove it: router-core deploy runpod --destroy {left['id']}"
            )
        candidate = self._created(plan, name, **workers)
        self._tested(name, self._watch(candidate))
        return candidate

    def _tested(self, name: str, watch: Watch) -> None:
        with self._told(watch), self._progress.step(f"test {name}: {_request(self._test)}") as step:
            watch.test(step, self._test)

    @contextmanager
    def _told(self, watch: Watch) -> Iterator[None]:
        """Show what the worker has written before it is removed with its log."""
        try:
            yield
        except DeployError:
            for line in watch.log():
                self._progress.say(f"    | {line}")
            raise

    def _created(self, plan: Plan, name: str, **workers: int) -> dict[str, Any]:
        body = plan.create_body(name, self._mark, **workers)
        self._undo.add(f"remove {name}", f"{name} may be left: look for it", self._remove)
        with self._progress.step(f"create {name}") as step:
            endpoint = self._create_once(name, body)
            step.note(f"endpoint {endpoint['id']}")
            self._undo.forget()
            by_hand = f"{name} is left: router-core deploy runpod --destroy {endpoint['id']}"
            self._undo.add(f"remove {name}", by_hand, self._remove)
            self._alone(name, endpoint)
        return endpoint

    def _create_once(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create it although answers get lost: look for it before another try."""
        self._creating = True
        for attempt in range(1, _LOOKS + 1):
            try:
                endpoint = _with_id(self._api.create(body))
                self._creating = False
                return endpoint
            except Refused:
                self._undo.forget()
                raise
            except Unclear:
                found = self._mine()
                if found:
                    return found[0]
                if attempt == _LOOKS:
                    raise
        raise AssertionError("every attempt returns or raises")

    def _mine(self) -> list[dict[str, Any]]:
        """Return what this deployment has created, whatever its name is by now."""
        return [
            each
            for each in self._api.endpoints()
            if (each.get("env") or {}).get(MARK) == self._mark and each.get("id") != self._current_id
        ]

    def _alone(self, name: str, endpoint: Mapping[str, Any]) -> None:
        """Refuse a name that two have taken at the same moment, and what a repeated create has doubled."""
        for extra in self._mine():
            if extra["id"] != endpoint["id"]:
                self._api.delete(str(extra["id"]))
        find_endpoint(self._api.endpoints(), name)

    def _remove(self) -> None:
        for _ in range(_LOOKS if self._creating else 1):
            mine = self._mine()
            for each in mine:
                self._api.delete(str(each["id"]))
            if mine:
                return
            # a create that was interrupted may still arrive
            time.sleep(self._options.poll)

    def _check_unchanged(self, plan: Plan, current: Mapping[str, Any]) -> None:
        now = self._api.endpoint(str(current["id"]))
        if now is None:
            raise Refused(f"{plan.name} ({current['id']}) was deleted meanwhile", 404)
        changed = differences(current, now)
        if changed:
            raise Refused(f"{plan.name} was changed by somebody else meanwhile: {', '.join(changed)}", 409)

    def _restore(self, plan: Plan, current: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        endpoint_id = str(current["id"])
        now = self._api.endpoint(endpoint_id)
        if now is None:
            raise Refused(f"{plan.name} ({endpoint_id}) was deleted meanwhile", 404)
        foreign = plan.foreign(now, body)
        if foreign:
            raise DeployError(
                f"somebody else has changed {', '.join(foreign)} meanwhile, which was left alone"
            )
        # also where the update has not arrived yet: it may be on its way
        self._api.update(endpoint_id, plan.restore_body(body))
        after = self._api.endpoint(endpoint_id) or {}
        different = [field for field in differences(current, after) if field in body]
        if different:
            raise DeployError(f"these fields differ from before: {', '.join(different)}")

    # -- small things --------------------------------------------------------------------------------

    def _watch(self, endpoint: Mapping[str, Any]) -> Watch:
        return Watch(self._api, str(endpoint["id"]), timeout=self._options.timeout, poll=self._options.poll)

    def _result(self, action: str, plan: Plan, endpoint: Mapping[str, Any] | None) -> Deployed:
        return Deployed(action, plan.name, str((endpoint or {}).get("id", "")), tuple(plan.lines()))


def replace_image(config: EndpointConfig, image: str) -> EndpointConfig:
    """Return the configuration with another image."""
    return merged(config, EndpointConfig(image=image))


def _with_id(endpoint: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(endpoint.get("id"), str):
        raise Unclear("RunPod answered a create without the id of the endpoint")
    return endpoint


def _request(test: Mapping[str, Any]) -> str:
    return str(test.get("path", "the request"))
