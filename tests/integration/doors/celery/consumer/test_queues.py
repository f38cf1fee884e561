"""Queues as they are found: declared by the bridge or a producer first, classic or quorum, plain or not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues

from bridge.cli.exit_codes import ExitCode
from tests.support.helpers import eventually
from tests.support.house import House, hang_up


def producer(house: House, **conf: object) -> Celery:
    """Another team's app, with its own ideas of queues."""
    app = Celery("producer", broker=house.broker, backend=house.backend, set_as_current=False)
    app.conf.update(task_serializer="json", accept_content=["json"], result_serializer="json", **conf)
    return app


AS_IT_IS = Queue("bridge.run", Exchange("bridge.run", type="direct"), "bridge.run", no_declare=True)

PRODUCERS: dict[str, dict[str, object]] = {
    "plain": {},
    "priorities": {"task_queue_max_priority": 10},
    "quorum": {"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"},
}


@pytest.mark.parametrize("first", ["producer", "bridge"])
@pytest.mark.parametrize("kind", list(PRODUCERS))
def test_a_queue_is_used_as_it_is_found(first: str, kind: str, amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    """Whoever declares first; the other side takes the queue as it is."""
    with House(tmp_path, broker=amqp_url, redis_url=redis_url) as house:
        app = producer(house, **PRODUCERS[kind])
        options: dict[str, object] = {"queue": "bridge.run"}
        if kind == "priorities" and first == "bridge":
            # The queue exists without priorities: such a producer names it without declaring its own form of it.
            options = {"queue": AS_IT_IS}
        if kind == "quorum":
            queue: Any = Queue("bridge.run", Exchange("bridge.run", type="direct"), "bridge.run")
            if first == "producer":
                queue.queue_arguments = {"x-queue-type": "quorum"}
            options = {"queue": queue}
        if first == "bridge":
            house.worker()
        sent = app.send_task("bridge.run", kwargs={"input": {"a": 1}}, **options)
        if first == "producer":
            house.worker()
        assert sent.get(timeout=30) == {"a": 1}
        hang_up(app)


@pytest.mark.parametrize(
    "arguments", [{"x-queue-type": "quorum"}, {"x-max-priority": 10}], ids=["quorum", "priorities"]
)
def test_a_command_sends_to_a_queue_as_it_is_found(
    arguments: dict[str, object], amqp_url: str, redis_url: str, tmp_path: Path
) -> None:
    """`bridge run`, one request or a file of them, declares nothing that is there already."""
    with House(tmp_path, broker=amqp_url, redis_url=redis_url) as house:
        with house.app.connection_for_write() as connection:
            channel = connection.channel()
            channel.queue_declare(queue="bridge.run", durable=True, auto_delete=False, arguments=arguments)
        lines = tmp_path / "inputs.jsonl"
        lines.write_text('{"a": 2}\n')
        house.worker()
        done = house.bridge("run", "--input", '{"a": 1}')
        assert (done.returncode, json.loads(done.stdout)) == (ExitCode.OK, {"a": 1}), done.stderr
        done = house.bridge("run", "--file", str(lines), "--out", str(tmp_path / "results.jsonl"))
        assert done.returncode == ExitCode.OK, done.stderr


def test_the_bridge_makes_quorum_queues_when_it_is_told_to(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    """BRIDGE_QUEUE_TYPE=quorum, and the whole road over them."""
    with House(tmp_path, broker=amqp_url, redis_url=redis_url, queue_type="quorum") as house:
        house.worker()
        with house.app.connection_for_write() as connection:
            channel = connection.channel()
            # Declaring it once more as a quorum queue is refused unless it is one.
            arguments = {"x-queue-type": "quorum"}
            channel.queue_declare(queue="bridge.run", durable=True, auto_delete=False, arguments=arguments)
        sent = house.app.send_task("bridge.run", kwargs={"input": {"a": 1}}, queue=AS_IT_IS)
        assert sent.get(timeout=30) == {"a": 1}


@pytest.mark.parametrize("slow", ["job", "task"])
def test_what_follows_goes_by_the_bridges_routes(slow: str, redis_url: str, tmp_path: Path) -> None:
    """A foreign app with a default queue of its own: the bridge's overlay names the routes, whoever ends last."""
    overlay = tmp_path / "overlay.json"
    overlay.write_text(
        '{"task_routes": {"bridge.*": {"queue": "bridge.control"}, "tests.foreign.*": {"queue": "theirs"}}}'
    )
    with House(tmp_path, broker=redis_url, redis_url=redis_url, celery_config=str(overlay)) as house:
        house.worker()
        process = house.foreign_worker("-Q", "theirs")
        assert process.running
        job = house.app.signature(
            "bridge.run", kwargs={"input": {"value": 1, "mock_delay": 1.0 if slow == "job" else 0}}
        )
        job.set(queue="bridge.run")
        make = house.app.signature("tests.foreign.make", args=[2]).set(queue="theirs")
        body = house.app.signature("tests.foreign.collect").set(queue="theirs")
        chained = job | house.app.signature("tests.foreign.tail")
        from celery import chord  # noqa: PLC0415

        assert len(chord([job, make], body).apply_async().get(timeout=20)["collected"]) == 2
        assert "tail" in chained.apply_async().get(timeout=20)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_what_follows_without_a_queue_goes_to_the_default_queue_that_is_set(
    broker: str, request: pytest.FixtureRequest, redis_url: str, tmp_path: Path
) -> None:
    """BRIDGE_DEFAULT_QUEUE for tails and errbacks that name none; on RabbitMQ the other team's is a quorum queue."""
    url = redis_url if broker == "redis" else request.getfixturevalue("amqp_url")
    with House(tmp_path, broker=url, redis_url=redis_url, default_queue="theirs") as house:
        house.environment |= {"FOREIGN_QUEUE": "theirs", "FOREIGN_QUEUE_TYPE": "quorum"}
        house.foreign_worker()
        house.worker()
        job = house.app.signature("bridge.run", kwargs={"input": {"value": 1}}, queue="bridge.run")
        chained = job | house.app.signature("tests.foreign.tail")
        assert chained.apply_async().get(timeout=20) == {"tail": {"value": 1}}
        error = house.app.signature("tests.foreign.note_error", kwargs={"key": "errback"})
        failed = house.send({"mock_error": "on purpose"}, link_error=error)
        eventually(lambda: house.client.lrange("noted:errback", 0, -1) == [failed.id])


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.slow
def test_a_queue_that_nobody_reads_is_told(
    broker: str, request: pytest.FixtureRequest, redis_url: str, tmp_path: Path
) -> None:
    """By a line in the log, by the ledger's figure for the gauge, and by `bridge check`, which names the queue."""
    url = redis_url if broker == "redis" else request.getfixturevalue("amqp_url")
    with House(tmp_path, broker=url, redis_url=redis_url) as house:
        worker = house.worker()
        job = house.app.signature("bridge.run", kwargs={"input": {"value": 1}}, queue="bridge.run")
        sent = (job | house.app.signature("tests.foreign.tail").set(queue="nobodys")).apply_async()
        eventually(lambda: house.ledger.follow_ups.unread() == {"nobodys": 1}, timeout=40)
        eventually(lambda: worker.said().count("followup.unread") == 1)
        checked = subprocess.run(
            [sys.executable, "-m", "bridge.cli", "check"],
            env=house.environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert checked.returncode == ExitCode.UNHEALTHY
        assert "nobody reads nobodys, where 1 messages" in checked.stdout
        house.foreign_worker("-Q", "nobodys")
        assert sent.get(timeout=20) == {"tail": {"value": 1}}
        eventually(lambda: not house.ledger.follow_ups.unread(), timeout=40)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_result_extended_tells_what_the_caller_asked_and_who_told_the_end(
    pool: str, redis_url: str, tmp_path: Path
) -> None:
    """Name, arguments, worker and queue are the request's, not the finish's; a secret is none of them."""
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"result_extended": true}')
    with House(tmp_path, broker=redis_url, redis_url=redis_url, celery_config=str(overlay)) as house:
        house.worker(pool=pool)
        s3 = {"accessId": "A", "accessSecret": "HIDDEN", "bucketName": "b", "endpointUrl": "u"}
        named = house.send({"a": 1}, s3Config=s3)
        positional = house.app.send_task("bridge.run", args=[{"b": 2}], kwargs={"timeout": 60}, queue="bridge.run")
        failed = house.send({"mock_error": "boom"})
        cancelled = house.send({"c": 3}, countdown=3_600)
        eventually(lambda: house.phase(cancelled.id))
        cancelled.revoke()
        asked: dict[str, Any] = {
            named.id: ([], {"input": {"a": 1}, "s3Config": "***"}),
            positional.id: ([{"b": 2}], {"timeout": 60}),
            failed.id: ([], {"input": {"mock_error": "boom"}}),
            cancelled.id: ([], {"input": {"c": 3}}),
        }
        for request_id, (args, kwargs) in asked.items():
            eventually(lambda request_id=request_id: house.phase(request_id) == "CLOSED")  # type: ignore[misc]
            text = str(house.client.get(f"celery-task-meta-{request_id}"))
            assert "HIDDEN" not in text
            stored = json.loads(text)
            assert (stored["name"], stored["queue"]) == ("bridge.run", "bridge.run")
            assert (stored["args"], stored["kwargs"]) == (args, kwargs)
            assert stored["worker"] == "bridge0@test"


def test_an_eta_that_a_producer_leaves_to_rabbitmq_is_kept(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    """Celery's native delayed delivery, for apps with quorum queues on topic exchanges; whoever starts first."""
    quorum = {
        "task_default_queue_type": "quorum",
        "task_create_missing_queue_type": "quorum",
        "task_create_missing_queue_exchange_type": "topic",
    }
    with House(tmp_path, broker=amqp_url, redis_url=redis_url) as house:
        app = producer(house, **quorum)
        first = app.send_task("bridge.run", kwargs={"input": {"a": 1}}, queue="bridge.run")
        house.worker()
        assert first.get(timeout=30) == {"a": 1}
        with app.connection_for_write() as connection:  # as the other team's workers do when they start
            declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        sent = app.send_task("bridge.run", kwargs={"input": {"a": 2}}, queue="bridge.run", countdown=2)
        assert sent.get(timeout=30) == {"a": 2}
        hang_up(app)
