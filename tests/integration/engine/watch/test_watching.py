"""Watching jobs as callers see it: progress, streams in a terminal, and polls beside long holds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.job.document import Held
from bridge.job.enums import Phase, Step
from bridge.job.observation import Observation
from bridge.job.record import Long, Record
from bridge.ledger import Ledger
from tests.support.helpers import COMMAND_S, eventually
from tests.support.house import ROOT, House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker with few threads for streams."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("watching"), broker=url, redis_url=url, stream_threads="4") as made:
        made.worker()
        yield made


def command(house: House, *args: str) -> subprocess.Popen[str]:
    """A `bridge` command in the house's environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "bridge.cli", *args],
        cwd=ROOT, env=house.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_progress_is_an_event_and_celerys_info(house: House) -> None:
    """RunPod's output while IN_PROGRESS, in order, and the end after the last of it."""
    sent = house.send({"mock_progress": ["10 %", "50 %", "90 %"], "mock_delay": 4.0, "mock_return": "done"})
    seen = eventually(lambda: isinstance(sent.info, dict) and sent.info.get("progress"), timeout=20)
    assert sent.state == "IN_PROGRESS"
    assert seen in {"10 %", "50 %", "90 %"}
    assert sent.get(timeout=30) == "done"
    told = [event["data"]["progress"] for event in house.events(sent.id) if event["type"] == "bridge.job.progress"]
    assert told == ["10 %", "50 %", "90 %"]
    assert house.names_of(sent.id)[-1] == "completed"


def test_long_holds_never_starve_status_polls(house: House) -> None:
    """More streams than threads, all of them held by RunPod; a short job's end is seen as soon as ever."""
    silent = [house.send({"mock_delay": 600, "n": n}, stream=True, ignore_result=True) for n in range(20)]
    eventually(lambda: all("started" in house.names_of(sent.id) for sent in silent), timeout=30)
    began = time.monotonic()
    assert house.send({"mock_delay": 1.0, "short": True}).get(timeout=20)["short"]
    assert time.monotonic() - began < 120  # of the ten minutes that the others are silent
    for sent in silent:
        house.ask("cancel", id=sent.id)


def test_a_terminal_follows_a_stream_as_it_comes_and_late(house: House) -> None:
    """`bridge run --stream` prints each chunk once, in order; `bridge watch` tells them again, from what is kept."""
    given = json.dumps({"mock_stream": ["Once ", "upon ", "a ", "time"], "mock_delay": 0.4})
    running = command(house, "run", "--input", given, "--stream", "--id", "tale")
    out, err = running.communicate(timeout=COMMAND_S)
    assert running.returncode == 0, err
    assert out.startswith("Once upon a time")
    assert [line.split()[1] for line in err.splitlines()][-1] == "completed"
    house.client.delete(house.ledger.names.events)  # long ago: the events are trimmed, the chunks are kept
    late = command(house, "watch", "tale")
    assert late.communicate(timeout=COMMAND_S)[0].startswith("Once upon a time")


def test_every_status_read_has_a_permit_also_of_a_second_job(redis_url: str, tmp_path: Path) -> None:
    """I9: the submit's answer was lost, both jobs live and both are looked at; the budget has counted each call."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url, unanswered_grace_s="0.5") as house:
        house.worker()
        house.emulator.fault("lost_reply", op="run", times=1)
        sent = house.send({"mock_delay": 3.0}, result="document")
        assert eventually(lambda: len(house.emulator.jobs("demo")) == 2, timeout=30)
        told = sent.get(timeout=30)
        assert told["possible_duplicate"] is True
        key = f"{house.ledger.names.prefix}budget:demo:status"

        def counted() -> bool:
            found: Any = house.client.hgetall(key)
            permits = sum(int(count) for name, count in found.items() if name.startswith("b:"))
            return bool(permits == sum(call["op"] == "status" for call in house.emulator.calls()))

        eventually(counted, timeout=8)


# A webhook and a poll at once


def test_observations_that_race_are_written_once(ledger: Ledger) -> None:
    """Ten readers made their change from the same record: one end, one event; what is late changes nothing (I4)."""
    record = Record(id="r", endpoint="demo", endpoint_id="demo", door="celery", sinks="celery", nonce="n")
    new = Held(record, {Long.INPUT: '{"a":1}', Long.CANVAS: "{}"})
    accepted = ledger.accept("r", lambda now, wish: ledger.table.accept(new, now, wish))
    assert accepted.held is not None
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    table = ledger.table
    sent = ledger.change(
        claimed.records[0], lambda h, now: table.sending(h, now, claimed.token, endpoint_id="demo", base_url="http://x")
    )
    held = ledger.change(sent.after, lambda h, now: table.submitted(h, now, "j1", "IN_QUEUE", poll_ms=0)).after
    news = Observation("j1", "COMPLETED", 1, output='{"x":1}')
    late = replace(news, status="IN_PROGRESS", output='{"step":9}')

    def tell(n: int) -> str:
        heard = late if n % 5 == 4 else news
        return ledger.change(held, lambda fresh, now: table.observed(fresh, now, heard, poll_ms=0)).verdict

    with ThreadPoolExecutor(10) as threads:
        verdicts = list(threads.map(tell, range(50)))
    entries: Any = ledger.client.xrange(ledger.names.events)
    names = [json.loads(fields["data"])["type"].rpartition(".")[2] for _, fields in entries]
    assert verdicts.count("settled") == 1
    assert names.count("completed") == 1
    assert names[-1] == "completed"
    ended = ledger.load("r")
    assert ended is not None
    assert ended.record.phase is Phase.SETTLED


def seen_last(ledger: Ledger, name: str, ago_s: int) -> None:
    """A job that was looked at so long ago: the engines have stood still since."""
    table, then = ledger.table, ledger.now() - ago_s * 1000
    new = Held(Record(id=name, endpoint="demo", endpoint_id="demo", sinks="celery", nonce="n"), {})
    ledger.accept(name, lambda now, wish: table.accept(new, now, wish))
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    sent = ledger.change(
        claimed.records[0], lambda h, now: table.sending(h, now, claimed.token, endpoint_id="demo", base_url="http://x")
    )
    ledger.change(sent.after, lambda h, _now: table.submitted(h, then, f"job-{name}", "IN_QUEUE", poll_ms=0))


def test_the_oldest_result_is_rescued_first(ledger: Ledger) -> None:
    """I10: what RunPod will forget soonest is read first, whatever else is due."""
    for name, ago_s in (("b", 1_300), ("c", 1_700), ("a", 1_250), ("fresh", 10)):
        seen_last(ledger, name, ago_s)
    for held in reversed(ledger.timers()[0]):  # in whatever order their clocks are answered
        ledger.change(held, ledger.table.tick)
    rescued = ledger.claim(Step.RESCUE, {"demo": 9}, lease_ms=1_000)
    assert [held.record.id for held in rescued.records] == ["c", "b", "a"]
