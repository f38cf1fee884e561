"""Whatever a stranger sends to Celery's queues: it is kept with its reason, told, acked, and the next one goes on."""

from __future__ import annotations

import bz2
import json
import lzma
import os
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import brotli  # type: ignore[import-untyped]
import hypothesis
import pytest
from backports import zstd
from hypothesis import HealthCheck, Phase, given, settings

from bridge.doors.celery.consumer.check_message import MessageFault
from bridge.doors.celery.consumer.refuse import Refusals, RefusalUses, UnreadableMessage
from bridge.doors.celery.consumer.unpack import BODY_MAX
from bridge.job.enums import DeadReason
from tests.support.foul import (
    ENVELOPES,
    FOUL,
    SECRET,
    AmqpSender,
    Foul,
    RedisSender,
    fouls,
    good_headers,
)
from tests.support.helpers import eventually
from tests.support.house import House, Process
from tests.support.servers import RabbitServer, RedisServer
from tests.support.services import StreamService
from tests.support.slow import slow

BROKERS = ("redis", "amqp")


def sender_of(house: House) -> Any:
    """A stranger at the house's broker."""
    return RedisSender(house.broker) if house.broker.startswith("redis") else AmqpSender(house.broker)


@pytest.fixture(scope="module", params=BROKERS)
def house(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """One of each broker, for all tests here."""
    redis_url = redis_server.start().fresh_url()
    broker = redis_url
    if request.param == "amqp":
        rabbit: RabbitServer = request.getfixturevalue("rabbitmq_server")
        broker = rabbit.start().fresh_url()
    with House(tmp_path_factory.mktemp("foul"), broker=broker, redis_url=redis_url, dead_max="1000000") as made:
        yield made


@pytest.fixture(scope="module")
def worker(house: House) -> Process:
    """The process under attack, in threads."""
    return house.worker()


def the_next_goes_on(house: House, worker: Process) -> None:
    """A good request behind the bad ones ends, and a control task is answered; the process lives."""
    assert house.send({"good": 1}).get(timeout=30) == {"good": 1}
    assert worker.running, worker.said()[-3000:]


def letters(house: House) -> dict[str, dict[str, Any]]:
    """All dead letters by id."""
    return {letter["id"]: letter for letter in house.ledger.dead.newest(100_000)}


def test_what_celery_cannot_read_becomes_a_dead_letter_and_a_failure(house: House, worker: Process) -> None:
    """Each with its reason, its bytes without secrets, and JobRejected where an id can be read."""
    before, sender = letters(house).keys(), sender_of(house)
    for foul in FOUL.values():
        sender.send(foul)
    the_next_goes_on(house, worker)
    eventually(lambda: len(letters(house).keys() - before) == len(FOUL), timeout=20)
    eventually(lambda: sender.left() == 0, timeout=10)
    sender.close()
    found = [letter for key, letter in letters(house).items() if key not in before]
    for name, foul in FOUL.items():
        said = foul.headers or (json.loads(foul.body) if foul.body.startswith(b'{"task"') else {})
        task_id = said.get("id")
        if not isinstance(task_id, str):
            continue
        of_it = [letter for letter in found if letter["request_id"] == task_id]
        assert len(of_it) == 1, name
        assert of_it[0]["reason"] in {DeadReason.MALFORMED, DeadReason.UNKNOWN_KIND}, name
        assert of_it[0]["door"] == "celery", name
        assert of_it[0]["source"] == "bridge.run", name
        assert of_it[0]["size"] == len(foul.body), name
        result = house.app.AsyncResult(task_id)
        eventually(lambda result=result: result.state == "FAILURE", timeout=5)  # type: ignore[misc]
        assert type(result.result).__name__ == "JobRejected", name
        assert house.phase(task_id) is None, name
    cut = next(letter for letter in found if letter["request_id"] == FOUL["body cut"].headers["id"])
    assert '"accessSecret"' not in cut["original"] or SECRET not in cut["original"].partition('"s3Config"')[2]
    assert '"secret_input"' in cut["original"]


@pytest.mark.parametrize("house", ["redis"], indirect=True)
def test_a_letter_that_cannot_be_written_keeps_no_other_back(house: House) -> None:
    """Its message is held, and tried again behind the others, however long it takes."""
    done: list[str] = []
    refusals = Refusals(lambda: RefusalUses(house.ledger, house.app, ()))
    odd = MessageFault(cast("DeadReason", "no such reason"), "odd")  # what no ledger can write
    refusals.put(UnreadableMessage(b"x", "q", odd, done=lambda: done.append("odd")))
    for n in range(2):
        fault = MessageFault(DeadReason.MALFORMED, "x")
        refusals.put(UnreadableMessage(b"x", "q", fault, done=lambda n=n: done.append(f"good {n}")))  # type: ignore[misc]
    eventually(lambda: done == ["good 0", "good 1"])
    odd.reason = DeadReason.MALFORMED
    eventually(lambda: done[2:] == ["odd"])


@pytest.mark.parametrize("house", ["redis"], indirect=True)
def test_dead_letters_are_kept_after_a_stranger_has_used_up_their_ids(house: House, worker: Process) -> None:
    """Neither Celery's door nor the streams close because of it, and it is told once."""
    house.client.xadd(house.ledger.names.dead, {"x": "a stranger's"}, id="18446744073709551615-18446744073709551615")
    sender = sender_of(house)
    sender.send(FOUL["body cut"])
    sender.close()
    stream = StreamService(house.environment["BRIDGE_REDIS_URL"])
    stream.own("used-up")
    stream.send(b'{"id": "used-up", "input": 7, "reply_to": "used-up"}')
    assert stream.replies("used-up", 1)[0]["type"] == "bridge.job.rejected"
    stream.close()
    eventually(lambda: {letter["door"] for letter in house.ledger.dead.newest()} == {"celery", "stream"})
    eventually(lambda: worker.said().count("key=bridge:dead") == 1)
    the_next_goes_on(house, worker)


@pytest.mark.parametrize("house", ["redis"], indirect=True)
def test_an_envelope_that_is_none_becomes_a_dead_letter(house: House, worker: Process) -> None:
    """To the byte; an item of a list need not be JSON, or UTF-8, or hold what kombu looks for."""
    before, sender = letters(house).keys(), sender_of(house)
    for envelope in ENVELOPES.values():
        sender.send(Foul(envelope=envelope))
    the_next_goes_on(house, worker)
    eventually(lambda: len(letters(house).keys() - before) >= len(ENVELOPES), timeout=20)
    eventually(lambda: sender.left() == 0, timeout=10)
    sender.close()
    found = [letter for key, letter in letters(house).items() if key not in before]
    assert len(found) == len(ENVELOPES)
    kept = {letter["original"] for letter in found}
    assert {"not json", "[1, 2]", "{}"} <= kept
    assert all(SECRET not in str(letter["original"]) for letter in found)
    for task_id in ("foul-b", "foul-c"):
        eventually(lambda task_id=task_id: house.app.AsyncResult(task_id).state == "FAILURE", timeout=5)  # type: ignore[misc]


def test_a_refusal_overwrites_nobodys_answer(house: House, worker: Process) -> None:
    """The id of a request that the ledger holds, or of a result that stands: a letter, and nothing else."""
    sent = house.send({"mine": 1})
    assert sent.get(timeout=20) == {"mine": 1}
    sender = sender_of(house)
    sender.send(Foul(b"7", good_headers(id=sent.id)))
    sender.send(Foul(b"7", good_headers(id=sent.id, task="nobody.knows")))
    eventually(lambda: sum(one["request_id"] == sent.id for one in letters(house).values()) == 2, timeout=20)
    the_next_goes_on(house, worker)
    assert house.app.AsyncResult(sent.id).get(timeout=1) == {"mine": 1}
    sender.close()


def test_protocol_1_is_accepted(house: House, worker: Process) -> None:
    """As Celery 3 wrote it: all in the body."""
    sender = sender_of(house)
    task_id = uuid.uuid4().hex
    said = {"task": "bridge.run", "id": task_id, "args": [], "kwargs": {"input": {"old": 1}}, "retries": 0,
            "eta": None, "expires": None, "utc": True, "callbacks": None, "errbacks": None,
            "timelimit": [None, None], "taskset": None, "chord": None}  # fmt: skip
    sender.send(Foul(json.dumps(said).encode(), {}))
    assert house.app.AsyncResult(task_id).get(timeout=20) == {"old": 1}
    assert worker.running
    sender.close()


def attack(house: House, worker: Process, count: int, seed: int) -> dict[str, Any]:
    """So many messages by chance, a good one after each batch of 50; what became of them."""
    sender, batch, before = sender_of(house), [], len(letters(house))
    started = time.monotonic()

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(fouls)
    def send(foul: Foul) -> None:
        batch.append(foul)
        try:
            sender.send(foul)
        except (ValueError, UnicodeError):  # what no client can write is no message
            batch.pop()
        if len(batch) % 50 == 0:
            the_next_goes_on(house, worker)

    send()
    the_next_goes_on(house, worker)
    eventually(lambda: sender.left() == 0, timeout=60)
    sender.close()
    return {
        "messages": len(batch),
        "letters": len(letters(house)) - before,
        "seconds": round(time.monotonic() - started, 1),
    }


def test_messages_by_chance_stop_nobody(house: House, worker: Process) -> None:
    """Each is gone from its queue, as a letter, a record or an answer; good ones between them end."""
    told = attack(house, worker, 300, 1)
    assert told["letters"] > 100, told
    assert SECRET not in worker.said()


@pytest.mark.chaos_full
@pytest.mark.timeout(3_600)
def test_twenty_thousand_messages_by_chance_stop_nobody(house: House, worker: Process) -> None:
    """The long form; FUZZ_MESSAGES says how many."""
    count = int(os.environ.get("FUZZ_MESSAGES", "20000"))
    told = attack(house, worker, count, 2)
    print(told)  # noqa: T201
    assert told["letters"] > count / 4, told


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("pool", [slow("prefork"), slow("gevent"), "solo"])
def test_every_pool_lives_on(pool: str, broker: str, redis_url: str, tmp_path: Path, request: Any) -> None:
    """The same messages, other loops and other processes."""
    url = redis_url if broker == "redis" else request.getfixturevalue("amqp_url")
    with House(tmp_path, broker=url, redis_url=redis_url) as house:
        worker, sender = house.worker(pool=pool), sender_of(house)
        sent = [*FOUL.values(), *(Foul(envelope=each) for each in ENVELOPES.values() if broker == "redis")]
        for foul in sent:
            sender.send(foul)
        the_next_goes_on(house, worker)
        eventually(lambda: len(letters(house)) == len(sent), timeout=30)
        eventually(lambda: sender.left() == 0, timeout=20)
        sender.close()
        worker.stop()


def test_while_the_ledger_is_away_such_a_message_is_held(
    redis_server: RedisServer, tmp_path: Path, amqp_url: str
) -> None:
    """Unacked; kept once the ledger is back."""
    with House(tmp_path, broker=amqp_url, redis_url=redis_server.start().fresh_url()) as house:
        worker, sender = house.worker(), sender_of(house)
        redis_server.kill()
        sender.send(Foul(b"7", good_headers(id="held-foul")))
        eventually(lambda: "door.held" in worker.said(), timeout=20)
        redis_server.start()
        eventually(lambda: any(one["request_id"] == "held-foul" for one in letters(house).values()), timeout=30)
        the_next_goes_on(house, worker)
        eventually(lambda: sender.left() == 0)
        sender.close()


#: Over the bound, unpacked.
BIG = b'[[],{"input":{"a":"' + b"a" * (BODY_MAX + 1_000_000) + b'"}},{}]'
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": lambda raw: zlib.compress(raw, 1),
    "application/x-bz2": lambda raw: bz2.compress(raw, 1),
    "application/x-lzma": lambda raw: lzma.compress(raw, preset=0),
    "application/zstd": zstd.compress,
    "application/x-brotli": lambda raw: brotli.compress(raw, quality=1),
}


