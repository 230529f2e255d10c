"""The whole service in the AWS emulator: deployed by a change set, asked through its HTTP API.

Every function runs with the credentials of its role, and the emulator judges each call by that role's
policies: what a function lacks shows as an error here, what it has too much in ``template_rules``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aws.stacks import Site, deploy, emulator, until

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the emulator writes its log, which has the lines of all functions."""
    return tmp_path_factory.mktemp("system")


@pytest.fixture(scope="module")
def site(place: Path, service_bundle: Path) -> Iterator[Site]:
    """Deploy once; the tests use jobs of their own."""
    with emulator(place) as url:
        yield deploy(
            url, service_bundle, place, FunctionUrl="buffered", FunctionUrlAuth="NONE", StateTable="create"
        )


def _submitted(site: Site, path: str, body: Any = None) -> str:
    answer = site.call("POST", path, body or {})
    assert answer.status == 202, answer.body
    job_id: str = answer.json()["job_id"]
    return job_id


def test_a_call_is_answered(site: Site) -> None:
    """Answer a call, a wrong one and one to nowhere as everywhere else."""
    assert site.call("GET", "/hello?name=Ann").json() == "Hello, Ann!"
    assert site.call("POST", "/add", {"a": 1, "b": 2}).json() == 3
    wrong = site.call("POST", "/add", {"a": "x", "b": 2})
    assert (wrong.status, wrong.json()["code"]) == (422, "validation_failed")
    assert site.call("GET", "/nowhere").status == 404


def test_the_function_url_is_another_way_in(site: Site) -> None:
    """Answer over the function URL what the HTTP API answers."""
    name = site.output("FunctionUrl").removeprefix("https://").partition(".")[0]
    answer = site.call("GET", "/hello?name=Bob", host=f"{name}.lambda-url.us-east-1.localhost")
    assert answer.json() == "Hello, Bob!"


def test_shared_state_has_its_table(site: Site) -> None:
    """Let the function that answers requests do all that a state store does, on the table of the stack."""
    answer = site.call("GET", f"/state?table={site.resources()['SharedState']}")
    assert (answer.status, answer.json()) == (200, 5), answer.body


def test_a_job_runs_to_its_end(site: Site) -> None:
    """Accept a job, run it in another function, and show result and progress."""
    answer = site.call("POST", "/double", {"n": 21})
    assert answer.status == 202
    assert answer.headers["location"].endswith(f"amazonaws.com/jobs/{answer.json()['job_id']}")
    job = site.ended(answer.json()["job_id"])
    assert (job["status"], job["result"], job["progress"], job["attempt"]) == ("succeeded", 42, 1.0, 1)


def test_a_call_can_wait_for_its_job(site: Site) -> None:
    """Answer with the result when it is there in time."""
    answer = site.call("POST", "/double?sync=true", {"n": 4})
    assert (answer.status, answer.json()) == (200, 8)


