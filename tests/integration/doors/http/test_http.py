"""The HTTP door of a real worker: health, metrics, and callbacks from the emulator."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import redis

from bridge.errors import JobRejected
from tests.support.helpers import eventually, free_port
from tests.support.house import House
from tests.support.servers import RedisServer


def ask(port: int, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Code and text of one call."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_no_answer_waits_for_the_one_before_it_on_a_connection(redis_url: str, tmp_path: Path) -> None:
    """As it does, for 40 ms, on a socket that gathers what it sends."""
    port = free_port()
    with House(tmp_path, broker=redis_url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}") as house:
        house.worker()
        connection, took = http.client.HTTPConnection("127.0.0.1", port, timeout=10), []
        for _ in range(50):
            begun = time.monotonic()
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            took.append(time.monotonic() - begun)
        connection.close()
        assert min(took[1:]) < 0.02, took  # every one of them took 40


def test_a_ledger_that_refuses_to_write_is_told_as_that_and_not_as_missing_engines(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """A full disk, for one: readiness and metrics say so, and no figure that engines would have written is told."""
    port, server = free_port(), redis_server.start()
    with (
        redis.Redis(port=server.port) as client,
        House(
            tmp_path, broker=server.fresh_url(), redis_url=server.fresh_url(), http_bind=f"127.0.0.1:{port}"
        ) as house,
    ):
        house.worker()
        metrics = ask(port, "/metrics")[1]
        assert {"bridge_ledger_up 1.0", "bridge_broker_up 1.0"} <= set(metrics.splitlines())
        client.config_set("min-replicas-to-write", 1)
        try:
            eventually(lambda: "bridge_ledger_up 0.0" in ask(port, "/metrics")[1])
            metrics = ask(port, "/metrics")[1]
            assert "bridge_engines" not in metrics
            assert "bridge_ledger_memory_ratio" in metrics
            code, text = ask(port, "/readyz")
            assert code == 503
            assert "NOREPLICAS" in json.loads(text)["ledger"]
        finally:
            client.config_set("min-replicas-to-write", 0)
        eventually(lambda: "bridge_engines 1.0" in ask(port, "/metrics")[1])


@pytest.mark.slow
def test_a_scrape_is_answered_in_time_while_redis_hangs(redis_server: RedisServer, tmp_path: Path) -> None:
    """Else Prometheus would say that the process is gone; ledger and broker are told as what they are."""
    port, server = free_port(), redis_server.start()
    url = server.fresh_url()
    with House(tmp_path, broker=url, redis_url=url, http_bind=f"127.0.0.1:{port}") as house:
        house.worker()
        assert "bridge_ledger_up 1.0" in ask(port, "/metrics")[1]
        server.freeze()
        try:
            for _ in range(3):  # `ask` waits for 5 s
                said = set(ask(port, "/metrics")[1].splitlines())
                assert {"bridge_ledger_up 0.0", "bridge_broker_up 0.0"} <= said
        finally:
            server.thaw()
        eventually(lambda: "bridge_ledger_up 1.0" in ask(port, "/metrics")[1])


def test_health_and_metrics_tell_the_truth(redis_url: str, tmp_path: Path) -> None:
    """Alive, ready, counted; RunPod's trouble is degraded and still ready."""
    port = free_port()
    with House(tmp_path, broker=redis_url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}") as house:
        house.worker()
        house.send({"a": 1}).get(timeout=15)
        assert ask(port, "/healthz")[0] == 200
        code, text = ask(port, "/readyz")
        assert (code, json.loads(text)["ready"]) == (200, True)
        house.emulator.fault("out_of_credit", times=None)
        sent = house.send({"a": 2})
        eventually(lambda: json.loads(ask(port, "/readyz")[1])["degraded"])
        assert ask(port, "/readyz")[0] == 200
        metrics = ask(port, "/metrics")[1]
        assert 'bridge_accepted_total{door="celery",endpoint="demo"} 2.0' in metrics
        assert 'bridge_requests{endpoint="demo",phase="ACCEPTED"} 1.0' in metrics
        assert 'bridge_endpoint_verdict{endpoint="demo",verdict="out_of_credit"} 1.0' in metrics
        assert "bridge_engines 1.0" in metrics
        house.emulator.clear_faults()
        assert sent.get(timeout=30) == {"a": 2}  # nobody was rejected


