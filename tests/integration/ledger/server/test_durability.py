"""What holds when the ledger's own disk fails: waiting for it, and noticing that it lost writes (HARDENING 19)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.cli.exit_codes import ExitCode
from bridge.embedded import EmbeddedRedis
from bridge.errors import JobLost
from bridge.ledger import inspect_server
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server that knows WAITAOF, whatever Redis the machine has."""
    with EmbeddedRedis(directory=tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server whose data this test takes back to an earlier state."""
    server = RedisServer(tmp_path / "redis")
    yield server.start()
    server.stop()


def test_acceptance_and_submit_wait_for_the_disk(tmp_path: Path, valkey: EmbeddedRedis, redis_url: str) -> None:
    """While the server does not sync, nothing is accepted for good, and no POST leaves; then it goes on."""
    with House(tmp_path, broker=redis_url, redis_url=valkey.url, ledger_fsync="wait") as house:
        worker = house.worker()
        assert house.send({"n": 1}).get(timeout=20) == {"n": 1}
        assert int(house.client.exists("bridge:_:fsync"))
        house.client.config_set("appendfsync", "no")
        sent = house.send({"n": 2})
        eventually(lambda: "WAITAOF" in worker.said() and "door.held" in worker.said(), timeout=20)
        assert house.submits() == 1
        house.client.config_set("appendfsync", "everysec")
        assert sent.get(timeout=40) == {"n": 2}
        assert house.submits() == 2
        assert worker.stop() == 0


def test_a_server_that_cannot_say_so_is_refused_with_the_reason(tmp_path: Path, redis_url: str) -> None:
    """Redis 7.0 has no WAITAOF; a Valkey without an append-only file has nothing to wait for."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url, ledger_fsync="wait") as house:
        assert inspect_server(house.client).release < (7, 2), "this test wants an older Redis"
        worker = house.worker(ready=False)
        eventually(lambda: not worker.running, timeout=20)
        assert "BRIDGE_LEDGER_FSYNC: wait needs WAITAOF" in worker.said()


def test_without_an_append_only_file_there_is_nothing_to_wait_for(tmp_path: Path, redis_url: str) -> None:
    """Refused as well, with what to do."""
    options = ("--appendonly", "no")
    with (
        EmbeddedRedis(directory=tmp_path / "valkey", options=options) as server,
        House(tmp_path, broker=redis_url, redis_url=server.url, ledger_fsync="wait") as house,
    ):
        worker = house.worker(ready=False)
        eventually(lambda: not worker.running, timeout=20)
        assert "needs an append-only file or a replica" in worker.said()


def test_a_ledger_that_lost_its_latest_writes_submits_nothing_twice_unmarked(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    """Yesterday's file comes back: what says "never sent" is in doubt, told, and `delivery` decides."""
    backup = tmp_path / "backup"
    url = own_redis.fresh_url()
    with House(tmp_path, broker=url, redis_url=url, unanswered_grace_s="1", finish_resend_s="2") as house:
        worker = house.worker()
        house.send({"warm": 1}).get(timeout=20)
        house.ask("pause", endpoint="demo")
        twice = house.send({"n": 1}, task_id="twice")
        once = house.send({"n": 2}, task_id="once", delivery="at_most_once")
        eventually(lambda: [house.phase(one.id) for one in (twice, once)] == ["ACCEPTED"] * 2)
        own_redis.wait_for_file()
        shutil.copytree(tmp_path / "redis" / "appendonlydir", backup)
        house.ask("resume", endpoint="demo")
        assert twice.get(timeout=20) == {"n": 1}
        assert once.get(timeout=20) == {"n": 2}
        assert house.submits() == 3
        own_redis.kill()
        shutil.rmtree(tmp_path / "redis" / "appendonlydir")
        shutil.copytree(backup, tmp_path / "redis" / "appendonlydir")
        own_redis.start()
        eventually(lambda: "ledger.rolled_back" in worker.said(), timeout=20)
        eventually(lambda: house.phase("once") == "CLOSED", timeout=20)
        assert isinstance(house.app.AsyncResult("once").result, JobLost)
        eventually(lambda: house.ask("resume", endpoint="demo"), timeout=20)
        eventually(lambda: house.phase("twice") == "CLOSED", timeout=20)
        end = house.events("twice")[-1]["data"]
        assert end["possible_duplicate"] is True
        assert house.submits() == 4
        assert house.ledger.engines.rollbacks() == 1
        late = house.send({"n": 3})
        assert late.get(timeout=20) == {"n": 3}
        assert house.events(late.id)[-1]["data"]["possible_duplicate"] is False
        assert worker.stop() == 0


def test_a_ledger_of_a_newer_version_is_refused_with_the_version_it_needs(tmp_path: Path, redis_url: str) -> None:
    """A worker that would not understand its records does not start; the records are untouched."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.client.hset("bridge:_:meta", mapping={"schema": "2", "schema_by": "9.1.0"})
        worker = house.worker(ready=False)
        eventually(lambda: not worker.running, timeout=20)
        assert "needs schema 2 or newer, since 9.1.0 has worked on it" in worker.said()
        assert "start 9.1.0 or newer" in worker.said()
        assert house.client.hget("bridge:_:meta", "schema") == "2"


def test_a_command_of_an_older_version_changes_nothing(redis_url: str, tmp_path: Path) -> None:
    """It is refused like a process, and `bridge check` says why before it says to start a worker."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.client.hset("bridge:_:meta", mapping={"schema": "2", "schema_by": "9.1.0"})
        before = house.client.keys("bridge:*")
        verbs = (["cancel", "x"], ["retry", "x"], ["pause", "demo"], ["resume", "demo"], ["purge", "demo", "--yes"])
        for words in (*verbs, ["dead", "replay", "1-1"], ["dead", "drop", "1-1"]):
            done = house.bridge(*words)
            assert done.returncode == ExitCode.SETTINGS, (words, done.stderr)
            assert "needs schema 2 or newer, since 9.1.0 has worked on it" in done.stderr
        assert sorted(house.client.keys("bridge:*")) == sorted(before)
        checked = " ".join(house.bridge("check").stdout.split())
        assert "FAULT ledger the ledger bridge:_: needs schema 2 or newer" in checked
