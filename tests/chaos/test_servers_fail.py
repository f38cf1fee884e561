"""Redis and RabbitMQ are killed, frozen, cut off; RunPod is away. The bridge goes on by itself, and says how it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.exit_codes import ExitCode
from tests.support.helpers import eventually
from tests.support.house import House

#: Short clocks, so that a dead server's leases and messages come back within seconds.
CLOCKS = {
    "connect_timeout_s": "1",
    "read_timeout_s": "1",
    "lease_s": "8",
    "unanswered_grace_s": "1",
    "finish_resend_s": "2",
    "finish_turn_s": "4",
}
OVERLAY = {
    "broker_transport_options": {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_mutex_expire": 1}
}


def short_house(tmp_path: Path, redis_url: str, broker: str | None = None, **settings: str) -> House:
    """A house whose workers forget quickly."""
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps(OVERLAY if broker is None else {}))
    more: dict[str, Any] = {**CLOCKS, "celery_config": str(overlay), **settings}
    return House(tmp_path, broker=broker or redis_url, redis_url=redis_url, **more)


@pytest.mark.chaos
def test_redis_killed_under_load_loses_nothing(tmp_path: Path, redis_server: Any) -> None:
    """Broker, results and ledger at once: killed, restarted from its append-only file, frozen; the worker stays up.

    Killed once all are accepted: a message that Celery's Redis transport has just popped is in nobody's hands
    (docs/operations.md).
    """
    redis_url = redis_server.start().fresh_url()
    with short_house(tmp_path, redis_url) as house:
        worker = house.worker()
        sent = [house.send({"n": n, "mock_delay": 2.0}) for n in range(30)]
        eventually(lambda: all(house.phase(one.id) is not None for one in sent))
        redis_server.restart()
        eventually(house.client.ping)
        redis_server.freeze()
        try:
            with pytest.raises(AssertionError):
                eventually(lambda: not worker.running, timeout=0.5)
        finally:
            redis_server.thaw()
        eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in sent), timeout=80, every=0.2)
        assert sorted(one.get(timeout=20)["n"] for one in sent) == list(range(30))
        marked = sum(1 for one in sent if house.events(one.id)[-1]["data"]["possible_duplicate"])
        assert house.submits() <= 30 + marked
        assert worker.stop() == 0


@pytest.mark.chaos
@pytest.mark.slow
def test_rabbitmq_killed_under_load_loses_nothing(tmp_path: Path, rabbitmq_server: Any, redis_url: str) -> None:
    """The broker is killed and comes back: messages, finishes and events go on without a restart of the worker."""
    amqp_url = rabbitmq_server.start().fresh_url()
    with House(tmp_path, broker=amqp_url, redis_url=redis_url, finish_resend_s="2") as house:
        worker = house.worker()
        sent = [house.send({"n": n, "mock_delay": 2.0}) for n in range(20)]
        eventually(lambda: house.submits() == 20, timeout=20)
        rabbitmq_server.restart()
        eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in sent), timeout=80, every=0.2)
        late = house.send({"n": 99})
        assert late.get(timeout=30)["n"] == 99
        assert sorted(one.get(timeout=20)["n"] for one in sent) == list(range(20))
        assert house.submits() == 21
        assert worker.stop() == 0


@pytest.mark.chaos
@pytest.mark.parametrize("pool", ["threads", "prefork"])
@pytest.mark.slow
def test_messages_held_longer_than_the_brokers_patience_end_no_worker(
    tmp_path: Path, rabbitmq_server: Any, redis_server: Any, pool: str
) -> None:
    """RabbitMQ closes the channel of a message that is not acked in time; the ledger is away for longer than that."""
    amqp_url, redis_url = rabbitmq_server.start().fresh_url(), redis_server.start().fresh_url()
    before = {
        name: rabbitmq_server.erl(f"application:get_env(rabbit, {name}, undefined)")
        for name in ("consumer_timeout", "channel_tick_interval")
    }
    rabbitmq_server.erl("application:set_env(rabbit, consumer_timeout, 2000)")
    rabbitmq_server.erl("application:set_env(rabbit, channel_tick_interval, 500)")
    try:
        with short_house(tmp_path, redis_url, amqp_url) as house:
            worker = house.worker(pool=pool)
            redis_server.freeze()
            try:
                sent = [house.send({"n": n}, ignore_result=True) for n in range(10)]  # a producer without results
                eventually(lambda: "delivery acknowledgement" in worker.said(), timeout=60)
            finally:
                redis_server.thaw()
            eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in sent), timeout=60, every=0.2)
            assert worker.running
            assert house.send({"n": 99}).get(timeout=30)["n"] == 99
            assert house.submits() == 11
            assert worker.stop() == 0
    finally:
        for name, value in before.items():
            rabbitmq_server.erl(
                f"application:unset_env(rabbit, {name})"
                if value == "undefined"
                else f"application:set_env(rabbit, {name}, {value})"
            )


@pytest.mark.chaos
def test_commands_say_that_rabbitmq_takes_no_messages_and_the_worker_goes_on(
    tmp_path: Path, rabbitmq_server: Any, redis_url: str
) -> None:
    """An alarm of its memory blocks whoever publishes; jobs that are under way end, and their callers are told."""
    amqp_url = rabbitmq_server.start().fresh_url()
    with short_house(tmp_path, redis_url, amqp_url) as house:
        worker = house.worker()
        sent = [house.send({"n": n, "mock_delay": 3}) for n in range(5)]
        eventually(lambda: all(house.phase(one.id) == "TRACKED" for one in sent))
        rabbitmq_server.erl("vm_memory_monitor:set_vm_memory_high_watermark(0.00001)")
        try:
            checked = house.bridge("check")
            assert "FAULT broker     CELERY_BROKER_URL: RabbitMQ takes no messages" in checked.stdout
            ran = house.bridge("run", "--input", '{"n": 5}', "--no-wait")
            assert ran.returncode == ExitCode.UNAVAILABLE
            assert "RabbitMQ takes no messages" in ran.stderr
            assert sorted(one.get(timeout=30)["n"] for one in sent) == list(range(5))
            takes_none = "not confirmed within 30 s: RabbitMQ takes none from anybody now"
            eventually(lambda: takes_none in worker.said(), timeout=60)
        finally:
            rabbitmq_server.erl('vm_memory_monitor:set_vm_memory_high_watermark({absolute, "1GiB"})')
        assert house.send({"n": 6}).get(timeout=30)["n"] == 6
        assert worker.stop() == 0
