"""The `bridge` command, run as a user runs it, beside a real worker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import redis
from kombu import Connection, Queue

from bridge.cli import VERBS, cli
from bridge.cli.common import show
from bridge.cli.exit_codes import ExitCode
from bridge.cli.requests.refusals import Refusals
from bridge.cli.requests.request import events, follow
from bridge.errors import JobRejected
from bridge.job.document import document
from bridge.ledger.endpoints.answer_cache import OnceForAll
from bridge.runpod.limits.circuit_breaker import CircuitBreaker
from tests.support.helpers import COMMAND_S, eventually
from tests.support.house import ROOT, House, foreign_app
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker for all."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("cli"), broker=url, redis_url=url) as made:
        made.worker()
        yield made


def bridge(house: House, *words: str, given: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """One run of the command itself: of each verb one at least. Further runs are forked (`House.bridge`)."""
    return subprocess.run(
        [sys.executable, "-m", "bridge.cli", *words],
        cwd=ROOT,
        env={**house.environment, **more},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_run_shows_the_way_and_prints_the_output(house: House) -> None:
    """Transitions on stderr, the output on stdout, exit 0."""
    done = bridge(house, "run", "--input", '{"prompt": "hi"}', "--metadata", "campaign=42")
    assert done.returncode == ExitCode.OK, done.stderr
    assert json.loads(done.stdout) == {"prompt": "hi"}
    for word in ("accepted", "submitted", "completed"):
        assert word in done.stderr


def test_run_tells_a_failure_by_its_exit_code(house: House) -> None:
    """And says what the handler said."""
    done = house.bridge("run", "--input", "-", given='{"mock_error": "no luck"}')
    assert done.returncode == ExitCode.FAILED
    assert "no luck" in done.stderr
    refused = house.bridge("run", "--input", '{"a": 1}', "--timeout", "5")
    assert refused.returncode == ExitCode.REJECTED
    assert "timeout" in refused.stderr


def test_an_id_of_another_request_is_refused_and_its_output_shown_to_nobody(house: House) -> None:
    """The same request may be asked for again, while it is known and when its tombstone is left."""
    first = ("run", "--id", "one-id", "--input", '{"n": 1}')
    assert json.loads(house.bridge(*first).stdout) == {"n": 1}
    assert json.loads(house.bridge(*first).stdout) == {"n": 1}
    for more in ((), ("--no-wait",), ("--json",)):
        other = house.bridge("run", "--id", "one-id", "--input", '{"n": 2}', *more)
        assert (other.returncode, other.stdout) == (ExitCode.REJECTED, ""), other
        assert "one-id has been used for another request" in other.stderr


def test_an_id_that_another_request_takes_on_the_way_is_refused_too(redis_url: str, tmp_path: Path) -> None:
    """Both were sent before a worker had accepted one."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as empty:
        assert empty.bridge("run", "--id", "raced", "--input", '{"n": 1}', "--no-wait").returncode == ExitCode.OK
        with subprocess.Popen(
            [sys.executable, "-m", "bridge.cli", "run", "--id", "raced", "--input", '{"n": 2}'],
            cwd=ROOT, env=empty.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as second:  # fmt: skip
            with redis.Redis.from_url(redis_url) as broker:
                eventually(lambda: broker.llen("bridge.run") == 2)
            empty.worker()
            out, said = second.communicate(timeout=COMMAND_S)
        assert (second.returncode, out) == (ExitCode.REJECTED, ""), said
        assert "raced has been used for another request" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("run", "--input", '{"u": "\\ud800"}'), ExitCode.USAGE, "half of a surrogate pair"),
        (("run", "--input", '{"a": 1, "a": 2}'), ExitCode.USAGE, "twice"),
        (("run", "--input", ""), ExitCode.USAGE, "--input: is not JSON"),
        (("run", "--input", '{"a": 1}', "--policy", "[1]"), ExitCode.USAGE, "--policy: must be one JSON object"),
        (("run", "--input", '{"a": 1}', "--metadata", "team"), ExitCode.USAGE, "--metadata team: must be NAME=VALUE"),
        (("run", "--input", '{"a": 1}', "--out", "x.json"), ExitCode.USAGE, "--out is for --file"),
        (("run", "--input", '{"a": 1}', "--name", "x"), ExitCode.USAGE, "--name is for --file"),
        (("run", "--file", "pyproject.toml", "--input", "{}"), ExitCode.USAGE, "--input is not for --file"),
        (("run", "--file", "pyproject.toml", "--no-wait"), ExitCode.USAGE, "--no-wait is not for --file"),
        (("run", "--input", '{"a":' * 1200 + "1" + "}" * 1200), ExitCode.USAGE, "nested deeper"),
        (("run", "--input", '{"a": 1}', "--metadata", "name=M\udcfcller"), ExitCode.REJECTED, "surrogate pair"),
        (("run", "--file", "pyproject.toml", "--out", "no/such/folder"), ExitCode.USAGE, "No such file or directory"),
        (("jobs", "--after", "xx"), ExitCode.USAGE, "is no place of an earlier list"),
        (("dead", "list", "--count", "0"), ExitCode.USAGE, "1<=x<=100000"),
        (("dead", "drop", "99999999999999999999999-0"), ExitCode.UNKNOWN, "is no dead letter"),
        (("purge", "nosuch", "--yes"), ExitCode.REJECTED, "RunPod knows no 'nosuch'"),
    ],
)
def test_a_callers_mistake_is_told_as_one(house: House, words: tuple[str, ...], code: ExitCode, says: str) -> None:
    """By its exit code, in a sentence; nothing is sent, and no traceback or word of Redis is shown."""
    before = house.submits()
    done = house.bridge(*words)
    assert (done.returncode, done.stdout) == (code, "0 dropped\n" if "drop" in words else ""), done
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert house.submits() == before


