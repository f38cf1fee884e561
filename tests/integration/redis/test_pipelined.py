"""Pieces of work that ask scripts of Redis in step: one round trip, and each piece's fault its own."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import redis

from bridge.errors import LedgerFault, LedgerUnavailable
from bridge.ledger.server.connect import connect
from bridge.redis import round_trips
from bridge.redis.pipelined import Asked, Work, alone, in_step
from tests.support.helpers import free_port

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


def asked(key: str, count: int) -> Asked:
    """Add to a number."""
    return Asked(hashlib.sha1(ADD.encode()).hexdigest(), ADD, [key], [count])  # noqa: S324


def adds(key: str, *counts: int) -> Work[list[int]]:
    """Adds each, one after the other."""
    found = []
    for count in counts:
        now = yield asked(key, count)
        found += [now]
    return found


def survives(key: str) -> Work[list[int]]:
    """Goes on after a fault."""
    try:
        yield asked(key, 1)
    except LedgerFault:
        return [-1]
    return [0]


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """As the ledger's."""
    return connect(redis_url)


def test_pieces_of_any_length_go_in_step_and_come_to_what_they_would_alone(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many round trips as the longest has questions, once the server knows the script."""
    assert alone(client, adds("in-step:0", 1)) == [1]
    trips: list[int] = []
    call = round_trips.call_many

    def counted(to: redis.Redis, commands: Any) -> list[Any]:
        trips.append(len(commands))
        return call(to, commands)

    monkeypatch.setattr(round_trips, "call_many", counted)
    works = [adds("in-step:1", 1, 2, 3), adds("in-step:2"), adds("in-step:3", 7)]
    assert in_step(client, works) == [[1, 3, 6], [], [7]]
    assert trips == [2, 1, 1]


def test_a_fault_of_one_piece_ends_that_piece_alone(client: redis.Redis) -> None:
    """The others' answers are theirs, and each is told its own fault."""
    client.hset("in-step:4", "a", 1)
    assert in_step(client, [survives("in-step:4"), adds("in-step:6", 5)])[0] == [-1]
    with pytest.raises(LedgerFault):
        in_step(client, [adds("in-step:4", 1), adds("in-step:7", 1, 1)])
    assert client.get("in-step:7") is not None, "it went to its end"


def test_an_outage_is_told_to_every_piece() -> None:
    """Each may have something to put right."""
    told: list[str] = []

    def work(name: str) -> Work[None]:
        try:
            yield asked(name, 1)
        except LedgerUnavailable:
            told.append(name)
            raise

    with pytest.raises(LedgerUnavailable):
        in_step(connect(f"redis://127.0.0.1:{free_port()}/0"), [work("a"), work("b")])
    assert told == ["a", "b"]
