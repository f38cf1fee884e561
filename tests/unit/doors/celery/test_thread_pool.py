"""What Celery's pool does where the system starts no further thread, and what follows from trying again."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kombu.message import Message

from bridge.doors.celery.consumer.consumer import BridgeConsumer
from bridge.doors.celery.worker.thread_pool import take_with_what_there_is


def no_more(_: threading.Thread) -> None:
    """As Python says it."""
    raise RuntimeError("can't start new thread")


def test_work_waits_for_the_threads_there_are_and_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor has it in its queue when it raises: whoever tried again would have it run twice."""
    ran, busy = Counter[str](), threading.Event()
    with ThreadPoolExecutor(2) as executor:
        take_with_what_there_is(executor)
        first = executor.submit(busy.wait, 60)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            executor.submit(lambda: ran.update(["waits"]))
        busy.set()
        assert first.result(60)
    assert ran == {"waits": 1}


def test_work_for_which_there_is_no_thread_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would take it: its message is held, and tried again."""
    with ThreadPoolExecutor(2) as executor:
        take_with_what_there_is(executor)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            with pytest.raises(RuntimeError, match="new thread"):
                executor.submit(print)


def test_a_message_that_is_settled_twice_does_not_end_the_worker() -> None:
    """One that was tried again, while its first try was under way after all."""
    acks: Counter[Any] = Counter()
    channel = SimpleNamespace(basic_ack=lambda tag, **_: acks.update([tag]), no_ack_consumers=None)
    message = Message(b"", delivery_tag="t1", channel=channel)
    consumer = BridgeConsumer.__new__(BridgeConsumer)
    consumer.hub = cast("Any", SimpleNamespace(call_soon=lambda call: call()))
    for _ in range(2):
        consumer.call_soon_ack(message.ack_log_error, None, ())
    assert acks == {"t1": 1}
