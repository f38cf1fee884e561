"""A rolling upgrade and back: processes of two versions work on the same records of one ledger, side by side.

The older version is a commit of this repository, unpacked beside it; `BRIDGE_OLD_COMMIT` names another. The newer one
is the working tree, with its schema number raised by one: so the two are N-1 and N.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_servers_fail import CLOCKS
from tests.chaos.test_takeover import told_once
from tests.support.helpers import eventually
from tests.support.house import ROOT, House, Process

#: Has the form of records that this version must understand, and be understood by.
OLD_COMMIT = os.environ.get("BRIDGE_OLD_COMMIT", "bb86b3cbb08e06d3b7e1a7d3ef7323b4a0831391")
#: A worker of the next version: the same code, whose records only it and this one may work on.
NEWER = """
import sys, bridge, bridge.ledger.stores.engines as engines
engines.SCHEMA += {more}
bridge.__version__ = "{version}"
from celery.__main__ import main
sys.argv = ["celery", *sys.argv[1:]]
main()
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The older version's code; skips without the repository's history."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git here: the upgrade is NOT proven")
    done = subprocess.run([git, "archive", OLD_COMMIT, "bridge"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no commit {OLD_COMMIT} here ({done.stderr.decode().strip()}): the upgrade is NOT proven")
    place = tmp_path / "old"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(place, filter="data")
    return place


def options(house: House) -> list[str]:
    """Of any worker."""
    return [
        *("-A", "bridge.app", "worker", "-l", "INFO", "-P", "threads", "-c", "4"),
        *("-n", f"v{house._count}@test", "--without-gossip", "--without-mingle"),
    ]


def ready(process: Process) -> Process:
    """It takes messages."""
    eventually(lambda: "ready." in process.said() or not process.running, timeout=40)
    assert process.running, process.said()[-3000:]
    return process


def old_worker(house: House, place: Path) -> Process:
    """A worker of the older version, in its own directory, from its own files."""
    there = ("sh", "-c", 'cd "$0" && exec "$@"', str(place))
    command = [*there, sys.executable, "-m", "celery", *options(house)]
    return house.start("old", *command, PYTHONPATH=str(place))


def new_worker(house: House, *, more: int = 1, version: str = "9.9.0") -> Process:
    """A worker of a version whose schema is so much higher than ours."""
    return house.start("new", sys.executable, "-c", NEWER.format(more=more, version=version), *options(house))


def send(house: House, name: str, number: int) -> str:
    """One request of several kinds."""
    more: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"mock_delay": 2}, {}),
        ({"mock_error": 1}, {"retries": 3}),
        ({"mock_stream": ["a", "b"], "mock_aggregate": True}, {"stream": True}),
        ({"mock_error": "boom"}, {}),
    ]
    asked, how = more[number % len(more)]
    house.send({"ref": name, **asked}, task_id=name, **how)
    return name


def as_meant(house: House, ids: list[str]) -> None:
    """Each ended as its kind does, for the ledger and for Celery; each once; nothing was in doubt."""
    eventually(lambda: set(house.ledger.phases(ids)) == {"CLOSED"}, timeout=120, every=0.3)
    told_once(house, ids)
    ends = {event["subject"]: event["data"] for event in house.events() if event["data"].get("completed")}
    for number, one in enumerate(ids):
        status, state = ("FAILED", "FAILURE") if number % 4 == 3 else ("COMPLETED", "SUCCESS")
        assert (ends[one]["status"], house.app.AsyncResult(one).state) == (status, state)
    assert not any(end["possible_duplicate"] for end in ends.values())
    assert house.submits() == len(ids)


@pytest.mark.parametrize("count", [60, 1_000])
@pytest.mark.chaos_full
@pytest.mark.timeout(1800)
def test_two_versions_carry_the_same_requests_through_an_upgrade_and_back(
    count: int, tmp_path: Path, redis_url: str, old: Path
) -> None:
    """All in flight under the old one; the new one comes beside it, takes over, and gives all back to the old one."""
    settings: dict[str, Any] = {**CLOCKS, "lease_s": "15", "read_timeout_s": "5"}
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **settings) as house:
        before = ready(old_worker(house, old))
        house.emulator.fault("paused", endpoint="demo", times=None)  # RunPod workers take nothing: all stay in flight
        ids = [send(house, f"v{n}", n) for n in range(count)]
        eventually(lambda: set(house.ledger.phases(ids)) == {"TRACKED"}, timeout=120, every=0.2)
        beside = ready(new_worker(house))
        house.emulator.clear_faults()
        ids += [send(house, f"v{n}", n) for n in range(count, count + count // 2)]  # to both
        assert before.stop() == 0
        house.emulator.fault("paused", endpoint="demo", times=None)
        ids += [send(house, f"v{n}", n) for n in range(len(ids), 2 * count)]  # to the new one alone
        eventually(lambda: all(house.ledger.phases(ids)), timeout=120, every=0.2)
        back = ready(old_worker(house, old))
        assert beside.stop() == 0
        house.emulator.clear_faults()
        ids += [send(house, f"v{n}", n) for n in range(len(ids), len(ids) + count // 4)]  # to the old one alone
        as_meant(house, ids)
        assert back.stop() == 0


@pytest.mark.chaos
@pytest.mark.slow
def test_a_version_that_is_two_behind_is_refused_with_the_version_it_needs(tmp_path: Path, redis_url: str) -> None:
    """Who comes raises the ledger's number so far that the version before may stay, and no further."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        next_but_one = ready(new_worker(house, more=2, version="8.2.0"))
        assert house.client.hget(house.ledger.names.key("meta"), "schema") == "2"
        late = house.worker(ready=False)
        eventually(lambda: not late.running, timeout=30)
        assert "needs schema 2 or newer, since 8.2.0 has worked on it" in late.said()
        assert "start 8.2.0 or newer" in late.said()
        ready(new_worker(house, more=1, version="8.1.0"))
        assert house.send({"n": 1}).get(timeout=20) == {"n": 1}
        assert next_but_one.stop() == 0