def test_a_request_that_no_door_can_take_is_told_and_not_waited_for(house: House) -> None:
    """No record tells of it: the dead letter does."""
    has: Any = SimpleNamespace(ledger=house.ledger)
    letters = Refusals(has)
    house.ledger.dead.keep("malformed", door="celery", body=b"{", detail="body: is cut", request_id="not-taken")
    with pytest.raises(JobRejected, match="body: is cut"):
        follow(has, "not-taken", as_json=False, stream=False, letters=letters)


def test_a_request_that_no_worker_takes_is_told_and_check_says_what_to_start(redis_url: str, tmp_path: Path) -> None:
    """Whoever has forgotten the worker would look at nothing for ever."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        sender = house.start("sender", sys.executable, "-m", "bridge.cli", "run", "--input", '{"a": 1}')
        eventually(lambda: "no bridge worker has taken it yet; `bridge check`" in sender.said(), timeout=60)
        checked = house.bridge("check").stdout
        assert "nobody reads bridge.run, bridge.finish, bridge.control: start `bridge worker`" in checked
        house.worker()
        eventually(lambda: not sender.running, timeout=60)
        assert sender.said().count("no bridge worker") == 1
        assert "completed" in sender.said()


def test_dead_letters_and_requests_are_listed_while_the_memory_is_full(house: House) -> None:
    """Redis refuses a transaction whole then, if it only reads."""
    house.client.config_set("maxmemory", "1000000")
    try:
        for words in (("dead", "list"), ("jobs", "--phase", "in-flight"), ("jobs",)):
            done = house.bridge(*words)
            assert done.returncode == ExitCode.OK, done.stderr
    finally:
        house.client.config_set("maxmemory", "0")


def test_status_watch_and_cancel(house: House) -> None:
    """No worker is needed for them: they ask the ledger."""
    sent = json.loads(house.bridge("run", "--input", '{"mock_delay": 60}', "--no-wait", "--json").stdout)
    eventually(lambda: "started" in house.names_of(sent["id"]))
    told = json.loads(bridge(house, "status", sent["id"], "--json").stdout)
    assert told["status"] == "IN_PROGRESS"
    done = bridge(house, "cancel", sent["id"], "--json")
    assert json.loads(done.stdout)["outcome"] == "requested"
    watched = bridge(house, "watch", sent["id"])
    assert watched.returncode == ExitCode.CANCELLED
    assert "cancelled" in watched.stderr
    for verb in ("status", "watch"):
        assert house.bridge(verb, "nobody").returncode == ExitCode.UNKNOWN


@pytest.mark.parametrize("left", ["record", "memory_of_its_end"])
def test_whoever_watches_hears_the_end_though_its_event_was_trimmed_unread(house: House, left: str) -> None:
    """A terminal that slept, or a stranger that trims what it has read: the rest is told from what the ledger keeps."""
    control = SimpleNamespace(status=lambda **asked: status_of(house, asked["id"]))
    has: Any = SimpleNamespace(ledger=house.ledger, control=control)
    sent = house.send({"mock_stream": ["a", "b", "c"], "mock_delay": 0.7}, stream=True)
    following = events(has, sent.id)
    told = [next(following)]
    while "output" not in told[-1]["data"]:
        told.append(next(following))
    eventually(lambda: house.phase(sent.id) == "CLOSED", timeout=20)
    house.client.xtrim("bridge:events", maxlen=0)
    if left != "record":
        has.ledger = SimpleNamespace(outbox=house.ledger.outbox, chunks=house.ledger.chunks, load=lambda _: None)
    heard: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: heard.extend(following), daemon=True)
    thread.start()
    eventually(lambda: heard and not thread.is_alive(), timeout=10)
    chunks = [event["data"]["output"] for event in (*told, *heard) if event["type"] == "bridge.job.chunk"]
    assert (chunks, heard[-1]["type"]) == (["a", "b", "c"], "bridge.job.completed")


def status_of(house: House, request_id: str) -> dict[str, Any]:
    """Its document."""
    held = house.ledger.load(request_id)
    assert held is not None
    return document(held)


def test_a_reader_that_goes_away_ends_watch_as_a_stop(house: House) -> None:
    """`| head`: no fault of the bridge."""
    sent = house.send({"mock_return": "x" * 100})
    sent.get(timeout=15)
    command = [sys.executable, "-m", "bridge.cli", "watch", sent.id]
    with subprocess.Popen(
        command, cwd=ROOT, env=house.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as watching:
        assert watching.stdout is not None
        watching.stdout.close()
        assert watching.wait(COMMAND_S) == ExitCode.STOPPED


def test_what_no_terminal_can_spell_is_shown_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of a surrogate pair is valid in JSON, and no character."""
    show({"output": "a\ud800b", "\ud800": {"x": "\ud800"}}, as_json=False)
    assert "a\\ud800b" in capsys.readouterr().out


