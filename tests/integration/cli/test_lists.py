"""`bridge jobs` and `bridge top`, as a user runs them beside a real worker; and what a terminal makes of the others."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.cli.exit_codes import ExitCode
from bridge.cli.terminal.times import moment_ms, span
from bridge.cli.top import sparkline
from bridge.doors.http.api.tokens import Tokens
from tests.support.helpers import COMMAND_S, eventually
from tests.support.house import ROOT, House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker, and three requests that have ended, one of them badly."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("lists"), broker=url, redis_url=url) as made:
        made.worker()
        made.send({"a": 1}, task_id="order-1", metadata={"tenant": "acme"})
        made.send({"a": 2}, task_id="order-2")
        made.send({"mock_error": "no"}, task_id="broken-1")
        eventually(lambda: made.ledger.phases(["order-1", "order-2", "broken-1"]) == ["CLOSED"] * 3)
        yield made


def on_terminal(house: House, *words: str, keys: str = "", wait_for: str = "", columns: int = 80) -> str:
    """What a terminal of so many columns is sent; `keys` are pressed once `wait_for` was seen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**house.environment, "TERM": "xterm-256color"}
    env.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-m", "bridge.cli", *words], cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        seen, ends = b"", time.monotonic() + COMMAND_S
        while time.monotonic() < ends:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    part = os.read(ours, 65_536)
                except OSError:  # the other side has closed
                    break
                seen += part
                if keys and wait_for.encode() in seen:
                    os.write(ours, keys.encode())
                    keys = ""
            elif process.poll() is not None:
                break
        assert process.wait(COMMAND_S) == ExitCode.OK, seen
    os.close(ours)
    return seen.decode()


def listed(house: House, *words: str) -> list[str]:
    """Ids."""
    done = house.bridge("jobs", "--json", *words)
    assert done.returncode == ExitCode.OK, done.stderr
    return [one["id"] for one in json.loads(done.stdout)["requests"]]


def test_jobs_lists_the_newest_first_and_filters(house: House) -> None:
    """By id, status, tenant, phase, endpoint and time."""
    assert sorted(listed(house)) == ["broken-1", "order-1", "order-2"]
    assert sorted(listed(house, "order", "--since", "1h")) == ["order-1", "order-2"]
    assert listed(house, "--status", "failed", "--reason", "handler_error", "--endpoint", "demo") == ["broken-1"]
    assert listed(house, "--tenant", "acme", "--phase", "ended") == ["order-1"]
    assert listed(house, "--phase", "in-flight") == []
    job = house.ledger.load("order-2")
    assert job is not None
    assert listed(house, job.record.job_id) == ["order-2"]
    wrong = house.bridge("jobs", "--since", "yesterday")
    assert (wrong.returncode, "15m" in wrong.stderr) == (ExitCode.USAGE, True)


def test_jobs_in_a_pipe_has_whole_ids_and_no_colour_and_goes_on_where_it_stopped(house: House) -> None:
    """One line a request under a head; on a terminal there is colour, and no line is longer than it is wide."""
    done = house.bridge("jobs", "--count", "2")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert "\x1b" not in done.stdout
    after = done.stderr.split("--after ")[1].strip()
    rest = house.bridge("jobs", "--after", after)
    assert sorted(line.split()[1] for line in [*lines[1:], *rest.stdout.splitlines()[1:]]) == [
        "broken-1",
        "order-1",
        "order-2",
    ]
    shown = on_terminal(house, "jobs")
    assert "\x1b[31mFAILED" in shown


def test_top_shows_each_endpoint_and_ends_with_q(house: House) -> None:
    """Live on a terminal, once in a pipe, whole as JSON."""
    told = json.loads(house.bridge("top", "--json").stdout)
    assert told["engines"] == 1
    assert [one["endpoint"] for one in told["endpoints"]] == ["demo"]
    assert told["lately"] == {"COMPLETED": 2, "FAILED": 1}
    once = house.bridge("top", "--once").stdout
    assert "demo" in once
    assert "\x1b" not in once
    assert "ENDPOINT" in on_terminal(house, "top", keys="q", wait_for="demo")
    assert house.bridge("top").returncode == ExitCode.USAGE  # no terminal: it would never end


