"""Who follows requests over HTTP, and the thread that reads for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from bridge.doors.http.api.following.followers import Followers
from tests.support.helpers import eventually


def following(newest: Callable[[], str]) -> Followers:
    """Of a ledger that tells this as its newest event, and has no other news."""
    outbox = SimpleNamespace(newest=newest, wait=lambda *_, **__: [])
    return Followers(cast("Any", SimpleNamespace(outbox=outbox, phases=lambda ids: [None for _ in ids])), 10)


def hangs(asked: threading.Event, answers: threading.Event) -> str:
    """The newest event, once it may be told."""
    asked.set()
    assert answers.wait(60)
    return "1-0"


def test_the_stream_is_not_read_for_one_who_has_gone_before_it_was_begun() -> None:
    """His connection ended while the ledger was asked where he is to begin; nobody else follows."""
    asked, answers = threading.Event(), threading.Event()
    followers = following(lambda: hangs(asked, answers))

    async def comes_and_goes() -> None:
        follower = followers.add("r")
        begin = asyncio.create_task(asyncio.to_thread(followers.begin))
        await asyncio.to_thread(asked.wait, 60)
        followers.remove(follower)
        answers.set()
        await begin

    asyncio.run(comes_and_goes())
    eventually(lambda: not followers._followed)
    followers.close()


def test_closing_waits_for_no_ledger_that_hangs() -> None:
    """Whoever begins to follow asks it; the worker that is told to stop has its engine to stop yet."""
    asked, answers = threading.Event(), threading.Event()
    followers = following(lambda: hangs(asked, answers))
    beginning = threading.Thread(target=followers.begin)
    beginning.start()
    assert asked.wait(60)
    closing = threading.Thread(target=followers.close)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    answers.set()
    beginning.join(60)
    closing.join(60)
    assert followers._thread is None


def test_who_looked_before_the_stream_was_begun_to_be_read_is_told_where_that_was() -> None:
    """Two begin at one moment: what came between their looks is read by nobody, so both have to look it up."""
    first_asked, first_answers = threading.Event(), threading.Event()

    def newest() -> str:
        if not first_asked.is_set():
            first_asked.set()
            assert first_answers.wait(60)
            return "9-0"
        return "10-0"

    followers = following(newest)
    followers._by_id["r"] = set()
    told: list[str] = []
    first = threading.Thread(target=lambda: told.append(followers.begin()))
    first.start()
    assert first_asked.wait(60)
    assert followers.begin() == "10-0"
    first_answers.set()
    first.join(60)
    assert told == ["10-0"]
    followers.close()