def test_what_a_terminal_would_obey_is_not_sent_to_it(house: House) -> None:
    """An error or a note is a stranger's: it moves no cursor and sets no title. Its lines stay lines."""
    note = "\x1b]0;mine\x07one\r\ntwo\x9b2J\x00"
    sent = json.loads(house.bridge("run", "--input", json.dumps({"mock_error": note}), "--no-wait", "--json",
                                   "--metadata", "note=\x1b[2J").stdout)  # fmt: skip
    eventually(lambda: house.phase(sent["id"]) == "CLOSED")
    for verb in ("status", "watch"):
        done = bridge(house, verb, sent["id"])
        assert "]0;mine" in done.stdout + done.stderr
        assert "\ntwo" in done.stdout + done.stderr
        assert not set("\x1b\x07\x9b\x00") & set(done.stdout + done.stderr), (verb, done.stdout, done.stderr)


def test_what_cannot_be_is_told_apart_from_what_is_unknown(house: House) -> None:
    """A retry of what has completed is refused (3); an unknown request is unknown (8), whatever is asked of it."""
    sent = house.send({"a": 1})
    sent.get(timeout=15)
    eventually(lambda: house.phase(sent.id) == "CLOSED")
    done = bridge(house, "retry", sent.id)
    assert (done.returncode, "only FAILED and TIMED_OUT" in done.stderr) == (ExitCode.REJECTED, True)
    for verb in ("retry", "status"):
        done = house.bridge(verb, "nobody")
        assert (done.returncode, "knows no request nobody" in done.stderr) == (ExitCode.UNKNOWN, True)
    assert house.bridge("status", "no spaces").returncode == ExitCode.REJECTED
    done = house.bridge("cancel", "nobody")
    assert done.returncode == ExitCode.UNKNOWN
    assert "nobody: the bridge knows no such request (yet); the cancel is kept for 24 h" in done.stderr


