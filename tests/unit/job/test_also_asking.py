"""Who of a request's senders by Celery is answered beside the first one."""

from __future__ import annotations

from typing import Any

from bridge.job.transitions.accepting import ALSO_MAX, also_asking


def asker(queue: str, number: int = 0) -> dict[str, Any]:
    """One send of a process that reads `queue`."""
    return {"reply_to": queue, "correlation_id": f"c{number}"}


def test_another_queue_is_answered_whether_or_not_the_first_sender_is() -> None:
    """Its send waits for a message there."""
    for owed in (True, False):
        assert also_asking([], asker("q2"), first="q1", owed=owed) == [asker("q2")]


def test_each_send_of_one_queue_is_answered() -> None:
    """The first sender's too: there each waits for a message of its own."""
    assert also_asking([], asker("q1"), first="q1", owed=True) == [asker("q1")]
    assert also_asking([asker("q2", 1)], asker("q2", 2), first="q1", owed=True) == [asker("q2", 1), asker("q2", 2)]


def test_who_asks_where_the_first_sender_wanted_no_answer_gets_that_one() -> None:
    """And no second."""
    assert also_asking([], asker("q1"), first="q1", owed=False) == []
    assert also_asking([asker("q2")], asker("q1"), first="q1", owed=False) == [asker("q2")]


def test_a_queue_has_so_many_answers_and_no_more() -> None:
    """Further sends there are answered by those."""
    full = [asker("q2", number) for number in range(ALSO_MAX)]
    assert also_asking(full, asker("q2", 99), first="q1", owed=True) == full
    assert also_asking(full, asker("q3"), first="q1", owed=True) == [*full, asker("q3")]


def test_so_many_queues_are_answered_and_a_further_one_is_told_that_it_is_not() -> None:
    """Those that are known, and the first sender's, still are."""
    full = [asker(f"q{number}") for number in range(ALSO_MAX)]
    assert also_asking(full, asker("new"), first="own", owed=True) is None
    assert also_asking(full, asker("q3", 1), first="own", owed=True) == [*full, asker("q3", 1)]
    assert also_asking(full, asker("own"), first="own", owed=True) == [*full, asker("own")]