def test_a_misspelt_endpoint_is_nobodys_trouble(redis_url: str, tmp_path: Path) -> None:
    """Its request was refused; afterwards it stands in no list of what is degraded, and has no verdict."""
    port = free_port()
    with House(tmp_path, broker=redis_url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}") as house:
        house.worker()
        house.send({"a": 1}).get(timeout=15)
        with pytest.raises(JobRejected, match="endpoint"):
            house.send({"a": 1}, endpoint="demmo").get(timeout=15)
        eventually(lambda: house.ledger.counts("demmo").get("CLOSED") == 1)
        assert [one["endpoint"] for one in house.ask("health")] == ["demo"]
        assert json.loads(ask(port, "/readyz")[1])["degraded"] == []
        metrics = ask(port, "/metrics")[1]
        assert 'bridge_endpoint_verdict{endpoint="demo"' in metrics
        assert "demmo" not in "".join(line for line in metrics.splitlines(True) if "bridge_endpoint_verdict" in line)


def test_a_gevent_pool_serves_http_and_works_on(redis_url: str, tmp_path: Path) -> None:
    """One thread for all: a server that held it would stop the bridge worker."""
    port = free_port()
    with House(tmp_path, broker=redis_url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}") as house:
        house.worker(pool="gevent")
        code, text = ask(port, "/readyz")
        assert (code, json.loads(text)["intake"]) == (200, "open")
        assert house.send({"a": 1}).get(timeout=15) == {"a": 1}


def test_a_taken_default_port_is_no_fault(redis_url: str, tmp_path: Path) -> None:
    """A second worker on a host says so and goes on; an address that was set by hand is a fault."""
    port = free_port()
    with House(tmp_path, broker=redis_url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}") as house:
        house.worker()
        second = house.worker(ready=False)
        eventually(lambda: not second.running, timeout=20)
        assert "BRIDGE_HTTP_BIND" in second.said()


def test_a_callback_brings_the_end_at_once(redis_url: str, tmp_path: Path) -> None:
    """With a public URL each submit carries an unguessable address; the end is seen without waiting for a poll."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with House(
        tmp_path, broker=redis_url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}", webhook_base_url=base
    ) as house:
        house.worker()
        sent = house.send({"mock_delay": 2.0}, result="document")
        eventually(lambda: "submitted" in house.names_of(sent.id))
        hook = house.client.hget(house.ledger.names.row(sent.id), "wh")
        assert isinstance(hook, str)
        assert len(hook) == 32
        address = next(job["webhook"] for job in house.emulator.jobs("demo"))
        assert address == f"{base}/webhooks/runpod/{sent.id}/{hook}"
        for forged in ("0" * 32, "x"):
            assert ask(port, f"/webhooks/runpod/{sent.id}/{forged}", b"{}")[0] == 200
        assert ask(port, "/webhooks/runpod/unknown/0", b"not json")[0] == 200
        assert ask(port, f"/webhooks/runpod/{sent.id}/{hook}", b"x" * (1 << 20) + b"y")[0] == 413
        told = sent.get(timeout=15)
        assert told["output"] == {"mock_delay": 2.0}
        assert hook not in json.dumps(house.events()) + json.dumps(told)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_callback_resolves_a_lost_answer(delivery: str, redis_url: str, tmp_path: Path) -> None:
    """The submit's answer was lost: the callback in the grace time is evidence, and nothing is submitted again."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with House(
        tmp_path, broker=redis_url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}", webhook_base_url=base
    ) as house:
        house.worker()
        house.emulator.fault("lost_reply", op="run", times=1)
        sent = house.send({"mock_delay": 0.5}, delivery=delivery, result="document")
        told = sent.get(timeout=25)
        assert told["status"] == "COMPLETED"
        assert told["possible_duplicate"] is False
        assert len(house.emulator.jobs("demo")) == 1