@pytest.mark.locked
def test_one_schema_is_printed_by_its_name(house: House) -> None:
    """As the file of that name; an unknown name is told the others."""
    done = bridge(house, "schema", "request")
    assert done.stdout == (ROOT / "docs" / "schema" / "request.json").read_text()
    done = bridge(house, "schema", "--write", "/dev/null/schemas")
    assert (done.returncode, "Traceback" in done.stderr) == (ExitCode.USAGE, False), done.stderr
    done = bridge(house, "schema", "nonsense")
    assert (done.returncode, "command-answer" in done.stderr) == (ExitCode.USAGE, True)


def test_cancel_by_metadata(house: House) -> None:
    """`--where` finds every request that says so and has not ended."""
    sent = [house.send({"mock_delay": 60}, metadata={"campaign": "c7"}) for _ in range(3)]
    other = house.send({"mock_delay": 0.1}, metadata={"campaign": "c8"})
    eventually(lambda: all("started" in house.names_of(one.id) for one in sent))
    done = house.bridge("cancel", "--where", "campaign=c7", "--json")
    assert len(json.loads(done.stdout)) == 3
    eventually(lambda: all(house.names_of(one.id)[-1] == "cancelled" for one in sent))
    assert other.get(timeout=15)


def test_a_batch_goes_on_where_it_stopped(house: House, tmp_path: Path) -> None:
    """Ids are the file's name and the line; a second run sends only what has no result."""
    lines, out = tmp_path / "nightly.jsonl", tmp_path / "results.jsonl"
    lines.write_text("\n".join(json.dumps({"n": n}) for n in range(20)))
    out.write_text(json.dumps({"id": "nightly:1", "status": "COMPLETED", "output": {"n": 0}}) + "\n")
    before = house.submits()
    done = house.bridge("run", "--file", str(lines), "--out", str(out), "--json")
    assert done.returncode == ExitCode.OK, done.stderr
    assert house.submits() - before == 19
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(one["output"]["n"] for one in told) == list(range(20))
    again = house.bridge("run", "--file", str(lines), "--out", str(out), "--json")
    assert again.returncode == ExitCode.OK
    assert house.submits() - before == 19


def test_pause_holds_submits_and_resume_lets_them_go(house: House) -> None:
    """In every process within a second; health says so."""
    assert bridge(house, "pause", "demo", "--reason", "maintenance").returncode == ExitCode.OK
    eventually(lambda: json.loads(bridge(house, "health", "demo", "--json").stdout)["verdict"] == "paused")
    before = house.submits()
    sent = house.send({"a": 1})
    eventually(lambda: house.phase(sent.id) == "ACCEPTED")
    assert house.submits() == before
    assert bridge(house, "resume", "demo").returncode == ExitCode.OK
    assert sent.get(timeout=15) == {"a": 1}