def test_a_large_result_comes_from_the_bucket(site: Site) -> None:
    """Keep what does not fit into a record in S3, and hand it out."""
    job = site.ended(_submitted(site, "/large", {"size": 600_000}))
    assert job["status"] == "succeeded"
    assert site.call("GET", f"/jobs/{job['job_id']}/result").body == b"x" * 600_000
    bucket = site.resources()["BlobBucket"]
    keys = [entry["Key"] for entry in site.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys
    assert all(key.startswith("blobs/") for key in keys)


def test_a_job_that_fails_is_tried_again(site: Site) -> None:
    """Give a job back to the queue and take it again, within the rights of the function."""
    job = site.ended(_submitted(site, "/flaky"))
    assert (job["status"], job["result"], job["attempt"]) == ("succeeded", 2, 2)


def test_a_key_names_one_job(site: Site) -> None:
    """Return the same job for the same key."""
    ids = {
        site.call("POST", "/double", {"n": 1}, **{"Idempotency-Key": "one"}).json()["job_id"]
        for _ in range(3)
    }
    assert len(ids) == 1


def test_a_job_is_cancelled_and_listed(site: Site) -> None:
    """Cancel a job that waits for its time, and list jobs."""
    job_id = site.call("POST", "/double", {"n": 1}, **{"X-Job-Delay": "600"}).json()["job_id"]
    assert site.call("POST", f"/jobs/{job_id}/cancel").status == 200
    listed = site.call("GET", "/jobs?status=cancelled").json()
    assert job_id in json.dumps(listed)


def test_the_sweeper_does_its_round(site: Site) -> None:
    """Let the schedule's event do all parts of the upkeep, with the rights that they need."""
    event = {
        "version": "0",
        "source": "aws.events",
        "detail-type": "Scheduled Event",
        "resources": [],
        "detail": {},
    }
    answer = site.client("lambda").invoke(
        FunctionName=site.resources()["SweeperFunction"], Payload=json.dumps(event).encode()
    )
    told = json.loads(answer["Payload"].read())
    assert told["complete"] is True, told
    assert all(told["done"].values())


def test_a_poison_message_ends_in_the_dead_letter_queue(site: Site) -> None:
    """Run nine jobs beside one that takes its process down each time; that one fails with the reason."""
    sqs, resources = site.client("sqs"), site.resources()
    arn = sqs.get_queue_attributes(QueueUrl=resources["DeadLetterQueue"], AttributeNames=["QueueArn"])
    redrive = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": "3"}
    # What takes an hour with the timeouts of the template. Three, so that a job which is not claimed for two
    # seconds on a busy machine is no dead letter, which is kept until the lease has ended.
    sqs.set_queue_attributes(
        QueueUrl=resources["JobQueue"],
        Attributes={"VisibilityTimeout": "1", "RedrivePolicy": json.dumps(redrive)},
    )
    ids = [_submitted(site, "/double", {"n": n}) for n in range(5)]
    poison = _submitted(site, "/poison")
    ids += [_submitted(site, "/double", {"n": n}) for n in range(5, 9)]
    assert [site.ended(job_id)["result"] for job_id in ids] == [2 * n for n in range(9)]
    job = site.ended(poison)
    assert (job["status"], job["reason"]) == ("failed", "dead_letter")
    assert "gave up" in job["error"]["message"]

    def empty() -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return all(
            set(
                sqs.get_queue_attributes(QueueUrl=resources[queue], AttributeNames=names)[
                    "Attributes"
                ].values()
            )
            == {"0"}
            for queue in ("JobQueue", "DeadLetterQueue")
        )

    until(empty)


def test_snapstart_answers_by_a_published_version(site: Site, service_bundle: Path, place: Path) -> None:
    """Lead the HTTP API and the function URL to the alias of a function that starts from snapshots."""
    more = {"FunctionUrl": "buffered", "FunctionUrlAuth": "NONE", "LogLevel": "warning"}
    snap = deploy(site.url, service_bundle, place, "snap", SnapStart="0123456789", **more)
    found = snap.resources()
    function = snap.client("lambda")
    alias = function.get_alias(FunctionName=found["SnapStartFunction"], Name="live")
    version = function.get_function_configuration(
        FunctionName=found["SnapStartFunction"], Qualifier=alias["FunctionVersion"]
    )
    assert alias["FunctionVersion"] != "$LATEST"
    assert version["SnapStart"]["ApplyOn"] == "PublishedVersions"
    name = snap.output("FunctionUrl").removeprefix("https://").partition(".")[0]
    for host in ("", f"{name}.lambda-url.us-east-1.localhost"):
        assert snap.call("GET", "/hello?name=Cid", host=host).json() == "Hello, Cid!"
    asked = snap.call("GET", "/which").json()
    assert asked == found["SnapStartFunction"]


def test_no_function_lacked_a_right(site: Site, place: Path) -> None:
    """See no refused call in the lines of any function, as some are repeated or passed over in silence."""
    log = (place / "ministack.log").read_text(errors="replace")
    assert "job_dead_letter" in log  # the lines are there
    assert [
        line for line in log.splitlines() if "AccessDenied" in line or "refuses the credentials" in line
    ] == []
