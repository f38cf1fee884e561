"""Callbacks of real workers: from every door, to the receivers of the documentation, through kills."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import JobRejected
from tests.support.helpers import eventually, free_port
from tests.support.house import ROOT, House, Process
from tests.support.receiver import OLD_SECRET, SECRET, Call, Receiver
from tests.support.servers import RedisServer
from tests.support.slow import slow

EXAMPLES = ROOT / "docs" / "examples"
HOW_TO_GET_IT = "needs Node.js 18 or later and: npm install --no-package-lock --prefix docs/examples/callback-node"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A service that is called back."""
    with Receiver(tmp_path) as made:
        yield made


def house_of(directory: Path, receiver: Receiver, redis_url: str, broker: str = "", **more: Any) -> House:
    """A house whose workers may call the receiver."""
    secret = directory / "secret"
    secret.write_text(SECRET)
    settings: dict[str, Any] = {
        "callback_secret_file": str(secret),
        "callback_ca_file": str(receiver.ca_file),
        "callback_allow": "localhost",
        "callback_retry_s": "0.2",
    }
    return House(directory, broker=broker or redis_url, redis_url=redis_url, **(settings | more))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[tuple[House, Receiver]]:
    """One house with a worker, and its receiver."""
    directory = tmp_path_factory.mktemp("callbacks")
    with Receiver(directory) as receiver, house_of(directory, receiver, redis_server.start().fresh_url()) as house:
        house.worker()
        yield house, receiver


@pytest.fixture
def house(running: tuple[House, Receiver]) -> House:
    """The one that all tests of a worker that lives share; its receiver takes everything, and has had nothing yet."""
    house, receiver = running
    receiver.calls.clear()
    receiver.answer = lambda _: 204
    return house


@pytest.fixture
def called(running: tuple[House, Receiver]) -> Receiver:
    """Its receiver."""
    return running[1]


def kinds(receiver: Receiver, request_id: str) -> list[str]:
    """What was told of a request, each once."""
    seen = {event["id"]: event["type"].rpartition(".")[2] for event in receiver.events(request_id)}
    return list(seen.values())


def test_from_celery_and_from_plain_json_the_same_comes(house: House, called: Receiver) -> None:
    """Chosen events in their order, verified, with the output; and the record closes behind them."""
    callback = {"url": called.url("/hook?token=mine"), "events": ["accepted", "started", "chunk", "end"]}
    given = {"mock_stream": ["once", "upon"], "mock_return": "the end"}
    sent = house.send(given, stream=True, callback=callback, task_id="by-celery")
    document = {"id": "by-json", "input": given, "stream": True, "callback": callback}
    house.client.xadd("bridge:requests", {"data": json.dumps(document)})
    assert sent.get(timeout=30) == "the end"
    for name in ("by-celery", "by-json"):
        eventually(lambda name=name: house.phase(name) == "CLOSED", timeout=30)  # type: ignore[misc]
        assert kinds(called, name) == ["accepted", "started", "chunk", "chunk", "completed"]
        told = called.events(name)
        assert told[-1]["data"]["output"] == "the end"
        assert told == [
            event for event in house.events(name) if event["type"].rpartition(".")[2] in kinds(called, name)
        ]
    assert "token" not in repr(house.events())


def test_a_round_that_was_asked_for_calls_again_under_new_ids(house: House, called: Receiver) -> None:
    """A receiver tells it from a repetition."""
    house.send({"mock_error": "boom"}, callback={"url": called.url()}, task_id="again")
    eventually(lambda: house.phase("again") == "CLOSED", timeout=20)
    house.ask("retry", id="again")
    eventually(lambda: len(called.events("again")) == 2 and house.phase("again") == "CLOSED", timeout=30)
    first, second = called.events("again")
    assert [event["data"]["round"] for event in (first, second)] == [1, 2]
    assert len({call.id for call in called.calls}) == 2
    assert int(second["sequence"]) > int(first["sequence"])


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_on_rabbitmq_and_in_other_pools(
    pool: str, tmp_path: Path, receiver: Receiver, redis_url: str, amqp_url: str
) -> None:
    """The relay and the callbacks each tell their own; a cancel is told like any end."""
    with house_of(tmp_path, receiver, redis_url, amqp_url) as house:
        house.worker(pool=pool)
        sent = house.send({"mock_delay": 600}, callback={"url": receiver.url()}, task_id="cancelled")
        other = house.send({"n": 1}, callback={"url": receiver.url()}, task_id="completed")
        assert other.get(timeout=30) == {"n": 1}
        house.ask("cancel", id="cancelled", timeout=30)
        for name in ("cancelled", "completed"):
            eventually(lambda name=name: house.phase(name) == "CLOSED", timeout=30)  # type: ignore[misc]
            assert kinds(receiver, name) == [name]
        sent.forget()