def test_check_says_what_is_wrong(house: House) -> None:
    """All well with a worker; a wrong key is named."""
    well = bridge(house, "check")
    assert well.returncode == ExitCode.OK, well.stdout
    wrong = house.bridge("check", RUNPOD_API_KEY="wrong")
    assert wrong.returncode == ExitCode.UNHEALTHY
    assert "Unauthorised" in wrong.stdout
    assert "RUNPOD_API_KEY" in wrong.stdout
    assert "wrong" not in wrong.stdout.replace("missing or wrong", "")
    none = house.bridge("check", BRIDGE_REDIS_URL="memcached://x", BRIDGE_LEASE_S="1")
    assert none.returncode == ExitCode.SETTINGS
    assert "BRIDGE_REDIS_URL" in none.stderr
    assert "BRIDGE_LEASE_S" in none.stderr
    assert "Traceback" not in none.stderr


def test_check_says_what_to_do_about_an_endpoint_that_runpod_does_not_know(house: House) -> None:
    """Its id, and where that is set; one that does not answer is waited for."""
    unknown = house.bridge("check", RUNPOD_ENDPOINT_ID="typo")
    assert "RunPod knows no endpoint typo: mend the id in RUNPOD_ENDPOINT_ID" in unknown.stdout
    address = house.bridge("check", RUNPOD_ENDPOINT_BASE_URL=house.emulator.base_url.removesuffix("/v2"))
    assert "or RUNPOD_ENDPOINT_BASE_URL, where that does not end in RunPod's /v2" in address.stdout
    nobody = house.bridge("check", RUNPOD_ENDPOINT_BASE_URL="http://127.0.0.1:1/v2")
    assert "Connection refused; is RUNPOD_ENDPOINT_BASE_URL right?" in nobody.stdout
    house.emulator.fault("502", "health", times=None)
    try:
        away = house.bridge("check")
    finally:
        house.emulator.clear_faults()
    assert "HTTP 502; RunPod, or the way to it, is in trouble: requests wait" in away.stdout


def test_check_finds_servers_that_are_full_and_sends_nobody_to_start_workers(tmp_path: Path) -> None:
    """Results that can be read and take nothing; a ledger for whose sake no more is read from bridge.run."""
    with RedisServer(tmp_path) as ledger, RedisServer(tmp_path / "results") as results:
        url, backend = ledger.fresh_url(), results.fresh_url()
        house = House(tmp_path, broker=url, redis_url=url, backend=backend)
        with house, redis.Redis(port=ledger.port) as full, redis.Redis(port=results.port) as store:
            worker = house.worker()
            store.config_set("maxmemory", 1)
            says = house.bridge("check").stdout
            (fault,) = [line for line in says.splitlines() if line.startswith("FAULT")]
            assert "CELERY_RESULT_BACKEND" in fault
            assert "its memory is full: `redis-cli CONFIG SET maxmemory`" in fault
            store.config_set("maxmemory", 0)
            full.config_set("maxmemory", int(full.info("memory")["used_memory"] * 1.2))
            eventually(lambda: "door.closed" in worker.said())
            (fault,) = [line for line in house.bridge("check").stdout.splitlines() if line.startswith("FAULT")]
            assert "the doors are closed; `redis-cli CONFIG SET maxmemory`" in fault


def test_top_tells_how_an_endpoint_stands_now_and_not_how_it_stood(house: House) -> None:
    """A key that was mended is no trouble any more; calls that are not answered outweigh counters heard before."""

    def verdict() -> str:
        return str(json.loads(house.bridge("top", "--json").stdout)["endpoints"][0]["verdict"])

    ledger = house.ledger
    heard, gate = (
        OnceForAll(house.client, ledger.names.key("health:")),
        CircuitBreaker(house.client, ledger.names.prefix),
    )
    house.send({"a": 1}).get(timeout=15)
    heard.put("demo", {"fault": "unauthorised", "at": ledger.now() - 10_000})
    assert verdict() in {"ok", "cold"}
    gate.away("demo", "unreachable", "HTTP 502")
    assert verdict() == "unreachable"
    house.send({"a": 1}).get(timeout=30)
    assert verdict() in {"ok", "cold"}


