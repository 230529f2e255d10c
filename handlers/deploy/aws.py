"""Deploy to AWS with the SAM CLI: test here, build, deploy, test there, and go back if that fails.

    test on this machine  ->  sam build, sam validate  ->  sam deploy  ->  health and a request
                                                              |              `-- fails: restore ----'
                                                              `-- fails: CloudFormation goes back by itself

Whatever goes wrong, the last line says what is deployed now.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from handlers.deploy.aws_bundle import forget_run
from handlers.deploy.aws_facts import LIMIT, find_facts, fit
from handlers.deploy.aws_logs import last_errors
from handlers.deploy.aws_parameters import check_together, dotted, draw_snapshot, first_key
from handlers.deploy.aws_sam import Sam, parameter_file
from handlers.deploy.aws_smoke import smoke_test
from handlers.deploy.aws_stack import DATA, Account, Snapshot, Stack, StackState
from handlers.deploy.aws_template import check_keys, check_parameters, parameter_names, stage_template
from handlers.deploy.errors import DeployError, NotPrepared, Unreachable
from handlers.deploy.local_test import local_test
from handlers.deploy.progress import Progress

if TYPE_CHECKING:
    import httpx

__all__ = ["AwsDeployed", "AwsOptions", "deploy_aws", "destroy_aws"]

_SECRETS: Final = ("ApiKeys", "WorkerKeys", "WebhookSecret")
_BROKEN: Final = (
    "ROLLBACK_COMPLETE",
    "ROLLBACK_FAILED",
    "CREATE_FAILED",
    "DELETE_FAILED",
    "UPDATE_ROLLBACK_FAILED",
)
_URLS: Final = ("Url", "FunctionUrl", "StreamUrl")
_NO_TEST: Final[Mapping[str, Any]] = {"path": "openapi.json", "method": "GET"}


@dataclass(frozen=True, slots=True)
class AwsOptions:
    """What is to be deployed, and how carefully."""

    app: str
    """``module:attribute``."""
    stack: str
    folder: Path = field(default_factory=Path.cwd)
    """Where the app is; all of it goes into the bundle that [tool.router-core.bundle] does not leave out."""
    region: str = ""
    profile: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of the template; those that an existing stack has and that are not given here stay as they are."""
    template: Path | None = None
    """A template of your own; None takes the one of router-core."""
    bucket: str = ""
    """Where the bundle is uploaded; empty lets SAM make a bucket for that."""
    test: Mapping[str, Any] | None = None
    """The test request, as for RunPod: ``{"path": "/predict", ...}``; None derives one."""
    url: str = ""
    """Address to test; empty takes the one that the stack puts out."""
    api_key: str = ""
    """Key of the test request."""
    local: bool = True
    """Test on this machine first."""
    dry_run: bool = False
    timeout: float = 300.0
    """Seconds that each test may take."""


@dataclass(frozen=True, slots=True)
class AwsDeployed:
    """How it ended."""

    action: str
    """created, updated, unchanged or planned."""
    stack: str
    url: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)


def deploy_aws(options: AwsOptions, progress: Progress, *, http: httpx.Client | None = None) -> AwsDeployed:
    """Deploy. Raises DeployError, whose message ends with what is deployed now."""
    progress.hide([*(options.parameters.get(name, "") for name in _SECRETS), options.api_key])
    return _Deployment(options, progress, http).run()


