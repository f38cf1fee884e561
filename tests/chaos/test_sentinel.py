"""Ledger, broker and results behind Sentinel: a failover loses nothing that was accepted, and needs nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.client import Client
from bridge.doors.celery.consumer.redis_transport import scripts as redis_scripts
from tests.support.helpers import eventually
from tests.support.house import House, foreign_app, hang_up
from tests.support.sentinel import Sentinels
from tests.support.servers import RedisServer

pytestmark = pytest.mark.chaos


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """A master with one replica."""
    with Sentinels(tmp_path) as made:
        yield made


def hurt(sentinels: Sentinels, how: Callable[[RedisServer], None]) -> RedisServer:
    """The master, which another has replaced when this returns."""
    old = sentinels.master()
    how(old)
    sentinels.failed_over(old)
    return old


@pytest.mark.slow
def test_a_failover_is_followed_by_ledger_broker_and_results(tmp_path: Path, sentinels: Sentinels) -> None:
    """What was accepted before it ends after it, once, as does what is sent then. Messages are taken in one step."""
    url = sentinels.url
    with House(tmp_path, broker=url, redis_url=url) as house:
        worker = house.worker()
        assert house.send({"n": 1}).get(timeout=20) == {"n": 1}
        assert house.client.script_exists(redis_scripts.TAKE_SHA) == [True]
        running = house.send({"mock_delay": 4}, task_id="running")
        eventually(lambda: house.phase("running") == "TRACKED")
        house.client.wait(1, 5_000)
        hurt(sentinels, RedisServer.kill)
        assert running.get(timeout=60) is not None
        after = foreign_app(url, url)
        sent = after.send_task("bridge.run", kwargs={"input": {"n": 2}}, queue="bridge.run")
        assert sent.get(timeout=60) == {"n": 2}
        hang_up(after)
        with Client(url) as client:
            assert client.status("running").status == "COMPLETED"
        assert house.submits() == 3
        assert house.client.script_exists(redis_scripts.TAKE_SHA) == [True]
        assert worker.stop() == 0


def replicas(house: House) -> int:
    """How many the master has now."""
    info: Any = house.client.info("replication")
    return int(info["connected_slaves"])


def all_told(house: House, sent: Iterable[str]) -> bool:
    """Whether no message waits, and everybody has been told of the end of all that the ledger holds."""
    waiting = house.client.llen("bridge.run"), house.client.zcard("bridge.unacked_index")
    return waiting == (0, 0) and all(house.phase(task_id) in {None, "CLOSED"} for task_id in sent)


class Load:
    """A producer of ten requests a second that, as producers do, sends one again that the broker did not take."""

    def __init__(self, url: str) -> None:
        """Begins at once."""
        self.sent: dict[str, float] = {}
        self._ended = threading.Event()
        self._url = url
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        app, n = foreign_app(self._url, self._url), 0
        while not self._ended.wait(0.1):
            kwargs, at = {"input": {"n": n, "mock_delay": n % 3}}, time.monotonic()
            try:
                app.send_task(
                    "bridge.run", kwargs=kwargs, queue="bridge.run", task_id=f"load-{n}", retry=False, argsrepr="()"
                )
            except Exception:  # noqa: BLE001, S112  (the broker is away, in any of its words)
                continue
            self.sent[f"load-{n}"] = at
            n += 1
        hang_up(app)

    def end(self) -> dict[str, float]:
        """When each that the broker took was sent."""
        self._ended.set()
        self._thread.join(60)
        return self.sent


@pytest.mark.chaos_full
@pytest.mark.parametrize("fsync", ["server", "wait"])
@pytest.mark.parametrize("how", [RedisServer.kill, RedisServer.freeze])
def test_failovers_under_load_lose_nothing(fsync: str, how: Callable[[RedisServer], None], tmp_path: Path) -> None:
    """Twice in a row, by a kill or a server that stands still; the hurt one comes back as a replica by itself.

    A message that the old master took and no replica has may be lost with it, and nothing else: all that the ledger
    holds ends, and was submitted once, or is marked. With `server` the same goes for a record: its job may have run,
    and whoever sends it again, because no answer came, has it run again.
    """
    with Sentinels(tmp_path, replicas=2) as sentinels:
        url = sentinels.url
        with House(tmp_path, broker=url, redis_url=url, ledger_fsync=fsync, lease_s="30", finish_resend_s="2") as house:
            worker = house.worker()
            load, windows = Load(url), []
            for _ in range(2):
                time.sleep(5)
                began = time.monotonic()
                old = hurt(sentinels, how)
                old.thaw() if old.running else old.start()
                eventually(lambda: replicas(house) == 2, timeout=60)
                windows.append((began - 1.5, time.monotonic()))
            time.sleep(3)
            sent = load.end()
            after = foreign_app(url, url)
            eventually(partial(all_told, house, sent), timeout=60)
            lost = [at for task_id, at in sent.items() if house.phase(task_id) is None]
            assert all(any(start < at < end for start, end in windows) for at in lost), (lost, windows)
            assert len(lost) < len(sent) / 10
            for task_id in sent:
                assert house.phase(task_id) is None or after.AsyncResult(task_id).get(timeout=5) is not None
            marked = sum(house.events(one)[-1]["data"]["possible_duplicate"] for one in sent if house.phase(one))
            gone = -len(lost) if fsync == "wait" else len(lost)
            assert house.submits() <= len(sent) + gone + marked
            hang_up(after)
            assert worker.stop() == 0, worker.said()[-3000:]
