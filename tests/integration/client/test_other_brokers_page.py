"""docs/other-brokers.md: what it shows for SQS and NATS runs as it stands, between real servers, through a kill."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.embedded import tied
from tests.support.helpers import eventually, free_port
from tests.support.house import ROOT, House, Process
from tests.support.moto import S3Server
from tests.support.servers import RedisServer

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "other-brokers.md").read_text()
PROGRAMS = dict(re.findall(r"^```python (\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
HOW_TO_GET_NATS = "needs nats-server: Debian and Ubuntu: apt-get install nats-server; macOS: brew install nats-server"


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker for all brokers."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("brokers"), broker=url, redis_url=url) as made:
        made.worker()
        yield made


def started(house: House, name: str, **more: str) -> Process:
    """The page's program, as a reader would run it."""
    return house.start(name, sys.executable, "-c", PROGRAMS[name], **more)


def test_the_page_shows_a_program_for_each_and_nothing_else() -> None:
    """Each of them Python; what was not run says so on the page."""
    assert list(PROGRAMS) == ["sqs", "nats", "kafka"]
    assert PAGE.count("```python") == 3
    for program in PROGRAMS.values():
        ast.parse(program)
    assert "**This one was not run**" in PAGE[PAGE.index("## Kafka") :]


def test_sqs(house: House, tmp_path: Path) -> None:
    """In and out by queues; a message that is no request stays for SQS to move; a kill loses and repeats nothing."""
    import boto3  # noqa: PLC0415  (heavy)

    with S3Server(tmp_path) as moto:
        at = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{moto.port}", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        sqs = boto3.client(
            "sqs", endpoint_url=at["AWS_ENDPOINT_URL"], region_name="us-east-1", aws_access_key_id="k",
            aws_secret_access_key="s",
        )  # fmt: skip
        dead = queue(sqs, "dead")
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "4"})
        jobs, ended = queue(sqs, "jobs", RedrivePolicy=redrive, VisibilityTimeout="1"), queue(sqs, "ended")
        for n in range(20):
            sqs.send_message(QueueUrl=jobs, MessageBody=json.dumps({"id": f"sqs-{n}", "input": {"n": n}}))
        sqs.send_message(QueueUrl=jobs, MessageBody=json.dumps({"input": {"text": "x" * 300_000}, "id": "large"})[:200])
        sqs.send_message(QueueUrl=jobs, MessageBody=json.dumps({"id": "wrong", "input": {}}))
        sqs.send_message(QueueUrl=jobs, MessageBody=json.dumps({"input": {"n": "unnamed"}}))
        queues = {"JOBS_QUEUE_URL": jobs, "ENDED_QUEUE_URL": ended}
        first = started(house, "sqs", **at, **queues)
        eventually(lambda: house.ledger.load("sqs-0") is not None, timeout=30)
        first.kill()
        second = started(house, "sqs", **at, **queues)
        events: dict[str, dict[str, Any]] = {}
        eventually(lambda: len(taken(sqs, ended, events)) == 21, timeout=6)
        outputs = sorted(str(event["data"]["output"]["n"]) for event in events.values())
        assert outputs == sorted([*(str(n) for n in range(20)), "unnamed"])
        refused: list[str] = []
        eventually(lambda: len(gathered(refused, bodies(sqs, dead))) == 2, timeout=6)
        assert "input: must not be empty" in second.said()
        sqs.send_message(QueueUrl=jobs, MessageBody=json.dumps({"id": "huge", "input": {"mock_return": "x" * 300_000}}))
        progress = {"mock_progress": ["x" * 300_000], "mock_return": "x"}  # too large without its output too
        sqs.send_message(QueueUrl=jobs, MessageBody=json.dumps({"id": "wide", "input": {**progress, "mock_delay": 1}}))
        eventually(lambda: len(taken(sqs, ended, events)) == 23, timeout=10)
        house.client.delete("bridge:reply:sqs")
        house.client.set("bridge:reply:sqs", "what the half that publishes cannot read")
        eventually(lambda: not second.running, timeout=10)
        assert second.stop() != 0
    boto3.DEFAULT_SESSION = None


def queue(sqs: Any, name: str, **attributes: str) -> str:
    """A new queue's address, on loopback."""
    url = str(sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])
    assert "127.0.0.1" in url or "localhost" in url
    return url


def bodies(sqs: Any, url: str) -> list[str]:
    """What the queue has, taken off it."""
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", ())
    for message in found:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return [message["Body"] for message in found]


def gathered(found: list[str], more: list[str]) -> list[str]:
    """The list with what has come."""
    found += more
    return found


def taken(sqs: Any, url: str, events: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All events that have come, by id."""
    for body in bodies(sqs, url):
        event = json.loads(body)
        events[event["id"]] = event
    return events


@pytest.fixture
def nats_url(tmp_path: Path) -> Iterator[str]:
    """A private server with JetStream."""
    binary = shutil.which("nats-server")
    if binary is None:
        pytest.skip(HOW_TO_GET_NATS)
    port = free_port()
    command = [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path / "js")]
    with (tmp_path / "nats.log").open("wb") as log:
        server = subprocess.Popen(tied(*command), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        eventually(lambda: "Server is ready" in (tmp_path / "nats.log").read_text(), timeout=20)
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def test_nats(house: House, nats_url: str) -> None:
    """In and out by a JetStream; what is no request is refused by a subject; a kill loses and repeats nothing."""
    import nats  # noqa: PLC0415  (heavy)

    first = started(house, "nats", NATS_URL=nats_url)

    async def through() -> tuple[list[dict[str, Any]], list[bytes]]:
        async with await nats.connect(nats_url) as bus:
            stream = bus.jetstream()
            while True:  # the program makes it
                try:
                    await stream.stream_info("jobs")
                    break
                except nats.js.errors.NotFoundError:
                    await asyncio.sleep(0.05)
            for n in range(20):
                await stream.publish("jobs.submit", json.dumps({"id": f"nats-x{n}", "input": {"n": n}}).encode())
            await stream.publish("jobs.submit", b"no JSON")
            await stream.publish("jobs.submit", json.dumps({"input": {"n": "unnamed"}}).encode())
            first.kill()
            second = started(house, "nats", NATS_URL=nats_url)
            ends = await stream.pull_subscribe("jobs.ended", durable="test-ends")
            refused = await stream.pull_subscribe("jobs.refused", durable="test-refused")
            events = [json.loads(message.data) for message in await pulled(ends, 21)]
            wrong = [message.data for message in await pulled(refused, 1)]
        second.kill()
        return events, wrong

    events, wrong = asyncio.run(asyncio.wait_for(through(), 120))
    assert sorted(str(event["data"]["output"]["n"]) for event in events) == sorted([*map(str, range(20)), "unnamed"])
    assert set(wrong) == {b"no JSON"}


async def pulled(subscription: Any, count: int) -> list[Any]:
    """So many messages, acked."""
    found: list[Any] = []
    while len(found) < count:
        try:
            batch = await subscription.fetch(count - len(found), timeout=5)
        except TimeoutError:  # the package's own is one, and at times it lets asyncio's through
            continue
        for message in batch:
            await message.ack()
        found += batch
    return found
