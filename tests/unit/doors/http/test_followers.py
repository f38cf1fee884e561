"""Who follows requests over HTTP, and the thread that reads for them."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

from bridge.doors.http.api.following.followers import Followers
from tests.support.helpers import eventually


def test_the_stream_is_not_read_for_one_who_has_gone_before_it_was_begun() -> None:
    """His connection ended while the ledger was asked where he is to begin; nobody else follows."""
    asked, answers = threading.Event(), threading.Event()

    def newest() -> str:
        asked.set()
        assert answers.wait(60)
        return "1-0"

    outbox = SimpleNamespace(newest=newest, wait=lambda *_, **__: [])
    followers = Followers(cast("Any", SimpleNamespace(outbox=outbox, phases=lambda ids: [None for _ in ids])), 10)

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
