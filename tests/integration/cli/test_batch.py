"""`bridge run --file`: killed, torn, changed and bad, and every line ends once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.exit_codes import ExitCode
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker for all."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("batch"), broker=url, redis_url=url) as made:
        made.worker()
        yield made


def command(lines: Path, out: Path, *more: str) -> list[str]:
    """As a user types it."""
    return [sys.executable, "-m", "bridge.cli", "run", "--file", str(lines), "--out", str(out), *more]


def run(house: House, lines: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """One run to its end."""
    return house.bridge("run", "--file", str(lines), "--out", str(out), *more)


def told(out: Path) -> list[dict[str, Any]]:
    """What the file of results holds."""
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_batch_that_was_killed_goes_on_and_runs_no_line_twice(house: House, tmp_path: Path) -> None:
    """Kill -9 in the middle, and a line torn by it: the second run ends it, each line once in file and RunPod."""
    lines, out = tmp_path / "killed.jsonl", tmp_path / "results.jsonl"
    lines.write_text("".join(json.dumps({"n": n, "mock_delay": 0.2}) + "\n" for n in range(300)))
    first = house.start("batch", *command(lines, out))
    eventually(lambda: len(out.read_bytes().splitlines()) > 30, timeout=60)
    first.kill()
    eventually(lambda: not first.running)
    assert len(told(out)) < 300, "the kill came too late to prove anything"
    with out.open("ab") as torn:
        torn.write(b'{"id": "killed:299", "line": 299, "status": "COMP')
    done = run(house, lines, out, "--json")
    assert done.returncode == ExitCode.OK, done.stderr[-500:]
    assert json.loads(done.stdout)["failed"] == 0
    found = told(out)
    assert sorted(one["output"]["n"] for one in found) == list(range(300))
    assert sorted(one["line"] for one in found) == list(range(1, 301))
    ran = Counter(event["subject"] for event in house.events() if event["type"].endswith(".submitted"))
    assert len(ran) == 300
    assert set(ran.values()) == {1}


def test_bad_lines_are_told_by_number_and_the_rest_goes_on(house: House, tmp_path: Path) -> None:
    """A mended one is run by the next run; one that changed after its result is an id_conflict, its result stays."""
    lines, out = tmp_path / "mixed.jsonl", tmp_path / "mixed.out"
    lines.write_text('{"n": 1}\n{"n": \n[2]\n\n{}\n{"n": 6, "mock_error": "no"}\n{"n": 7}')
    done = run(house, lines, out)
    assert done.returncode == ExitCode.FAILED
    for number, what in ((2, "is not JSON"), (3, "must be one JSON object"), (5, "must not be empty")):
        assert f"line {number}: " in done.stderr
        assert what in done.stderr
    assert "2 of 6 completed" in done.stderr
    ends = {one["line"]: one["status"] for one in told(out)}
    assert ends == {1: "COMPLETED", 2: "REJECTED", 3: "REJECTED", 5: "REJECTED", 6: "FAILED", 7: "COMPLETED"}
    lines.write_text('{"n": 100}\n{"n": 2}\n[2]\n\n{}\n{"n": 6, "mock_error": "no"}\n{"n": 7}')
    name = told(out)[0]["id"].rpartition(":")[0]
    asked = run(house, lines, out)
    assert asked.returncode == ExitCode.USAGE, "line 1 is paid for, and is another now: nobody knows what is meant"
    assert f"--name {name}" in asked.stderr
    again = run(house, lines, out, "--json", "--name", name)
    assert again.returncode == ExitCode.FAILED
    assert "line 1: id_conflict" in again.stderr
    told_batch = json.loads(again.stdout)
    assert told_batch | {"out": ""} == {"lines": 6, "failed": 4, "bad": 2, "batch": name, "out": ""}
    found = told(out)
    assert [(one["line"], one["output"]) for one in found if one["status"] == "COMPLETED"].count((1, {"n": 1})) == 1
    assert [one["output"] for one in found if one["line"] == 2 and one["status"] == "COMPLETED"] == [{"n": 2}]
    assert len(found) == 7, "nothing but the mended line was added"


def test_a_line_whose_id_runs_another_input_is_a_conflict(house: House, tmp_path: Path) -> None:
    """Also without a file of results: the ledger knows the id."""
    lines, out = tmp_path / "same.jsonl", tmp_path / "same.out"
    lines.write_text('{"n": 1}\n')
    assert run(house, lines, out, "--name", "same").returncode == ExitCode.OK
    out.unlink()
    lines.write_text('{"n": 2}\n')
    done = run(house, lines, out, "--name", "same")
    assert done.returncode == ExitCode.FAILED
    assert "line 1: id_conflict" in done.stderr
    assert [one["reason"] for one in told(out)] == ["id_conflict"]
    assert run(house, lines, tmp_path / "other.out", "--name", "same-2").returncode == ExitCode.OK


def test_another_content_under_the_same_file_name_is_another_batch(house: House, tmp_path: Path) -> None:
    """Today's inputs.jsonl and yesterday's; and the same one again is still itself, wherever it stands."""
    lines = tmp_path / "inputs.jsonl"
    lines.write_text('{"day": 1}\n{"day": "any"}\n')
    assert run(house, lines, tmp_path / "day-1.jsonl").returncode == ExitCode.OK
    lines.write_text('{"day": 2}\n{"day": "any"}\n')
    assert run(house, lines, tmp_path / "day-2.jsonl").returncode == ExitCode.OK
    (tmp_path / "day-2.jsonl").rename(tmp_path / "moved.jsonl")
    before = house.submits()
    assert run(house, lines, tmp_path / "day-2.jsonl").returncode == ExitCode.OK
    assert house.submits() == before, "it is the same batch: the ledger has its results"
    ids = {one["id"] for day in (1, 2) for one in told(tmp_path / f"day-{day}.jsonl")}
    assert len(ids) == 4
    assert told(tmp_path / "day-2.jsonl")[0]["id"].startswith("inputs-")


def test_a_mended_file_goes_on_as_long_as_all_that_was_paid_for_stands_in_it(house: House, tmp_path: Path) -> None:
    """A refused line is made right, and one is added: only these two are run."""
    lines, out = tmp_path / "mend.jsonl", tmp_path / "mend.out"
    lines.write_text('{"n": 1}\n{"n": \n{"n": 3}\n')
    assert run(house, lines, out).returncode == ExitCode.FAILED
    before = house.submits()
    lines.write_text('{"n": 1}\n{"n": 2}\n{"n": 3}\n{"n": 4}\n')
    assert run(house, lines, out).returncode == ExitCode.OK
    assert house.submits() == before + 2
    assert len({one["id"].rpartition(":")[0] for one in told(out)}) == 1


@pytest.mark.slow
def test_a_run_says_its_pace_and_the_time_that_is_left(house: House, tmp_path: Path) -> None:
    """Every few seconds, where nobody's terminal is."""
    lines, out = tmp_path / "pace.jsonl", tmp_path / "pace.out"
    lines.write_text("".join(json.dumps({"n": n, "mock_delay": 0.2 if n else 12}) + "\n" for n in range(50)))
    done = run(house, lines, out)
    assert re.search(r"49 of 50 done, 0 failed, 1 under way, \d+\.\d/s, \d+ s left", done.stderr), done.stderr