class _Deployment:
    def __init__(self, options: AwsOptions, progress: Progress, http: httpx.Client | None) -> None:
        self._options = options
        self._progress = progress
        self._http = http
        self._folder = options.folder.resolve()
        self._place = self._folder / ".router-core" / "deploy" / "aws" / options.stack
        self._app = dotted(options.app)
        self._test: Mapping[str, Any] = options.test or _NO_TEST
        self._environ = _environ(options)
        self._variables: Mapping[str, str] = {}
        """Of the functions that the test on this machine has to know, too."""

    def run(self) -> AwsDeployed:
        options, progress = self._options, self._progress
        sam = Sam.found(progress, self._environ)
        template = self._template()
        stack, before = (None, None) if options.dry_run else self._looked_up()
        parameters = self._parameters(template, before)
        self._tested_here(parameters, before)
        built = self._built(sam, template, self._architecture(parameters, before))
        if stack is None:
            self._show(sam, built, parameters)
            return AwsDeployed("planned", options.stack)
        snapshot = None if before is None else stack.snapshot(before)
        after = self._deployed(sam, built, parameters, stack, before)
        self._tested_there(stack, after, before, snapshot)
        known = before.parameters if before else {}
        command = first_key(parameters, known, after.outputs, stack.account.region)
        if command:
            progress.say(f"  note: nobody can call it before there is a key; this makes the first: {command}")
        action = (
            "created" if before is None else "unchanged" if after.changed == before.changed else "updated"
        )
        return AwsDeployed(action, options.stack, self._url(after), after.outputs)

    # -- before anything is changed ------------------------------------------------------------------

    def _template(self) -> Path:
        self._place.mkdir(parents=True, exist_ok=True)
        (self._place / ".gitignore").write_text("*\n")
        for left in self._place.glob("parameters-*"):  # of a run that was killed: there are keys in it
            left.unlink(missing_ok=True)
        template = self._options.template
        if template is None:
            return stage_template(self._place)
        if not template.is_file():
            raise NotPrepared(f"there is no template {template}")
        return template.resolve()

    def _looked_up(self) -> tuple[Stack, StackState | None]:
        options = self._options
        account = Account(options.region, options.profile)
        with self._progress.step(f"look up the stack {options.stack}") as step:
            number = account.identity()
            stack = Stack(account, options.stack)
            state = stack.state()
            status = state.status if state else "there is none yet"
            step.note(f"{status} (account {number}, {account.region})")
        self._environ["AWS_REGION"] = self._environ["AWS_DEFAULT_REGION"] = account.region
        if state is not None and state.moving:
            raise NotPrepared(f"the stack {options.stack} is {state.status}: somebody is changing it now")
        if state is not None and state.status in _BROKEN:
            raise NotPrepared(
                f"the stack {options.stack} is {state.status} and cannot be updated: "
                f"`router-core deploy aws --destroy {options.stack}` deletes it"
            )
        return stack, state

    def _parameters(self, template: Path, before: StackState | None) -> dict[str, str]:
        """Return what SAM is told, checked against the template."""
        known = parameter_names(template)
        given = dict(self._options.parameters)
        check_parameters(given, known, template)
        check_keys(given)
        if "App" in known or not known:
            given["App"] = self._app
        draw_snapshot(given, before.parameters if before else {})
        there = {**(before.parameters if before else {}), **given}
        self._variables = check_together(there, known, self._folder)
        return given

    def _tested_here(self, parameters: dict[str, str], before: StackState | None) -> None:
        options, progress = self._options, self._progress
        if not options.local:
            return
        with progress.step(f"test {self._app} on this machine") as step:
            facts = find_facts(self._app, self._folder)
            report = local_test(
                self._app, options.test, folder=self._folder, env=self._variables, timeout=options.timeout
            )
            step.note(f"{report.routes} routes; {report.test.get('path')} succeeded")
        if options.test is None:
            self._test = report.test
        fit(facts, parameters, before.parameters if before else {}, progress)

    def _architecture(self, parameters: Mapping[str, str], before: StackState | None) -> str:
        """Return what the functions will run on; code for another machine would not even be imported."""
        there = {"Architecture": "arm64", **(before.parameters if before else {}), **parameters}[
            "Architecture"
        ]
        asked = self._environ.get("ROUTER_LAMBDA_ARCH", there)
        if asked not in (there, "host"):  # the last is for emulators, which run functions on this machine
            raise NotPrepared(
                f"ROUTER_LAMBDA_ARCH is {asked}, and the functions run on {there}: "
                f"pass --param Architecture={asked}"
            )
        return asked

    def _built(self, sam: Sam, template: Path, architecture: str) -> Path:
        out, run = self._place / "build", secrets.token_hex(8)
        more = {
            "ROUTER_LAMBDA_FOLDER": str(self._folder),
            "ROUTER_LAMBDA_PYTHON": sys.executable,
            "ROUTER_LAMBDA_APP": self._app,
            "ROUTER_LAMBDA_ARCH": architecture,
            "ROUTER_LAMBDA_RUN": run,
        }
        with self._progress.step("sam build"):
            words = ["build", "--template", str(template), "--build-dir", str(out)]
            try:
                sam.run(words, self._place, more, shown=False)
            finally:
                forget_run(self._folder, run)
        with self._progress.step("sam validate --lint"):
            region = (
                self._environ.get("AWS_REGION") or "us-east-1"
            )  # what it is checked for, where none is chosen
            sam.run(["validate", "--lint", "--template", str(template), "--region", region], self._place)
        return out / "template.yaml"

    def _words(self, built: Path) -> list[str]:
        options = self._options
        bucket = ["--s3-bucket", options.bucket] if options.bucket else ["--resolve-s3"]
        return [
            "deploy", "--template-file", str(built), "--stack-name", options.stack,
            "--capabilities", "CAPABILITY_IAM", *bucket, "--no-confirm-changeset",
            "--no-fail-on-empty-changeset",
        ]  # fmt: skip

    def _show(self, sam: Sam, built: Path, parameters: Mapping[str, str]) -> None:
        """Tell what would be done next; nothing at AWS was asked or changed."""
        self._progress.say("this would be deployed with")
        self._progress.say(
            f"  {shlex.join([sam.program, *self._words(built), '--config-file', 'PARAMETERS'])}"
        )
        for name, value in parameters.items():
            self._progress.say(f"  parameter {name}={'***' if name in _SECRETS and value else value}")

    # -- the change ----------------------------------------------------------------------------------

    def _deployed(
        self, sam: Sam, built: Path, parameters: Mapping[str, str], stack: Stack, before: StackState | None
    ) -> StackState:
        with self._progress.step("sam deploy") as step:
            try:
                with parameter_file(parameters, self._place) as file:
                    sam.run([*self._words(built), "--config-file", str(file)], self._place)
            except DeployError as error:
                raise DeployError(f"{error}; {self._after_failure(stack, before)}") from error
            except KeyboardInterrupt:
                self._progress.say(
                    f"interrupted: CloudFormation may go on without us; look at the stack {stack.name}"
                )
                raise
            state = stack.settled(self._options.timeout)
            if state is None:
                raise DeployError(f"the stack {stack.name} is gone")
            step.note(state.status)
        return state

    def _after_failure(self, stack: Stack, before: StackState | None) -> str:
        """Wait for CloudFormation's own way back, and say where it led."""
        try:
            state = stack.settled(self._options.timeout)
        except DeployError as error:  # the cause is not to be lost over it
            return str(error)
        reasons = "; ".join(stack.failures()) if state is not None else ""
        told = f"{reasons}; " if reasons else ""
        if state is None or (before is not None and state.changed == before.changed):
            return f"{told}nothing was changed"
        if state.status == "UPDATE_ROLLBACK_COMPLETE":
            return f"{told}CloudFormation has gone back to what was deployed before"
        return f"{told}the stack is {state.status}"

    def _tested_there(
        self, stack: Stack, after: StackState, before: StackState | None, snapshot: Snapshot | None
    ) -> None:
        options = self._options
        url = self._url(after)
        if not url:
            self._progress.say("  note: the stack puts out no Url, so nothing was tested there")
            return
        since = time.time()
        try:
            with self._progress.step(f"test {url}") as step:
                step.note(self._asked(url))
        except BaseException as error:
            if not isinstance(error, (DeployError, KeyboardInterrupt)):
                raise
            if isinstance(error, DeployError) and not isinstance(error, Unreachable):
                for line in last_errors(stack, since):
                    self._progress.say(f"                 log: {line}")
            if before is not None and after.changed == before.changed:
                outcome = "nothing was changed by this run"
            else:
                outcome = _undone(stack, after, snapshot, self._progress, options.timeout)
            if isinstance(error, DeployError):
                error.args = (f"{error}; {outcome}",)
            else:
                self._progress.say(f"interrupted; {outcome}")
            raise

    def _asked(self, url: str) -> str:
        options = self._options
        if self._http is not None:
            return smoke_test(self._http, url, self._test, key=options.api_key, seconds=options.timeout)
        import httpx

        with httpx.Client() as http:
            return smoke_test(http, url, self._test, key=options.api_key, seconds=options.timeout)

    def _url(self, state: StackState) -> str:
        return self._options.url or next(
            (state.outputs[name] for name in _URLS if state.outputs.get(name)), ""
        )


