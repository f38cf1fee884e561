"""`BRIDGE_LEDGER_FSYNC=wait` by WAIT: a server that keeps no file has a replica that must hold each write."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.embedded import EmbeddedRedis
from tests.support.helpers import eventually
from tests.support.house import House


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server without an append-only file."""
    with EmbeddedRedis(directory=tmp_path / "primary", options=("--appendonly", "no")) as server:
        yield server


@pytest.fixture
def replica(tmp_path: Path, primary: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    """Its replica, in step."""
    options = ("--replicaof", "127.0.0.1", str(primary.port))
    with EmbeddedRedis(directory=tmp_path / "replica", options=options) as server:
        yield server
        if server.running:
            os.kill(server.pid, signal.SIGCONT)


@pytest.mark.chaos_full
def test_acceptance_and_the_post_wait_for_the_replica(
    tmp_path: Path, redis_url: str, primary: EmbeddedRedis, replica: EmbeddedRedis
) -> None:
    """While the replica stands still nothing is accepted for good and no POST leaves; then both go on, each once.

    Without any replica the bridge does not start, and says why.
    """
    with House(tmp_path, broker=redis_url, redis_url=primary.url, ledger_fsync="wait", finish_resend_s="2") as house:
        eventually(lambda: house.client.info("replication")["slave0"]["state"] == "online", timeout=20)
        worker = house.worker()
        assert house.send({"n": 1}).get(timeout=20) == {"n": 1}
        house.ask("pause", endpoint="demo")
        accepted = house.send({"n": 2}, task_id="accepted")
        eventually(lambda: house.phase("accepted") == "ACCEPTED")
        os.kill(replica.pid, signal.SIGSTOP)
        house.ask("resume", endpoint="demo")
        held = house.send({"n": 3}, task_id="held")
        eventually(lambda: "door.held" in worker.said() and "WAIT" in worker.said(), timeout=20)
        assert house.submits() == 1
        os.kill(replica.pid, signal.SIGCONT)
        assert accepted.get(timeout=60) == {"n": 2}
        assert held.get(timeout=60) == {"n": 3}
        marked = sum(house.events(one)[-1]["data"]["possible_duplicate"] for one in ("accepted", "held"))
        assert house.submits() == 3
        assert marked == 0
        assert worker.stop() == 0
        replica.stop()
        eventually(lambda: house.client.info("replication")["connected_slaves"] == 0, timeout=20)
        late = house.worker(ready=False)
        eventually(lambda: not late.running, timeout=20)
        assert "needs an append-only file or a replica" in late.said()