def test_workers_that_are_killed_lose_no_callback(tmp_path: Path, receiver: Receiver, redis_url: str) -> None:
    """The receiver takes nothing for a while; meanwhile worker after worker is killed. All come, in their order."""
    receiver.answer = lambda _: 500
    ids = [f"r{n}" for n in range(20)]
    callback = {"url": receiver.url(), "events": ["accepted", "submitted", "end"]}
    patience = {"lease_s": "7", "connect_timeout_s": "0.5", "read_timeout_s": "1", "callback_timeout_s": "1.5"}
    with house_of(tmp_path, receiver, redis_url, **patience) as house:
        for _ in range(2):
            worker = house.worker()
            for name in ids:
                house.send({"n": 1}, callback=callback, task_id=name)
            came = len(receiver.calls)
            eventually(lambda came=came: len(receiver.calls) > came + 20, timeout=30)  # type: ignore[misc]
            worker.kill()
        assert all(house.phase(name) != "CLOSED" for name in ids)
        receiver.answer = lambda _: 200
        house.worker()
        eventually(lambda: all(house.phase(name) == "CLOSED" for name in ids), timeout=60)
        for name in ids:
            assert kinds(receiver, name) == ["accepted", "submitted", "completed"]
        assert house.ledger.callbacks.count() == 0


def test_the_secret_is_changed_while_the_bridge_runs(house: House, called: Receiver) -> None:
    """Old, both, new: no restart, and no callback that a receiver with a good secret would refuse."""
    secret = house.directory / "secret"
    for n, (text, good) in enumerate(
        [(OLD_SECRET, [OLD_SECRET]), (f"{SECRET}\n{OLD_SECRET}", [SECRET, OLD_SECRET]), (SECRET, [SECRET])]
    ):
        secret.write_text(text + "\n")
        house.send({"n": n}, callback={"url": called.url(f"/{n}")}, task_id=f"r{n}")
        eventually(lambda n=n: house.phase(f"r{n}") == "CLOSED", timeout=30)  # type: ignore[misc]
        (call,) = [call for call in called.calls if call.path == f"/{n}"]
        assert all(call.verified(one)["subject"] == f"r{n}" for one in good)


def test_what_may_not_be_called_is_refused_at_the_door(house: House, called: Receiver) -> None:
    """By field and rule; a callback that is good hears of the refusal of its request."""
    house.worker()
    for url in (
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/",
        "https://[::1]/",
        "http://x.example/",
    ):
        with pytest.raises(JobRejected) as caught:
            house.send({"n": 1}, callback={"url": url}).get(timeout=15)
        assert caught.value.document["field"] == "callback.url"
    refused = house.send({"n": 1}, callback={"url": called.url()}, timeout=5, task_id="refused")
    with pytest.raises(JobRejected):
        refused.get(timeout=15)
    eventually(lambda: house.phase("refused") == "CLOSED")
    assert kinds(called, "refused") == ["rejected"]


def test_a_dead_letter_is_sent_again_by_hand(tmp_path: Path, receiver: Receiver, redis_url: str) -> None:
    """`bridge dead replay` takes the address from the request; neither list nor letter shows its secrets."""
    receiver.answer = lambda _: 500
    with house_of(tmp_path, receiver, redis_url, callback_patience_s="0.5") as house:
        worker = house.worker()
        house.send({"n": 1}, callback={"url": receiver.url("/hooks/pathsecret?token=querysecret")}, task_id="a")
        eventually(lambda: house.phase("a") == "CLOSED", timeout=30)
        (letter,) = house.ledger.dead.newest()
        assert "secret" not in json.dumps(letter)
        receiver.answer = lambda _: 200
        came = len(receiver.calls)
        house.bridge("dead", "replay", letter["id"])
        eventually(lambda: len(receiver.calls) > came, timeout=20)
        assert receiver.calls[-1].path == "/hooks/pathsecret?token=querysecret"
        assert receiver.calls[-1].verified()["type"] == "bridge.job.completed"
        eventually(lambda: not house.ledger.dead.newest())
        shown = house.bridge("status", "a", "--json")
        assert "COMPLETED" in shown.stdout
        for told in (worker.said(), shown.stdout, shown.stderr, json.dumps(house.events())):
            assert "pathsecret" not in told
            assert "querysecret" not in told