@pytest.mark.parametrize(
    ("more", "says", "code"),
    [
        ({"BRIDGE_LEASE_S": "1"}, "BRIDGE_LEASE_S: must be over", ExitCode.SETTINGS),
        ({"BRIDGE_CELERY_CONFIG": "nowhere.to.be"}, "BRIDGE_CELERY_CONFIG: nowhere.to.be: ", ExitCode.SETTINGS),
        ({"BRIDGE_REDIS_URL": "redis://127.0.0.1:1/0"}, "is BRIDGE_REDIS_URL right?", ExitCode.UNAVAILABLE),
    ],
)  # fmt: skip
def test_a_worker_that_cannot_start_says_why_in_sentences(
    house: House, more: dict[str, str], says: str, code: ExitCode
) -> None:
    """Started by the `celery` command too: the setting and the rule, no traceback, the command's own exit codes."""
    process = house.worker(ready=False, **more)
    eventually(lambda: not process.running, timeout=60)
    assert says in process.said()
    assert "Traceback" not in process.said()
    assert process.stop() == code


def test_a_worker_without_a_key_says_so_once(redis_url: str, tmp_path: Path) -> None:
    """As it starts, and what to set; a request is refused with the same name in its text."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        process = house.worker(RUNPOD_API_KEY="")
        assert process.said().count("settings.doubtful") == 1
        assert "RUNPOD_API_KEY" in process.said()
        with pytest.raises(JobRejected, match="RUNPOD_API_KEY"):
            house.send({"a": 1}).get(timeout=15)
        process.stop()
        house.worker(RUNPOD_API_KEY="wrong")
        with pytest.raises(JobRejected, match="RUNPOD_API_KEY"):
            house.send({"a": 1}).get(timeout=15)


def test_check_names_the_key_file_that_is_empty(house: House, tmp_path: Path) -> None:
    """And not the variable, which may be set beside it and is not looked at."""
    (tmp_path / "key").write_text("")
    done = bridge(house, "check", RUNPOD_API_KEY_FILE=str(tmp_path / "key"))
    assert f"RUNPOD_API_KEY_FILE names {tmp_path / 'key'}, which is empty" in " ".join(done.stdout.split())


def test_purge_asks_first(house: House) -> None:
    """Without a yes nothing is purged."""
    before = [call for call in house.emulator.calls() if call["op"] == "purge-queue"]
    done = house.bridge("purge", "demo", given="n\n")
    assert done.returncode == ExitCode.STOPPED
    assert [call for call in house.emulator.calls() if call["op"] == "purge-queue"] == before
    assert bridge(house, "purge", "demo", "--yes").returncode == ExitCode.OK


def test_topology_names_the_queues(house: House) -> None:
    """Redis declares none, so that none can be missing."""
    told = {one["queue"]: one["existed"] for one in json.loads(bridge(house, "topology", "--json").stdout)}
    assert told == dict.fromkeys(("bridge.run", "bridge.finish", "bridge.control"))


def test_the_engine_runs_alone_and_stops_in_good_order(house: House) -> None:
    """`bridge engine`: SIGTERM, exit 0."""
    process = house.start("engine", sys.executable, "-m", "bridge.cli", "engine")
    eventually(lambda: "ready" in process.said(), timeout=20)
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("words", "not_needed"),
    [
        (["--help"], ("celery", "kombu", "redis", "pydantic", "uvicorn", "urllib3", "bridge.emulator")),
        (["schema", "request"], ("celery", "kombu", "redis", "uvicorn", "urllib3")),
        (["status", "nobody"], ("celery", "kombu", "uvicorn", "starlette", "fsspec")),
        (["cancel", "nobody"], ("celery", "kombu", "uvicorn", "starlette", "fsspec")),
    ],
)
def test_a_verb_loads_what_it_needs_and_no_more(house: House, words: list[str], not_needed: tuple[str, ...]) -> None:
    """Celery alone takes half a second; whoever asks for a status does without it."""
    code = f"""
