"""Finishes that nobody reads are held back; one that dies inside Celery's claim on a chord leaves no chord hanging."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import chord

from bridge.engine.tell.finish import DEPTH_MAX, RESEND_MAX_S, Finish
from tests.chaos.test_servers_fail import CLOCKS
from tests.chaos.walk import CELERY
from tests.support.helpers import eventually
from tests.support.house import House, Process
from tests.support.servers import RabbitServer

#: Pauses between copies begin here.
RESEND_S = "0.2"


def unread(house: House) -> Process:
    """An engine of its own, and a worker that takes requests and no finishes."""
    house.worker("-Q", "bridge.run,bridge.control", BRIDGE_ENGINE="off")
    engine = house.engine()
    eventually(lambda: house.ledger.engines.count() > 0, timeout=30)
    return engine


def ended(house: House, names: list[str]) -> None:
    """All have ended, and Celery has not been told."""
    for name in names:
        house.send({"ref": name}, task_id=name)
    eventually(lambda: set(house.ledger.phases(names)) == {"SETTLED"}, timeout=30)


def sends(house: House, names: list[str]) -> int:
    """How many finishes have left, over all requests."""
    return sum(held.record.finish_sends for held in house.ledger.load_many(names).values())


def none_leaves(house: House, names: list[str], seconds: float) -> None:
    """For so long no copy is sent."""
    with pytest.raises(AssertionError):
        eventually(lambda: sends(house, names) > len(names), timeout=seconds)


@pytest.mark.chaos
@pytest.mark.slow
def test_no_copy_goes_into_a_queue_that_is_too_long(tmp_path: Path, redis_url: str) -> None:
    """HARDENING 9 on Redis: over 1,000 wait there, so each end has sent one message; copies follow once it is short."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url, finish_resend_s=RESEND_S) as house:
        engine = unread(house)
        house.client.rpush("bridge.finish", *["{}"] * (DEPTH_MAX + 1))
        names = [f"q{n}" for n in range(5)]
        ended(house, names)
        eventually(lambda: house.client.llen("bridge.finish") == DEPTH_MAX + 1 + len(names))
        none_leaves(house, names, 3)
        assert house.client.llen("bridge.finish") == DEPTH_MAX + 1 + len(names)
        eventually(lambda: "finish.unread" in engine.said())
        house.client.delete("bridge.finish")  # those messages are gone, too: only copies can tell Celery now
        house.worker("-Q", "bridge.finish", BRIDGE_ENGINE="off")
        assert [house.app.AsyncResult(name).get(timeout=30)["ref"] for name in names] == names
        eventually(lambda: set(house.ledger.phases(names)) == {"CLOSED"})


@pytest.mark.chaos_full
def test_no_copy_goes_where_nobody_reads(tmp_path: Path, rabbitmq_server: RabbitServer, redis_url: str) -> None:
    """HARDENING 9 on RabbitMQ: the one message expires, and nothing piles up; who comes to read is told all of it."""
    url = rabbitmq_server.start().fresh_url()
    with House(tmp_path, broker=url, redis_url=redis_url, finish_resend_s=RESEND_S) as house:
        with house.app.connection_for_write() as connection:  # as a reader that has gone leaves it
            connection.default_channel.queue_declare("bridge.finish", durable=True, auto_delete=False)
        engine = unread(house)
        names = [f"n{n}" for n in range(5)]
        ended(house, names)
        eventually(lambda: "finish.unread" in engine.said(), timeout=20)
        none_leaves(house, names, 3)
        with house.app.connection_for_write() as connection:
            assert connection.default_channel.queue_declare("bridge.finish", passive=True).message_count == 0
        house.worker("-Q", "bridge.finish", BRIDGE_ENGINE="off")
        assert [house.app.AsyncResult(name).get(timeout=30)["ref"] for name in names] == names
        eventually(lambda: set(house.ledger.phases(names)) == {"CLOSED"})


@pytest.mark.chaos
def test_a_worker_that_starts_will_read_what_it_sends(
    tmp_path: Path, rabbitmq_server: RabbitServer, redis_url: str
) -> None:
    """Its engine runs before its consumer: that nobody reads yet holds nothing back, however young all workers die."""
    url = rabbitmq_server.start().fresh_url()
    with House(tmp_path, broker=url, redis_url=redis_url, finish_resend_s=RESEND_S) as house:
        with house.app.connection_for_write() as connection:
            connection.default_channel.queue_declare("bridge.finish", durable=True, auto_delete=False)
        engine = unread(house)
        ended(house, ["early"])
        eventually(lambda: sends(house, ["early"]) > 0)
        assert engine.stop() == 0
        worker = house.worker(pool="prefork")  # its tasks run elsewhere, so it goes by message
        assert house.app.AsyncResult("early").get(timeout=30) == {"ref": "early"}
        assert "finish.unread" not in worker.said()


@pytest.mark.chaos
def test_pauses_between_copies_double_up_to_an_hour() -> None:
    """HARDENING 9: 30 s, 1, 2, 4 ... minutes with jitter, and never more than an hour."""
    finish: Any = object.__new__(Finish)
    finish.resend_s = 30.0

    class Sent:
        def __init__(self, sends: int) -> None:
            self.record = self
            self.finish_sends = sends

    for sends in range(12):
        nominal = min(30.0 * 2**sends, RESEND_MAX_S)
        assert all(0.89 <= finish._resend_ms(Sent(sends)) / 1000 / nominal <= 1.11 for _ in range(50))


#: A bridge worker that dies when Celery's chord has been claimed and its body is about to be sent.
DOOMED = """
import os, signal, sys
from celery.canvas import Signature
Signature.delay = lambda *_args, **_more: os.kill(os.getpid(), signal.SIGKILL)
from celery.__main__ import main
sys.argv = ["celery", *sys.argv[1:]]
main()
"""


@pytest.mark.chaos_full
def test_a_finish_that_dies_inside_celerys_claim_on_a_chord_leaves_no_chord_hanging(
    tmp_path: Path, redis_url: str
) -> None:
    """Its turn outlasts the claim (`chord_claim_s`), though turns are as short as a second: the body runs, once.

    A finish inside the claim would send nothing and count as delivered.
    """
    overlay = tmp_path / "celery.json"
    overlay.write_text(json.dumps(CELERY))  # Celery's claim is then held for five seconds
    settings: dict[str, Any] = {**CLOCKS, "finish_turn_s": "1", "finish_resend_s": "0.5", "celery_config": str(overlay)}
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **settings) as house:
        house.foreign_worker()
        heir = house.worker()
        heir.kill(signal.SIGSTOP)
        options = ["-A", "bridge.app", "worker", "-P", "threads", "-c", "4", "-n", "doomed@test"]
        doomed = house.start("doomed", sys.executable, "-c", DOOMED, *options, "--without-gossip", "--without-mingle")
        header = [
            house.app.signature("bridge.run", kwargs={"input": {"ref": n}}, queue="bridge.run", task_id=f"member{n}")
            for n in range(2)
        ]
        body = chord(header, app=house.app)(house.app.signature("tests.foreign.mark", args=["chord"]))
        eventually(lambda: not doomed.running, timeout=40)
        heir.kill(signal.SIGCONT)
        assert body.get(timeout=40) == [{"ref": 0}, {"ref": 1}]
        assert house.client.llen("noted:chord") == 1
        eventually(lambda: set(house.ledger.phases(["member0", "member1"])) == {"CLOSED"}, timeout=30)
        assert heir.stop() == 0