def test_a_worker_with_gevent_where_it_is_not_installed_says_what_to_install(house: House, tmp_path: Path) -> None:
    """One line, and no traceback."""
    (tmp_path / "gevent.py").write_text("raise ModuleNotFoundError('gevent')\n")
    done = subprocess.run(
        [sys.executable, "-m", "bridge.cli", "worker", "-P", "gevent"],
        cwd=ROOT, env={**house.environment, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True, text=True, timeout=COMMAND_S, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.USAGE
    assert "gevent is not installed: pip install gevent" in done.stderr
    assert "Traceback" not in done.stderr


def test_top_counts_all_that_ended_in_the_last_minute(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also on an endpoint whose first requests these were."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("minute"), broker=url, redis_url=url) as own:
        own.worker()
        jobs = [own.send({"n": n}) for n in range(6)]
        eventually(lambda: own.ledger.phases([job.id for job in jobs]) == ["CLOSED"] * 6)
        [row] = json.loads(own.bridge("top", "--json").stdout)["endpoints"]
        assert row["ended_per_min"] == 6


def test_check_breaks_no_word_on_a_terminal_and_prints_no_python(house: House) -> None:
    """A finding that is longer than a line goes on under its own beginning."""
    shown = on_terminal(house, "check")
    assert "{'" not in shown
    plain = [line for line in shown.replace("\r", "").split("\n") if "append-only" in line]
    assert all(len(line) <= 80 + 20 for line in plain)  # colour has a length too
    assert "answers; " in shown


def test_an_empty_list_of_dead_letters_says_so(house: House) -> None:
    """Silence could be a fault."""
    assert "none" in house.bridge("dead", "list").stdout
    assert "none with the reason malformed" in house.bridge("dead", "list", "--reason", "malformed").stdout


def test_a_filter_that_nobody_knows_is_told_beside_the_empty_list(house: House) -> None:
    """A misspelt word does not look like a quiet system."""
    done = house.bridge("jobs", "--status", "nope", "--endpoint", "ghost")
    assert (done.returncode, done.stdout) == (ExitCode.OK, "")
    assert "'NOPE' is no status that is known here: IN_QUEUE, " in done.stderr
    assert "'ghost' is no endpoint that is known here: demo" in done.stderr
    assert house.bridge("jobs", "--status", "lost").stderr.strip() == "none"


def test_a_dead_letter_that_is_not_there_is_told_from_a_request(house: House) -> None:
    """An id of nothing is unknown (8) to each verb, and a request is named as one."""
    done = house.bridge("dead", "drop", "nothing", "order-1", "1-1")
    assert (done.returncode, done.stdout) == (ExitCode.UNKNOWN, "0 dropped\n")
    for said in ("nothing is no dead letter", "order-1 is a request: `bridge cancel order-1`", "1 not there"):
        assert said in done.stderr
    for verb in ("show", "replay"):
        assert house.bridge("dead", verb, "nothing").returncode == ExitCode.UNKNOWN


def test_a_token_has_a_name_that_its_file_can_hold(house: House) -> None:
    """A dot is no table within a table; a space is refused in words of the command."""
    made = house.bridge("token", "web.eu", "--tenant", "acme")
    assert Tokens.parse(made.stdout) == ["web.eu"]
    for words in (("a b", "--tenant", "acme"), ("web", "--tenant", 'a"b')):
        refused = house.bridge("token", *words)
        assert (refused.returncode, "must be 1 to 40 of A-Z" in refused.stderr) == (ExitCode.USAGE, True)


def test_what_a_stranger_wrote_commands_no_terminal(house: House) -> None:
    """An escape in a letter's reason would clear the screen, or rename the window."""
    house.client.xadd("bridge:requests", {"data": '{"endpoint": "demo", "input": {"a": 1}, "x\\u001b[2Jy": 1}'})
    eventually(lambda: house.ledger.dead.count() == 1)
    for shown in (house.bridge("dead", "list").stdout, on_terminal(house, "dead", "list")):
        assert "[2Jy" in shown
        assert "\x1b[2J" not in shown


def test_the_workers_help_is_the_bridges_own_and_celerys_is_one_option_away(house: House) -> None:
    """What is most used, and where the rest stands."""
    own = house.bridge("worker", "--help").stdout
    assert "bridge.run,bridge.finish,bridge.control" in own.replace("\n", "").replace(" ", "") or "bridge.run" in own
    assert "--celery-help" in own
    for pool in ("threads", "prefork", "gevent", "solo"):
        assert pool in own
    assert "--max-tasks-per-child" in house.bridge("worker", "--celery-help").stdout


def test_options_of_celerys_worker_are_handed_on(house: House) -> None:
    """Those that the help names, and those that it does not."""
    words = ("-Q", "bridge.control", "-c", "2", "-n", "apart@test", "--without-gossip", "-Ofair")
    worker = house.start("apart", sys.executable, "-m", "bridge.cli", "worker", *words)
    eventually(lambda: "apart@test ready" in worker.said(), timeout=40)
    assert worker.stop() == 0


def test_moments_and_spans_are_written_as_people_write_them() -> None:
    """And read so."""
    now = 1_800_000_000_000
    assert moment_ms("--since", "15m", now) == now - 900_000
    assert moment_ms("--since", "2026-11-28T09:30:00Z", now) == 1_795_858_200_000
    assert moment_ms("--since", None, now) == 0
    assert [span(s) for s in (None, 0, 59, 150, 7_200, 200_000)] == ["-", "0s", "59s", "2m", "2h", "2d"]
    assert sparkline([0, 1, 8]) == " ▁█"