@pytest.mark.parametrize("language", ["python", slow("node")])
def test_the_receivers_of_the_documentation_take_what_comes_and_no_forgery(
    language: str, house: House, called: Receiver
) -> None:
    """By the official libraries of Standard Webhooks, behind a server that speaks HTTPS for them."""
    folder, port = EXAMPLES / f"callback-{language}", free_port()
    command = [sys.executable, str(folder / "receiver.py")]
    if language == "node":
        node = shutil.which("node")
        if node is None or not (folder / "node_modules" / "standardwebhooks").is_dir():
            pytest.skip(HOW_TO_GET_IT)
        command = [node, str(folder / "receiver.mjs")]
    program = house.start(language, *command, CALLBACK_SECRET=SECRET, PORT=str(port))
    eventually(lambda: "listening" in program.said(), timeout=20)
    answers: list[int] = []

    def passed_on(call: Call) -> int:
        answers.append(posted(port, call))
        return 500 if len(answers) == 1 else answers[-1]  # the first answer is lost: the same comes again

    called.answer = passed_on
    house.send({"prompt": "ein Kranich, schön"}, callback={"url": called.url()}, task_id=f"{language}.a")
    eventually(lambda: house.phase(f"{language}.a") == "CLOSED", timeout=30)
    assert answers == [204, 204]
    (told,) = lines(program)
    assert told == {"type": "bridge.job.completed", "id": f"{language}.a", "output": {"prompt": "ein Kranich, schön"}}
    call = called.calls[-1]
    assert posted(port, call._replace(body=call.body.replace(b"Kranich", b"Reiher"))) == 400
    assert posted(port, call._replace(headers={**call.headers, "webhook-id": "order-2:5"})) == 400
    assert posted(port, call._replace(body=b"\xff")) == 400
    for odd in ("v1", "v1,!", "v1,\xe9"):
        assert posted(port, call._replace(headers={**call.headers, "webhook-signature": odd})) == 400
    for off in (-400, 400):  # a clock of the receiver's that is wrong
        at = str(int(call.headers["webhook-timestamp"]) + off)
        assert posted(port, call._replace(headers={**call.headers, "webhook-timestamp": at})) == 400
    assert len(lines(program)) == 1


@pytest.mark.slow
def test_who_hangs_up_in_the_middle_of_a_body_does_not_end_the_receiver_in_node(house: House, called: Receiver) -> None:
    """It takes the next callback."""
    node, folder, port = shutil.which("node"), EXAMPLES / "callback-node", free_port()
    if node is None or not (folder / "node_modules" / "standardwebhooks").is_dir():
        pytest.skip(HOW_TO_GET_IT)
    program = house.start("node", node, str(folder / "receiver.mjs"), CALLBACK_SECRET=SECRET, PORT=str(port))
    eventually(lambda: "listening" in program.said(), timeout=20)
    with socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    eventually(lambda: "not received" in program.said() or not program.running, timeout=20)
    called.answer = lambda call: posted(port, call)
    house.send({"n": 1}, callback={"url": called.url()}, task_id="after-half")
    eventually(lambda: [told["id"] for told in lines(program)] == ["after-half"], timeout=30)


def test_check_says_who_cannot_be_reached(house: House) -> None:
    """By name, and since when."""
    port = free_port()
    house.send({"n": 1}, callback={"url": f"https://localhost:{port}/"}, task_id="away")
    eventually(house.ledger.callbacks.failing, timeout=20)
    check = house.bridge("check")
    assert f"WARN  callbacks  1 are owed; no answer of localhost:{port} for " in check.stdout


def posted(port: int, call: Call) -> int:
    """What a plain HTTP server answers to it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    names = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature")
    connection.request("POST", call.path, call.body, {name: call.headers[name] for name in names})
    status = connection.getresponse().status
    connection.close()
    return status


def lines(program: Process) -> list[dict[str, Any]]:
    """What it has told of its work."""
    return [json.loads(line) for line in program.said().splitlines() if line.startswith("{")]