import sys
from bridge.cli import main
sys.argv = ["bridge", *{words!r}]
try:
    main()
except SystemExit:
    pass
print([name for name in {not_needed!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=house.environment, capture_output=True, text=True, timeout=COMMAND_S, check=True,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_overview_says_of_each_verb_what_the_verb_says() -> None:
    """It is written down apart, so that an overview loads no verb."""
    for name, (_, says) in VERBS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.get_short_help_str(200) == says, name


def test_check_tells_requests_in_an_amqp_queue_that_nobody_reads(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    """No process has its doors open; a queue that somebody reads, and an empty one, are no finding."""
    with (
        House(tmp_path, broker=amqp_url, redis_url=redis_url, json_doors="off") as house,
        Connection(amqp_url) as rabbit,
    ):
        worker = house.worker()
        assert "wait in bridge.requests" not in house.bridge("check").stdout
        Queue("bridge.requests", durable=True, channel=rabbit.default_channel).declare()
        rabbit.Producer().publish({"id": "a", "input": {"n": 1}}, routing_key="bridge.requests")
        says = "FAULT queues     1 messages wait in bridge.requests, and no process reads it: start `bridge worker`"
        eventually(lambda: says in house.bridge("check").stdout, timeout=20)
        worker.stop()
        house.worker(BRIDGE_JSON_DOORS="on")
        eventually(lambda: house.phase("a") == "CLOSED", timeout=20)
        assert "wait in bridge.requests" not in house.bridge("check").stdout


def test_check_tells_jobs_in_a_list_of_a_priority_that_no_worker_reads(house: House) -> None:
    """Producers whose `priority_steps` are not the worker's: their jobs stay PENDING, and nothing says why."""
    with closing(foreign_app(house.broker, house.backend)) as producer:
        producer.conf.broker_transport_options = {"priority_steps": list(range(10))}
        for priority in (5, 6):  # 6 is a step of the worker's too
            producer.send_task("bridge.run", kwargs={"input": {"n": 1}}, queue="bridge.run", priority=priority)
        waiting = list(house.client.scan_iter("bridge.run\x06*"))
        try:
            found = [line for line in house.bridge("check").stdout.splitlines() if "priority" in line]
            says = "FAULT queues     1 messages wait in bridge.run's list of priority 5, which no worker reads: give"
            assert [line.startswith(says) for line in found] == [True]
        finally:
            house.client.delete(*waiting)


def test_check_tells_requests_on_a_stream_that_nobody_reads(redis_url: str, tmp_path: Path) -> None:
    """No process has its doors open, or services write to the streams of another namespace."""
    client: Any = redis.Redis.from_url(redis_url)
    with House(tmp_path, broker=redis_url, redis_url=redis_url, json_doors="off") as house:
        worker = house.worker()
        assert "streams" not in house.bridge("check").stdout
        client.xadd("bridge:requests", {"data": '{"id": "a", "input": {"n": 1}}'})
        says = "1 entries wait in bridge:requests, and no process reads it: start `bridge worker`"
        assert f"FAULT streams    {says}" in house.bridge("check").stdout
        other = house.bridge("check", BRIDGE_NAMESPACE="team2").stdout
        says = "1 entries wait in bridge:requests, which nobody reads: with BRIDGE_NAMESPACE=team2 services write to"
        assert f"WARN  streams    {says} bridge:team2:requests" in other
        worker.stop()
        house.worker(BRIDGE_JSON_DOORS="on")
        eventually(lambda: house.phase("a") == "CLOSED", timeout=20)
        client.xadd("bridge:requests", {"data": "x"})
        assert "streams" not in house.bridge("check").stdout
        assert "streams" not in house.bridge("check", BRIDGE_NAMESPACE="team2").stdout
    client.close()