@cache
def packed(content_type: str) -> bytes:
    """Once for both brokers."""
    return PACKERS[content_type](BIG)


@cache
def bomb() -> bytes:
    """A megabyte that unpacks to one gigabyte."""
    packer, piece = zlib.compressobj(6), bytes(16_000_000)
    return b"".join([*(packer.compress(piece) for _ in range(64)), packer.flush()])


def is_refused_by_size(house: House, body: bytes, content_type: str) -> None:
    """As a dead letter, and to who waits."""
    sender, headers = sender_of(house), good_headers(compression=content_type)
    sender.send(Foul(body, headers))
    result = house.app.AsyncResult(headers["id"])
    eventually(lambda: result.state == "FAILURE", timeout=30)
    assert type(result.result).__name__ == "JobRejected"
    letter = next(one for one in letters(house).values() if one["request_id"] == headers["id"])
    assert (letter["reason"], letter["size"]) == ("too_large", len(body))
    sender.close()


@pytest.mark.parametrize("content_type", list(PACKERS))
def test_what_unpacks_to_too_much_is_refused(house: House, worker: Process, content_type: str) -> None:
    """By every compression that kombu knows."""
    is_refused_by_size(house, packed(content_type), content_type)
    the_next_goes_on(house, worker)


def test_a_bomb_never_unpacks_further_than_the_bound(house: House, worker: Process) -> None:
    """The worker's memory shows it."""
    is_refused_by_size(house, bomb(), "application/x-gzip")
    the_next_goes_on(house, worker)
    peak = int(Path(f"/proc/{worker.pid}/status").read_text().partition("VmHWM:")[2].split()[0])
    assert peak < 600_000, "kB"


def test_a_message_that_is_packed_is_taken(house: House, worker: Process) -> None:
    """By every compression that kombu knows."""
    for packing in ("gzip", "bzip2", "lzma", "zstd", "brotli"):
        sent = house.app.send_task(
            "bridge.run", kwargs={"input": {"packed": packing}}, queue="bridge.run", compression=packing
        )
        assert sent.get(timeout=20) == {"packed": packing}
    assert worker.running
