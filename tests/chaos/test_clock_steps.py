"""The clocks of Redis and of a bridge worker step by an hour, both ways, while work is under way; nothing fires (I17).

The step is a real one, for the process: a few lines of C (`stepped_clock.c`) stand between it and the wall clock.
Steady clocks go on, as they do when an administrator or ntp sets the time.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.test_takeover import told_once
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer

HOUR_S = 3_600


class Clock:
    """What one process believes of the time: the real one, and so many seconds."""

    def __init__(self, library: Path, place: Path) -> None:
        self._place = place
        place.write_bytes(struct.pack("l", 0))
        self.environment = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(place)}

    def set(self, seconds: int) -> None:
        """At once."""
        with self._place.open("r+b") as file:
            file.write(struct.pack("l", seconds))


@pytest.fixture
def stepper(tmp_path: Path) -> Path:
    """The library; skips where it cannot be made."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler here, or no Linux: real steps of clocks are NOT proven")
    made = tmp_path / "stepped_clock.so"
    source = Path(__file__).with_name("stepped_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.fixture
def servers_clock(stepper: Path, tmp_path: Path) -> Clock:
    """Of the Redis server."""
    return Clock(stepper, tmp_path / "server.time")


@pytest.fixture
def server(servers_clock: Clock, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that lives by that clock."""
    real = shutil.which("redis-server") or shutil.which("valkey-server")
    if real is None:
        pytest.skip("no redis-server here that can be given another clock")
    words = " ".join(f"{name}={value}" for name, value in servers_clock.environment.items())
    script = tmp_path / "redis-server"
    script.write_text(f'#!/bin/sh\n{words} exec {real} "$@"\n')
    script.chmod(0o700)
    made = RedisServer(tmp_path / "redis")
    made._binary = script
    yield made.start()
    made.stop()


def redis_time(house: House) -> float:
    """What the server says."""
    seconds, _ = house.client.time()
    return float(seconds)


def reach(house: House, ids: list[str], phase: str) -> None:
    """All of them are there, within what a request takes: no look at a job was put off by the step."""
    eventually(lambda: set(house.ledger.phases(ids)) == {phase}, timeout=15)


@pytest.mark.chaos_full
@pytest.mark.timeout(1800)
def test_an_hours_step_of_any_clock_fires_nothing_and_stops_nothing(
    tmp_path: Path, stepper: Path, server: RedisServer, servers_clock: Clock
) -> None:
    """Redis' clock, the worker's, both; forth and back: no lease ends, no deadline passes, no job is lost.

    At each step jobs run, POSTs wait for their answers, and a deadline is a minute away.
    """
    workers_clock = Clock(stepper, tmp_path / "worker.time")
    url = server.fresh_url()
    with House(tmp_path, broker=url, redis_url=url) as house:
        worker = house.worker(**workers_clock.environment)  # type: ignore[arg-type]
        assert house.send({"ref": "warm"}, task_id="warm").get(timeout=30) == {"ref": "warm"}
        ids = ["warm"]
        steps = [
            (workers, servers)
            for step in (HOUR_S, -HOUR_S)
            for workers, servers in ((0, step), (0, 0), (step, 0), (0, 0), (step, step), (0, 0))
        ]
        for number, (workers, servers) in enumerate(steps):
            before = redis_time(house)
            running = [f"s{number}-{n}" for n in range(8)]
            for one in running:
                house.send({"ref": one, "mock_delay": 4}, task_id=one, timeout=60_000)
            reach(house, running, "TRACKED")
            slow = [f"s{number}-slow{n}" for n in range(4)]
            house.emulator.fault("hang", op="run", seconds=3, times=len(slow))
            for one in slow:
                house.send({"ref": one}, task_id=one)
            reach(house, slow, "SUBMITTING")
            workers_clock.set(workers)
            servers_clock.set(servers)
            ids += [*running, *slow]
            reach(house, ids, "CLOSED")
            if number % 6 == 0:
                assert abs(redis_time(house) - before) > HOUR_S / 2  # it was a real one
        ends = [house.events(one)[-1]["data"] for one in ids]
        assert {(end["status"], end["possible_duplicate"]) for end in ends} == {("COMPLETED", False)}
        told_once(house, ids)
        assert house.submits() == len(ids)
        assert worker.stop() == 0
