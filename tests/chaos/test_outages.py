"""Servers stand still for half a minute, are cut off, or hang; the bridge says how it is, goes on, and loses nothing.

The long forms run under the clocks that a bridge has by default.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from tests.chaos.test_cuts import code, runpod_behind_a_proxy
from tests.chaos.test_servers_fail import short_house
from tests.chaos.test_takeover import told_once
from tests.chaos.walk import Observation
from tests.support.helpers import eventually, free_port
from tests.support.house import House, Process, foreign_app, hang_up
from tests.support.proxy import FaultProxy
from tests.support.servers import RabbitServer, RedisServer

FROZEN_S = 30.0
#: Leases (60 s), the grace of a lost answer (30 s), and what comes after.
PATIENCE_S = 200.0


class Sender:
    """A producer that sends a request every so often, whatever becomes of the broker meanwhile."""

    def __init__(self, house: House, prefix: str, every_s: float) -> None:
        self.ids: list[str] = []
        self._house, self._prefix, self._every_s = house, prefix, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        app = foreign_app(self._house.broker, self._house.backend)
        while not self._over.wait(self._every_s):
            name = f"{self._prefix}{len(self.ids)}"
            kwargs = {"input": {"ref": name, "mock_delay": 2.0}}
            app.send_task("bridge.run", kwargs=kwargs, queue="bridge.run", task_id=name)
            self.ids.append(name)
        hang_up(app)

    def goes_on(self, count: int, timeout: float) -> None:
        """More than so many have been sent since now."""
        before = len(self.ids)
        eventually(lambda: len(self.ids) > before + count, timeout=timeout)

    def stop(self) -> list[str]:
        """Their ids."""
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.ids


class Listener:
    """A service on `bridge.events` that drops what it has heard."""

    def __init__(self, url: str) -> None:
        self._heard = Observation(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._heard._stop.set()
        self._heard._thread.join(5)
        self._heard._connection.release()

    def heard_all(self, house: House) -> None:
        """Every event of the stream has come, each sequence above the last by one."""
        wanted: dict[str, int] = {}
        for event in house.events():
            wanted[event["subject"]] = wanted.get(event["subject"], 0) + 1
        heard = self._heard
        eventually(lambda: {name: heard._last[name] for name in wanted} == wanted, timeout=60, every=0.2)
        assert heard.gaps == []


def told(house: House, ids: list[str], worker: Process, patience_s: float = PATIENCE_S, *, others: int = 0) -> None:
    """Each has ended once, with its own output for Celery; the worker was never replaced. `others` ended before."""
    eventually(lambda: all(phase == "CLOSED" for phase in house.ledger.phases(ids)), timeout=patience_s, every=0.5)
    told_once(house, ids, others=others)
    for one in ids:
        result = house.app.AsyncResult(one)
        assert (result.state, result.get(timeout=5)["ref"]) == ("SUCCESS", one)
    assert worker.running


def sick(port: int, seconds: float, healthy: Callable[[], bool] = lambda: True) -> None:
    """For so long: alive all the time, and unready before half of it is over."""
    ends = time.monotonic() + seconds
    eventually(lambda: code(port, "/readyz") == 503, timeout=seconds / 2)
    while time.monotonic() < ends:
        assert code(port, "/healthz") == 200
        assert healthy()
        time.sleep(0.5)
    assert code(port, "/readyz") == 503


@pytest.mark.chaos_full
@pytest.mark.timeout(1800)
def test_redis_frozen_for_half_a_minute_under_load_loses_nothing(tmp_path: Path, redis_server: RedisServer) -> None:
    """Broker, results and ledger stand still under the default clocks; a producer goes on sending."""
    url = redis_server.start().fresh_url()
    port = free_port()
    with (
        House(tmp_path, broker=url, redis_url=url, http_bind=f"127.0.0.1:{port}") as house,
        Sender(house, "z", 0.1) as sender,
    ):
        worker = house.worker()
        eventually(lambda: house.submits() > 40, timeout=30)
        redis_server.freeze()
        try:
            sick(port, FROZEN_S)
        finally:
            redis_server.thaw()
        eventually(lambda: code(port, "/readyz") == 200, timeout=30)
        sender.goes_on(40, timeout=30)
        told(house, sender.stop(), worker)
        assert worker.stop() == 0


@pytest.mark.chaos_full
@pytest.mark.timeout(1800)
def test_rabbitmq_frozen_for_half_a_minute_under_load_loses_nothing(
    tmp_path: Path, rabbitmq_server: RabbitServer, redis_url: str
) -> None:
    """The same with RabbitMQ alone: ends are told to Celery meanwhile, and events follow, each once and in order."""
    url = rabbitmq_server.start().fresh_url()
    port = free_port()
    with (
        House(tmp_path, broker=url, redis_url=redis_url, http_bind=f"127.0.0.1:{port}") as house,
        Sender(house, "y", 0.1) as sender,
        Listener(url) as listener,
    ):
        worker = house.worker()
        eventually(lambda: house.submits() > 40, timeout=30)
        rabbitmq_server.freeze()
        try:
            under_way = [f"y{n}" for n in range(30)]
            sick(port, FROZEN_S)
            assert set(house.ledger.phases(under_way)) == {"CLOSED"}
            assert {house.app.AsyncResult(one).state for one in under_way} == {"SUCCESS"}
        finally:
            rabbitmq_server.thaw()
        eventually(lambda: code(port, "/readyz") == 200, timeout=60)
        sender.goes_on(40, timeout=60)
        ids = sender.stop()
        told(house, ids, worker)
        listener.heard_all(house)
        assert worker.stop() == 0


def goes_on(house: House) -> None:
    """Requests come in and leave."""
    before = house.submits()
    eventually(lambda: house.submits() > before + 5, timeout=30)


@pytest.mark.chaos_full
@pytest.mark.timeout(1800)
def test_rabbitmq_cut_refused_and_hung_loses_nothing_and_is_told(
    tmp_path: Path, rabbitmq_server: RabbitServer, redis_url: str
) -> None:
    """Connections break again and again, then nobody listens, then nothing answers: one worker lives on."""
    url = rabbitmq_server.start().fresh_url()
    port = free_port()
    with FaultProxy("127.0.0.1", rabbitmq_server.port) as proxy:
        behind = url.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/")
        with (
            short_house(tmp_path, redis_url, url, http_bind=f"127.0.0.1:{port}") as house,
            Sender(house, "x", 0.05) as sender,
            Listener(url) as listener,
        ):
            worker = house.worker(CELERY_BROKER_URL=behind)
            eventually(lambda: house.submits() > 20, timeout=30)
            for _ in range(5):
                proxy.cut()
                goes_on(house)
            proxy.refuse()
            sick(port, 20)
            proxy.restore()
            eventually(lambda: code(port, "/readyz") == 200, timeout=30)
            proxy.hang()
            sick(port, 30)
            proxy.restore()
            eventually(lambda: code(port, "/readyz") == 200, timeout=30)
            sender.goes_on(10, timeout=30)
            told(house, sender.stop(), worker, 100)
            listener.heard_all(house)
            assert worker.stop() == 0


@pytest.mark.chaos_full
def test_runpod_down_for_ten_minutes_ends_nothing_wrongly(tmp_path: Path, redis_url: str) -> None:
    """Refused, while its own clock goes on: what ended is fetched, what waits goes, what was to be cancelled is."""
    port = free_port()
    with (
        short_house(tmp_path, redis_url, http_bind=f"127.0.0.1:{port}") as house,
        runpod_behind_a_proxy(house) as (proxy, worker),
    ):
        ids = [f"d{n}" for n in range(20)]
        for one in ids:
            house.send({"ref": one, "mock_delay": 300}, task_id=one)
        house.send({"ref": "long", "mock_delay": 3000}, task_id="long", policy={"executionTimeout": 3_600_000})
        eventually(lambda: set(house.ledger.phases([*ids, "long"])) == {"TRACKED"}, timeout=20)
        proxy.refuse()
        waiting = [f"w{n}" for n in range(10)]
        for one in waiting:
            house.send({"ref": one}, task_id=one)
        assert house.ask("cancel", id="long")["outcome"] == "requested"
        eventually(lambda: house.ask("status", id="w0")["waiting_for"] == "unreachable", timeout=20)
        house.emulator.advance(600)
        assert (code(port, "/readyz"), code(port, "/healthz")) == (200, 200)
        assert set(house.ledger.phases([*ids, "long"])) == {"TRACKED"}
        assert set(house.ledger.phases(waiting)) <= {"ACCEPTED", "SUBMITTING"}
        proxy.restore()
        eventually(lambda: house.phase("long") == "CLOSED", timeout=60)
        assert house.events("long")[-1]["data"]["status"] == "CANCELLED"
        told(house, [*ids, *waiting], worker, 60, others=1)
        assert house.submits() == len(ids) + len(waiting) + 1  # nothing was in doubt: nothing had left
        assert worker.stop() == 0


@pytest.mark.parametrize(
    ("seconds", "requests"),
    [pytest.param(10, 30, marks=pytest.mark.chaos), pytest.param(130, 200, marks=pytest.mark.chaos_full)],
    ids=["sample", "full"],
)
@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_runpod_that_hangs_uses_up_no_requests_submits(
    seconds: float, requests: int, tmp_path: Path, redis_url: str
) -> None:
    """It takes connections and answers nothing: who waits keeps waiting, whatever was in doubt goes once more, marked.

    Submits of a request are few. Without a sign of life from the endpoint none leaves.
    """
    made = (short_house if requests < 100 else House)(tmp_path, broker=redis_url, redis_url=redis_url)
    made.environment["BRIDGE_SUBMIT_THREADS"] = "16"
    with made as house, runpod_behind_a_proxy(house) as (proxy, worker):
        running = [f"r{n}" for n in range(10)]
        for one in running:
            house.send({"ref": one, "mock_delay": 2.0}, task_id=one)
        eventually(lambda: set(house.ledger.phases(running)) == {"TRACKED"}, timeout=20)
        proxy.hang()
        ids = [f"h{n}" for n in range(requests)]
        for one in ids:
            house.send({"ref": one}, task_id=one)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            assert not {"SETTLED", "CLOSED"} & set(house.ledger.phases([*running, *ids]))
            time.sleep(0.5)
        proxy.restore()
        told(house, [*running, *ids], worker)
        marked = [one for one in ids if house.events(one)[-1]["data"]["possible_duplicate"]]
        assert 0 < len(marked) <= 16  # what was under way when it began, and no more
        assert worker.stop() == 0