def _undone(
    stack: Stack, after: StackState, snapshot: Snapshot | None, progress: Progress, seconds: float
) -> str:
    """Take a deployment back that does not work; returns what is there now."""
    try:
        if snapshot is None:
            with progress.step(f"delete the new stack {stack.name}"):
                stack.delete(seconds)
                stack.delete_data(after.outputs)
            return "the stack that this run has made is deleted"
        with progress.step(f"restore the stack {stack.name}"):
            stack.restore(snapshot, seconds)
    except (DeployError, KeyboardInterrupt) as error:
        return f"it could NOT be taken back ({str(error) or 'interrupted'}): the new code is deployed"
    hidden = [name for name, value in snapshot.parameters.items() if value == "****"]
    kept = f" ({', '.join(hidden)} as given now: their old values cannot be read)" if hidden else ""
    return f"what was deployed before is deployed again{kept}"


def destroy_aws(
    options: AwsOptions, progress: Progress, *, confirm: Callable[[str], bool], data: bool = False
) -> tuple[str, ...] | None:
    """Delete a stack, and its records and blobs if ``data``; returns what remains, None if not confirmed."""
    sam = Sam.found(progress, _environ(options))
    account = Account(options.region, options.profile)
    with progress.step(f"look up the stack {options.stack}") as step:
        number = account.identity()
        stack = Stack(account, options.stack)
        state = stack.state()
        step.note(f"{state.status if state else 'there is none'} (account {number}, {account.region})")
    if state is None:
        raise NotPrepared(f"there is no stack {options.stack} in {account.region}")
    kept = tuple(state.outputs[name] for name in DATA if state.outputs.get(name))
    what = (
        f"with all its records and results ({', '.join(kept)})" if data else "but not its records and results"
    )
    if options.dry_run:
        progress.say(f"this would delete the stack {options.stack} {what}")
        return kept
    if not confirm(f"Delete the stack {options.stack} in {account.region} (account {number}), {what}?"):
        return None
    with progress.step("sam delete"):
        words = ["delete", "--stack-name", options.stack, "--region", account.region, "--no-prompts"]
        try:
            sam.run(words, options.folder.resolve())
        except KeyboardInterrupt:
            progress.say(
                f"interrupted: CloudFormation may go on without us; look at the stack {options.stack}"
            )
            raise
        left = stack.settled(max(options.timeout, LIMIT))
        if left is not None:
            raise DeployError(f"the stack is {left.status}: {'; '.join(stack.failures())}")
    if data:
        with progress.step("delete records and results"):
            stack.delete_data(state.outputs)
        return ()
    return kept


def _environ(options: AwsOptions) -> dict[str, str]:
    """Return the variables that SAM gets: ours, with the chosen region and profile."""
    environ = dict(os.environ)
    if options.region:
        environ["AWS_REGION"] = environ["AWS_DEFAULT_REGION"] = options.region
    if options.profile:
        environ["AWS_PROFILE"] = options.profile
    return environ
