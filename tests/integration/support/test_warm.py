"""A worker, engine or command that is forked from a warm parent ends as its command does, and leaves nobody behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.exit_codes import ExitCode
from tests.support import warm
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.warm import Child

pytestmark = pytest.mark.slow


@pytest.fixture
def house(redis_url: str, tmp_path: Path) -> Iterator[House]:
    """Redis alone."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as made:
        yield made


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGTERM, ExitCode.OK), (signal.SIGINT, ExitCode.STOPPED), (signal.SIGKILL, -signal.SIGKILL)],
)
@pytest.mark.parametrize("forked", [True, False])
def test_a_signal_ends_it_with_the_same_code(
    forked: bool, sent: signal.Signals, code: int, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is a process in a session of its own, by the variables of its house."""
    if not forked:
        monkeypatch.setattr("tests.support.house.forked", lambda *_: None)
    process = house.worker()
    assert isinstance(process._process, Child) == forked
    assert os.getsid(process.pid) == process.pid
    assert house.send({"a": 1}).get(timeout=30) == {"a": 1}
    os.kill(process.pid, sent)
    eventually(lambda: not process.running, timeout=60)
    assert process.stop() == code


def test_a_signal_to_one_that_has_ended_unheard_hits_nobody_and_is_no_error(house: House) -> None:
    """As with a child of one's own: its id stays its own until its end is asked for."""
    process = house.worker()
    os.kill(process.pid, signal.SIGKILL)
    state = Path(f"/proc/{process.pid}/stat")
    eventually(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z")
    os.kill(process.pid, signal.SIGTERM)
    assert process.stop() == -signal.SIGKILL
    eventually(lambda: not state.exists())


def test_it_ends_with_a_code_of_its_own(house: House) -> None:
    """As of a setting that cannot be used."""
    process = house.worker(ready=False, CELERY_BROKER_URL="foo://x")
    assert isinstance(process._process, Child)
    eventually(lambda: not process.running, timeout=60)
    assert process.stop() == ExitCode.SETTINGS
    assert "CELERY_BROKER_URL: " in process.said()


def test_what_is_read_before_the_first_import_starts_the_command(house: House) -> None:
    """So do a pool that must come first, and another interpreter."""
    threads = [("threads", {name: "1"}) for name in ("PYTHONHASHSEED", "LC_TIME", "DJANGO_SETTINGS_MODULE")]
    for pool, more in (*threads, ("gevent", {})):
        assert not isinstance(house.worker(pool=pool, ready=False, **more)._process, Child)


@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize(
    ("words", "given", "code"),
    [
        (("run", "--input", "-", "--no-wait", "--json"), '{"a": "ä"}', ExitCode.OK),
        (("run", "--input", "-"), "", ExitCode.USAGE),
        (("status", "nobody"), "", ExitCode.UNKNOWN),
        (("top",), "", ExitCode.USAGE),  # no terminal
        (("--version",), "", ExitCode.OK),
    ],
)
def test_a_command_reads_says_and_ends_as_one_that_was_started(
    words: tuple[str, ...], given: str, code: int, forked: bool, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its input, both of its outputs and its code are its own."""
    told = []

    def seen(*arguments: Any) -> Child | None:
        told.append(warm_fork(*arguments) if forked else None)
        return told[-1]

    warm_fork = warm.forked
    monkeypatch.setattr(warm, "forked", seen)
    done = house.bridge(*words, given=given)
    assert isinstance(told[0], Child) == forked
    assert done.returncode == code, done.stderr
    assert bool(done.stdout) == (code == ExitCode.OK)
    assert bool(done.stderr) == (code != ExitCode.OK)
    if "--no-wait" in words:
        (message,) = house.client.lrange("bridge.run", 0, -1)
        assert json.loads(message)["headers"]["id"] == json.loads(done.stdout)["id"]


def test_a_command_that_hangs_is_killed_at_its_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `subprocess.run`; nobody is left behind."""
    made: list[Child] = []
    fork = warm.forked

    def seen(*arguments: Any) -> Child | None:
        if child := fork(*arguments):
            made.append(child)
        return child

    monkeypatch.setattr(warm, "forked", seen)
    with pytest.raises(subprocess.TimeoutExpired):
        warm.bridge("engine", environment=house.environment, timeout=1)
    assert made[0].poll() == -signal.SIGKILL
    eventually(lambda: not Path(f"/proc/{made[0].pid}").exists())


def test_an_engine_is_forked_and_hears_its_signals(house: House) -> None:
    """SIGTERM ends it in good order."""
    engine = house.engine()
    assert isinstance(engine._process, Child)
    eventually(lambda: "ready" in engine.said(), timeout=30)
    assert engine.stop() == ExitCode.OK