def test_a_file_that_is_no_result_file_is_left_alone(house: House, tmp_path: Path) -> None:
    """Somebody named the wrong file."""
    lines, out = tmp_path / "in.jsonl", tmp_path / "precious.txt"
    lines.write_text('{"n": 1}\n')
    out.write_text("dear diary\nsecond line\n")
    done = run(house, lines, out)
    assert done.returncode == ExitCode.USAGE
    assert out.read_text() == "dear diary\nsecond line\n"


@pytest.mark.slow
def test_a_file_goes_by_runpods_batch_api_when_it_is_asked_to(house: House, tmp_path: Path) -> None:
    """`--batch`: one result a line as ever, and nothing of it by /run."""
    lines, out = tmp_path / "lane.jsonl", tmp_path / "results.jsonl"
    lines.write_text("".join(json.dumps({"lane": n}) + "\n" for n in range(12)))
    submits = house.submits()
    done = run(house, lines, out, "--batch", "--json")
    assert done.returncode == ExitCode.OK, done.stderr[-500:]
    assert sorted(one["output"]["lane"] for one in told(out)) == list(range(12))
    assert house.submits() == submits
    totals = [batch["requestTotal"] for batch in house.emulator.batches("demo")]
    assert sum(totals) == 12
    assert max(totals) > 1
