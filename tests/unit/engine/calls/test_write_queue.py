"""Changes on their way to the ledger while the process ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.engine.calls import write_queue
from bridge.engine.calls.write_queue import WriteQueue
from tests.support.helpers import eventually


class Ledger:
    """Remembers what it was given."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.written: list[str] = []

    def change_many(self, many: Sequence[tuple[str, Any]]) -> list[Any]:
        """All of it is written."""
        self.written += [held for held, _ in many]
        return [SimpleNamespace(record=held) for held, _ in many]


def writes(ledger: Ledger) -> WriteQueue:
    """That begins to write."""
    made = WriteQueue(cast("Any", ledger), lambda _: None)
    made.start()
    return made


def test_a_change_that_the_last_one_brings_is_written_too() -> None:
    """The end that /runsync brought with the job id: RunPod keeps it for a minute, and stop says it was written."""
    ledger = Ledger()
    made = writes(ledger)
    begun, told_to_stop = threading.Event(), threading.Event()

    def ended(_: Any) -> None:
        begun.set()
        assert told_to_stop.wait(60)
        made.put(cast("Any", "its end"), cast("Any", None))

    made.put(cast("Any", "job id"), cast("Any", None), ended)
    assert begun.wait(60)
    clean: list[bool] = []
    stopping = threading.Thread(target=lambda: clean.append(made.stop(60)))
    stopping.start()
    eventually(lambda: made.backlog() == 1)
    told_to_stop.set()
    stopping.join(60)
    assert (ledger.written, clean) == (["job id", "its end"], [True])


def test_who_is_told_of_a_change_hears_it_though_another_who_is_told_fails() -> None:
    """The end that came with the job id is brought by the one, and the other wakes loops."""

    def fails(_: Any) -> None:
        raise RuntimeError("of whoever is told")

    ledger = Ledger()
    made = WriteQueue(cast("Any", ledger), fails)
    made.start()
    heard: list[str] = []
    made.put(cast("Any", "job id"), cast("Any", None), lambda change: heard.append(str(change.record)))
    assert made.stop(60)
    assert heard == ["job id"]


def test_who_waits_for_the_last_change_hears_that_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was written, and the thread ended, between two looks: a page of chunks must not count as lost."""
    monkeypatch.setattr(write_queue, "LOOK_S", 0.01)
    made = writes(Ledger())
    made.stop(60)

    class Ends(threading.Thread):
        """Writes its last change as it is asked whether it lives."""

        def is_alive(self) -> bool:
            made._queue.put(None)
            made._run()
            return False

    made._thread = Ends()
    change = made.write(cast("Any", "chunks"), cast("Any", None))
    assert change is not None
    assert str(change.record) == "chunks"
