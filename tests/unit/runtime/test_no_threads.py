"""The system starts no thread for a while (a limit on processes): work is done all the same, and nothing waits for one.

Whoever had noted a thread that was never started would have waited for it as long as the process lived.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.doors.celery.consumer import refuse
from bridge.doors.celery.consumer.refuse import Refusals
from bridge.doors.http.api.following.followers import Followers
from bridge.engine.calls.threads import Callers
from bridge.runpod.client import Told
from bridge.runtime.look import Look
from bridge.runtime.queue_thread import QueueThread
from tests.support.helpers import eventually

NoThreads = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> NoThreads:
    """While it lasts none is started."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    @contextmanager
    def lasting() -> Iterator[None]:
        with monkeypatch.context() as none:
            none.setattr(threading.Thread, "start", start)
            yield

    return lasting


def test_what_is_queued_is_worked_off_here_and_later_by_its_thread(no_threads: NoThreads) -> None:
    """In its order, with what it leads to."""
    worked: list[tuple[str, str]] = []

    def work(items: list[str]) -> None:
        for item in items:
            worked.append((item, threading.current_thread().name))
            if item == "a":
                background.put("what a leads to")

    background = QueueThread("test-queue", work)
    with no_threads():
        background.put("a")
        background.put("b")
    here = threading.current_thread().name
    assert worked == [("a", here), ("what a leads to", here), ("b", here)]
    background.put("c")
    eventually(lambda: worked[3:] == [("c", "test-queue")])


def test_a_look_that_could_not_begin_is_not_waited_for(no_threads: NoThreads) -> None:
    """Whoever asks next looks anew."""
    look = Look(lambda: "there", 5.0)
    with no_threads(), pytest.raises(RuntimeError):
        look.begin()
    assert look.found() == "there"


def test_calls_are_made_and_their_turns_given_back(no_threads: NoThreads) -> None:
    """A turn that nobody gave back would be missing for ever."""
    made: queue.SimpleQueue[str] = queue.SimpleQueue()
    callers = Callers("test", 2)
    with no_threads():
        for _ in range(4):
            callers.start(made.put, "here")
    assert (made.qsize(), callers.busy) == (4, 0)
    callers.start(made.put, "in a thread")
    eventually(lambda: (made.qsize(), callers.busy) == (5, 0))


def test_what_a_fault_leads_to_is_done(no_threads: NoThreads) -> None:
    """By the thread that has read the answer, where there is no other; also while the threads end."""
    told: list[Told] = []
    fault = Told(None, RuntimeError("of a call"))

    def leave(then: Callable[[Told], None]) -> bool:
        then(fault)
        return True

    callers = Callers("test", 2)
    with no_threads():
        assert callers.begin(leave, told.append)
        callers.close()
        assert callers.begin(leave, told.append)
    assert (told, callers.busy) == ([fault, fault], 0)


def test_threads_that_there_are_take_what_no_new_one_can(no_threads: NoThreads) -> None:
    """Nobody who hands a call on makes it himself then."""
    goes_on, names = threading.Event(), queue.SimpleQueue[str]()

    def call() -> None:
        assert goes_on.wait(60)
        names.put(threading.current_thread().name)

    callers = Callers("test", 2)
    callers.start(call)
    with no_threads():
        callers.start(call)
    goes_on.set()
    assert [names.get(timeout=60) for _ in range(2)] == ["bridge-test-1"] * 2
    eventually(lambda: callers.busy == 0)


def test_a_letter_that_is_tried_later_is_tried_though_no_pause_can_be_begun(
    no_threads: NoThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that come after it too: they are tried with the first one's pause."""
    monkeypatch.setattr(refuse, "WAIT_MAX_S", 0.01)
    refusals, tried = Refusals(cast("Any", None)), queue.SimpleQueue[str]()
    with no_threads():
        refusals.later(lambda: tried.put("first"))
    assert tried.get(timeout=60) == "first"
    refusals.later(lambda: tried.put("second"))
    assert tried.get(timeout=60) == "second"


def test_the_event_stream_is_read_for_those_who_come_after_a_thread_was_not_started(no_threads: NoThreads) -> None:
    """The first of them was told that it cannot follow."""
    read = threading.Event()

    def wait(*_: Any, **__: Any) -> list[Any]:
        read.set()
        return []

    outbox = SimpleNamespace(newest=lambda: "0", wait=wait)
    followers = Followers(cast("Any", SimpleNamespace(outbox=outbox, phases=lambda ids: [None for _ in ids])), 10)
    with no_threads(), pytest.raises(RuntimeError):
        followers.begin()
    followers._by_id["r"] = set()
    followers.begin()
    assert read.wait(60)
    followers.close()
