"""The state table, walked cell by cell: what may move moves as written, and nothing else moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.job.change import Change, Rules
from bridge.job.clocks import submit_score
from bridge.job.document import Held, document
from bridge.job.enums import Phase, Sink, Status, Wish
from bridge.job.observation import Observation
from bridge.job.record import Long, Record, difference, from_row
from bridge.job.state_table import TABLE
from bridge.job.transitions import Table
from bridge.job.transitions.watching import Purge

NOW = 1_800_000_000_000
TOKEN = "lease-of-mine"
TABLE_OF = Table(Rules())

BASE = Record(
    id="r1",
    endpoint="demo",
    endpoint_id="demo",
    door="celery",
    accepted_at=NOW - 60_000,
    sinks="celery",
    nonce="n",
    lease=TOKEN,
    lease_until=NOW + 30_000,
    ttl_ms=86_400_000,
)


def in_phase(phase: Phase, **more: object) -> Held:
    """A plausible record of each phase."""
    seen = {"job_id": "j1", "submitted_at": NOW - 50_000, "observed_at": NOW - 1_000, "submits": 1}
    values: dict[Phase, dict[str, object]] = {
        Phase.ACCEPTED: {},
        Phase.SUBMITTING: {"sent_at": NOW - 100, "submits": 1},
        Phase.UNANSWERED: {"sent_at": NOW - 31_000, "submits": 1, "grace_until": NOW - 1, "lease": ""},
        Phase.TRACKED: {**seen, "status": "IN_PROGRESS"},
        Phase.RETRYING: {**seen, "status": "FAILED", "reason": "handler_error"},
        Phase.SETTLED: {**seen, "status": "FAILED", "reason": "handler_error", "ended_at": NOW - 10},
        Phase.CLOSED: {**seen, "status": "FAILED", "reason": "handler_error", "ended_at": NOW - 10, "sinks": ""},
    }
    record = replace(BASE, phase=phase, **{**values[phase], **more})  # type: ignore[arg-type]
    return Held(record, {Long.INPUT: '{"a":1}', Long.CANVAS: "{}"})


def heard(status: str, **more: object) -> Observation:
    """One observation of the current job."""
    return Observation(**{"job_id": "j1", "status": status, "attempt": 1, **more})  # type: ignore[arg-type]


EVENTS: dict[str, Callable[[Held], Change]] = {
    "sending": lambda h: TABLE_OF.sending(h, NOW, TOKEN, endpoint_id="demo", base_url="http://x"),
    "submitted": lambda h: TABLE_OF.submitted(h, NOW, "j9", "IN_QUEUE", poll_ms=500),
    "refused": lambda h: TABLE_OF.refused(h, NOW, "no"),
    "deferred": lambda h: TABLE_OF.deferred(h, NOW),
    "doubted": lambda h: TABLE_OF.doubted(h, NOW),
    "unanswered": lambda h: TABLE_OF.unanswered(h, NOW, seen=True),
    "grace_ended": lambda h: TABLE_OF.grace_ended(h, NOW),
    "cancel": lambda h: TABLE_OF.wish(h, NOW, Wish.CANCEL, by="me", door="celery"),
    "deadline": lambda h: TABLE_OF.wish(h, NOW, Wish.TIMEOUT),
    "purge": lambda h: TABLE_OF.purge_pending(h, NOW),
    "observed": lambda h: TABLE_OF.observed(h, NOW, heard("COMPLETED", output="1"), poll_ms=500),
    "gone": lambda h: TABLE_OF.gone(
        h._replace(record=replace(h.record, gone_at=NOW - 31_000)),
        NOW,
        "j1",
        1,
        endpoint_ok_at=NOW - 5,
        purge=Purge(),
        poll_ms=1,
    ),
    "retry_sending": lambda h: TABLE_OF.retry_sending(h, NOW, TOKEN),
    "retry_answered": lambda h: TABLE_OF.retry_answered(h, NOW, poll_ms=500),
    "retry_refused": lambda h: TABLE_OF.retry_refused(h, NOW),
    "retry_unanswered": lambda h: TABLE_OF.retry_unanswered(h, NOW),
    "stream": lambda h: TABLE_OF.stream_read(h, NOW, [("word", None)], reader="r", again_ms=None, lost=False),
    "delivered": lambda h: TABLE_OF.delivered(h, NOW, Sink.CELERY, round_=1),
    "retry": lambda h: TABLE_OF.ask_retry(h, NOW, "n2", by="me"),
}


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(EVENTS))
def test_each_cell_moves_as_the_table_says_and_no_other_moves(phase: Phase, event: str) -> None:
    """A change of phase is one the table lists; a cell it does not list changes no phase."""
    change = EVENTS[event](in_phase(phase))
    allowed = TABLE.get((phase, event))
    if allowed is None:
        assert change.record.phase is phase
    elif not change.empty:
        assert change.record.phase in allowed
    if change.empty:
        assert not change.events
    put, drop = difference(None, change.record)
    row = dict(zip(put[::2], put[1::2], strict=True))
    assert not set(row) & set(drop)
    assert from_row(change.record.id, row) == change.record, "what is written can be read"


def test_every_cell_of_the_table_can_be_reached() -> None:
    """No line of the table is dead: each listed cell has an event here that moves or rewrites the record."""
    for phase, event in TABLE:
        if event == "finish" or (phase, event) in {(Phase.SETTLED, "observed"), (Phase.SETTLED, "submitted")}:
            continue  # told apart below: only LOST may still become a real end
        if (phase, event) in {(Phase.ACCEPTED, "submitted"), (Phase.RETRYING, "observed")}:
            continue  # late news and an unsent /retry have tests of their own
        assert not EVENTS[event](in_phase(phase)).empty, (phase, event)


def test_an_end_is_written_once() -> None:
    """I4: after the end no news changes anything."""
    ended = TABLE_OF.observed(in_phase(Phase.TRACKED), NOW, heard("COMPLETED", output="1"), poll_ms=1).after
    for status in ("IN_QUEUE", "IN_PROGRESS", "FAILED", "CANCELLED", "COMPLETED", "PECULIAR"):
        assert TABLE_OF.observed(ended, NOW + 5, heard(status), poll_ms=1).empty


def test_completed_wins_over_any_wish() -> None:
    """A job that completes while it is being cancelled keeps its result."""
    wished = TABLE_OF.wish(in_phase(Phase.TRACKED), NOW, Wish.CANCEL).after
    change = TABLE_OF.observed(wished, NOW, heard("COMPLETED", output="42"), poll_ms=1)
    assert (change.record.status, change.output) == ("COMPLETED", "42")


@pytest.mark.parametrize(
    ("wish", "status", "reason"),
    [
        (Wish.CANCEL, "CANCELLED", "cancelled"),
        (Wish.TIMEOUT, "TIMED_OUT", "timeout"),
        (Wish.QUEUE_TIMEOUT, "TIMED_OUT", "queue_timeout"),
    ],
)
def test_a_wishes_cause_decides_the_end(wish: Wish, status: str, reason: str) -> None:
    """RunPod says CANCELLED both times; the caller hears why."""
    wished = TABLE_OF.wish(in_phase(Phase.TRACKED), NOW, wish).after
    change = TABLE_OF.observed(wished, NOW, heard("CANCELLED"), poll_ms=1)
    assert (change.record.status, change.record.reason) == (status, reason)


def test_the_first_wish_wins() -> None:
    """A deadline after a cancel changes nothing."""
    wished = TABLE_OF.wish(in_phase(Phase.SUBMITTING), NOW, Wish.CANCEL).after
    again = TABLE_OF.wish(wished, NOW, Wish.TIMEOUT)
    assert again.verdict == "requested"
    assert again.record.wish == Wish.CANCEL


def test_an_accepted_request_is_cancelled_for_nothing() -> None:
    """Nothing has left: the cancel ends it at once, and says who did it."""
    change = TABLE_OF.wish(in_phase(Phase.ACCEPTED), NOW, Wish.CANCEL, by="ann", door="cli")
    assert change.verdict == "cancelled"
    assert '"by":"ann"' in change.events[0].body


def test_no_intent_is_carried_out_with_a_stale_lease() -> None:
    """Fencing: an engine that has lost its lease sends nothing."""
    stale = replace(in_phase(Phase.ACCEPTED).record, lease_until=NOW - 1)
    assert TABLE_OF.sending(Held(stale, {}), NOW, TOKEN, endpoint_id="d", base_url="u").empty
    stale = replace(in_phase(Phase.RETRYING).record, lease="somebody-else")
    assert TABLE_OF.retry_sending(Held(stale, {}), NOW, TOKEN).empty


def test_a_job_id_is_never_refused() -> None:
    """HARDENING 3: whoever brings it, however late, the job is known, watched or cancelled."""
    for phase in Phase:
        change = TABLE_OF.submitted(in_phase(phase), NOW, "late-job", "IN_QUEUE", poll_ms=1)
        known = change.record.job_id == "late-job" or "late-job" in change.after.long.get(Long.JOBS, "")
        assert known or change.orphans, phase


def test_a_cancelled_request_is_not_submitted_again() -> None:
    """An unanswered submit with a wish ends by the wish, and says that the job may run."""
    wished = TABLE_OF.wish(in_phase(Phase.UNANSWERED), NOW, Wish.CANCEL).after
    change = TABLE_OF.grace_ended(wished, NOW)
    assert (change.record.status, change.record.may_run) == ("CANCELLED", 1)


def test_at_most_once_never_submits_again() -> None:
    """Its unanswered submit ends LOST; at_least_once waits again, marked, and only so many times."""
    once = in_phase(Phase.UNANSWERED, delivery="at_most_once")
    assert TABLE_OF.grace_ended(once, NOW).record.status == "LOST"
    again = TABLE_OF.grace_ended(in_phase(Phase.UNANSWERED), NOW).record
    assert (again.phase, again.possible_duplicate) == (Phase.ACCEPTED, 1)
    worn = TABLE_OF.grace_ended(in_phase(Phase.UNANSWERED, submits=2), NOW).record
    assert (worn.status, worn.reason) == ("LOST", "unanswered")


def test_one_404_is_no_loss() -> None:
    """Two, 30 s apart, with a success of the endpoint between them."""
    tracked = in_phase(Phase.TRACKED)
    first = TABLE_OF.gone(tracked, NOW, "j1", 1, endpoint_ok_at=NOW, purge=Purge(), poll_ms=1)
    assert first.record.phase is Phase.TRACKED
    soon = TABLE_OF.gone(first.after, NOW + 29_000, "j1", 1, endpoint_ok_at=NOW + 28_000, purge=Purge(), poll_ms=1)
    assert soon.record.phase is Phase.TRACKED
    alone = TABLE_OF.gone(first.after, NOW + 31_000, "j1", 1, endpoint_ok_at=NOW - 1, purge=Purge(), poll_ms=1)
    assert alone.record.phase is Phase.TRACKED
    sure = TABLE_OF.gone(first.after, NOW + 31_000, "j1", 1, endpoint_ok_at=NOW + 5, purge=Purge(), poll_ms=1)
    assert (sure.record.status, sure.record.reason) == ("LOST", "vanished")


def test_a_404_says_why() -> None:
    """After the ttl: timed out. After the retention: expired. After our purge, from the queue: cancelled."""

    def reason(**more: object) -> tuple[str, str]:
        purged_at = int(more.pop("purged_at", 0))  # type: ignore[call-overload]
        held = in_phase(Phase.TRACKED, gone_at=NOW - 40_000, **more)
        record = TABLE_OF.gone(held, NOW, "j1", 1, endpoint_ok_at=NOW, purge=Purge(purged_at), poll_ms=1).record
        return record.status, record.reason

    assert reason(ttl_ms=10_000) == ("TIMED_OUT", "ttl_expired")
    assert reason(observed_at=NOW - 40 * 60_000, submitted_at=NOW - 50 * 60_000) == ("LOST", "result_expired")
    assert reason(status="IN_QUEUE", purged_at=NOW) == ("CANCELLED", "purged")
    assert reason(wish="cancel") == ("CANCELLED", "cancelled")


def test_failed_with_retries_left_is_no_end() -> None:
    """No end event, no finish: `retried`, and RunPod's /retry is due."""
    change = TABLE_OF.observed(in_phase(Phase.TRACKED, retries_left=1), NOW, heard("FAILED", error="boom"), poll_ms=1)
    assert (change.record.phase, change.record.retries_left) == (Phase.RETRYING, 0)
    assert [event.name.value for event in change.events] == ["retried"]


def test_an_execution_timeout_is_retried_only_if_named() -> None:
    """It would most likely time out again."""
    tracked = in_phase(Phase.TRACKED, retries_left=1)
    end = heard("FAILED", error="executionTimeout exceeded")
    change = TABLE_OF.observed(tracked, NOW, end, poll_ms=1)
    assert (change.record.phase, change.record.reason) == (Phase.SETTLED, "execution_timeout")
    named = Held(tracked.record, {Long.ARGUMENTS: '{"retry_on":["execution_timeout"]}'})
    assert TABLE_OF.observed(named, NOW, end, poll_ms=1).record.phase is Phase.RETRYING


def test_an_observation_of_an_earlier_attempt_is_dropped() -> None:
    """A status read that started before the last /retry answer tells of the attempt before it."""
    held = in_phase(Phase.TRACKED, attempt=2)
    assert TABLE_OF.observed(held, NOW, heard("FAILED", error="old"), poll_ms=1).record.phase is Phase.TRACKED


def test_the_first_to_complete_of_two_jobs_gives_the_result() -> None:
    """The other is cancelled and counted; a failure ends nothing while another job lives."""
    two = TABLE_OF.submitted(in_phase(Phase.TRACKED), NOW, "j2", "IN_QUEUE", poll_ms=1).after
    failed = TABLE_OF.observed(two, NOW, heard("FAILED", error="x"), poll_ms=1)
    assert failed.record.phase is Phase.TRACKED
    assert failed.record.job_id == "j2"
    won = TABLE_OF.observed(two, NOW, heard("COMPLETED", job_id="j2", output="7"), poll_ms=1)
    assert (won.record.status, won.record.job_id, won.output) == ("COMPLETED", "j2", "7")
    assert [orphan.job_id for orphan in won.orphans] == ["j1"]


def test_a_retry_is_asked_only_after_everybody_was_told() -> None:
    """Never from SETTLED; a new round with a nonce of its own from CLOSED; never of a success."""
    assert TABLE_OF.ask_retry(in_phase(Phase.SETTLED), NOW, "n2").verdict == "try_again"
    again = TABLE_OF.ask_retry(in_phase(Phase.CLOSED), NOW, "n2").record
    assert (again.phase, again.round, again.nonce, again.sinks) == (Phase.RETRYING, 2, "n2", "celery")
    done = in_phase(Phase.CLOSED, status="COMPLETED")
    assert TABLE_OF.ask_retry(done, NOW, "n2").verdict == "not_retryable"


def test_only_one_finish_has_the_turn() -> None:
    """A copy, a forged nonce and another round are turned away; the holder is let in again."""
    settled = in_phase(Phase.SETTLED)
    mine = TABLE_OF.finish_begin(settled, NOW, round_=1, nonce="n", turn="t1", turn_ms=60_000)
    assert mine.verdict == "turn"
    assert (
        TABLE_OF.finish_begin(mine.after, NOW, round_=1, nonce="n", turn="t2", turn_ms=1).verdict
        == "somebody_elses_turn"
    )
    assert TABLE_OF.finish_begin(mine.after, NOW, round_=1, nonce="n", turn="t1", turn_ms=1).verdict == "turn"
    for round_, nonce in ((2, "n"), (1, "forged")):
        assert TABLE_OF.finish_begin(settled, NOW, round_=round_, nonce=nonce, turn="t", turn_ms=1).empty


def test_lost_may_still_be_found_until_somebody_was_told() -> None:
    """A real end replaces LOST; after `continued` it is only counted."""
    lost = in_phase(Phase.SETTLED, status=Status.LOST.value, reason="vanished")
    assert TABLE_OF.observed(lost, NOW, heard("COMPLETED", output="1"), poll_ms=1).record.status == "COMPLETED"
    told = in_phase(Phase.SETTLED, status=Status.LOST.value, continued=1)
    assert TABLE_OF.observed(told, NOW, heard("COMPLETED", output="1"), poll_ms=1).empty


def test_every_record_that_needs_work_has_a_due_time_or_a_lease() -> None:
    """I5, over every cell: nothing is left lying."""
    for phase in Phase:
        for event, make in EVENTS.items():
            record = make(in_phase(phase)).record
            if record.phase in {Phase.CLOSED, Phase.UNANSWERED} or event == "finish":
                continue
            assert record.due or record.lease or record.turn or not record.waiting_sinks, (phase, event)


def test_a_deadline_is_acted_on_only_after_a_younger_read() -> None:
    """The job may have ended while nobody looked."""
    old = in_phase(Phase.TRACKED, deadline=NOW - 10, observed_at=NOW - 5_000, lease="", lease_until=0, due="poll")
    assert TABLE_OF.tick(old, NOW).record.wish == ""
    fresh = in_phase(Phase.TRACKED, deadline=NOW - 10, observed_at=NOW - 5, lease="", lease_until=0, due="poll")
    assert TABLE_OF.tick(fresh, NOW).record.wish == Wish.TIMEOUT


def test_the_read_that_a_deadline_waited_for_acts_on_it() -> None:
    """However close the reads stand: a clock that is put off by each of them would never be heard."""
    held = in_phase(Phase.TRACKED, deadline=NOW - 10, observed_at=NOW - 50, status="IN_PROGRESS")
    change = TABLE_OF.observed(held, NOW, heard("IN_PROGRESS"), poll_ms=50)
    assert (change.record.wish, change.record.due) == (Wish.TIMEOUT, "cancel")


def test_a_job_whose_cancel_has_to_wait_is_looked_at() -> None:
    """It may end by itself while RunPod takes no /cancel."""
    held = in_phase(Phase.TRACKED, wish="cancel", observed_at=NOW - 31_000, lease="", lease_until=0, due="cancel")
    change = TABLE_OF.tick(held, NOW)
    assert change.record.due == "poll"
    heard_still = TABLE_OF.observed(change.after, NOW, heard("IN_PROGRESS"), poll_ms=1_000)
    assert (heard_still.record.due, heard_still.record.timer) == ("cancel", NOW + 30_000)


def test_a_job_that_vanished_while_the_queue_was_purged_counts_as_purged() -> None:
    """An answer that was under way is written after the purge: two 404s, and it is CANCELLED, not LOST."""
    held = in_phase(Phase.TRACKED, status="IN_QUEUE", observed_at=NOW, submitted_at=NOW - 60_000)
    first = TABLE_OF.gone(held, NOW + 1, "j1", 1, endpoint_ok_at=NOW, purge=Purge(NOW - 5), poll_ms=1)
    assert first.verdict == "missed"
    later = NOW + 31_000
    last = TABLE_OF.gone(first.after, later, "j1", 1, endpoint_ok_at=later, purge=Purge(NOW - 5), poll_ms=1)
    assert (last.record.status, last.record.reason) == ("CANCELLED", "purged")


def test_a_purge_is_told_as_its_own_also_where_a_read_comes_before_the_purge_has_looked() -> None:
    """What the record says of it goes before what the endpoint does: that may be another one's, later."""
    purge = Purge(NOW, "ann", "cli")
    held = in_phase(Phase.TRACKED, status="IN_QUEUE", submitted_at=NOW - 60_000)
    end = TABLE_OF.gone(held, NOW + 1, "j1", 1, endpoint_ok_at=NOW, purge=purge, poll_ms=1)
    assert '"by":"ann","door":"cli"' in end.events[-1].body
    looked = TABLE_OF.purge_look(held, NOW, by="bob", door="http").after
    end = TABLE_OF.gone(looked, NOW + 1, "j1", 1, endpoint_ok_at=NOW, purge=purge, poll_ms=1)
    assert '"by":"bob","door":"http"' in end.events[-1].body


def test_a_purge_that_meets_a_submit_counts_soon() -> None:
    """Its answer is looked at at once; two 404s a second apart are enough, and one is not."""
    under_way = TABLE_OF.purge_look(in_phase(Phase.SUBMITTING, sent_at=NOW - 100), NOW, by="ann", door="celery")
    assert under_way.record.phase is Phase.SUBMITTING
    submitted = TABLE_OF.submitted(under_way.after, NOW + 50, "j1", "IN_QUEUE", poll_ms=5_000)
    assert (submitted.record.due, submitted.delay_ms) == ("poll", 0)
    first = TABLE_OF.gone(submitted.after, NOW + 60, "j1", 1, endpoint_ok_at=NOW + 50, purge=Purge(NOW), poll_ms=1)
    assert (first.verdict, first.delay_ms) == ("missed", 1_000)
    last = TABLE_OF.gone(first.after, NOW + 1_060, "j1", 1, endpoint_ok_at=NOW + 50, purge=Purge(NOW), poll_ms=1)
    assert (last.record.status, last.record.reason) == ("CANCELLED", "purged")
    assert '"by":"ann"' in last.events[-1].body
    seen = TABLE_OF.observed(submitted.after, NOW + 70, heard("IN_QUEUE"), poll_ms=1)
    again = TABLE_OF.gone(seen.after, NOW + 80, "j1", 1, endpoint_ok_at=NOW + 70, purge=Purge(NOW), poll_ms=1)
    assert again.delay_ms == 30_000  # it outlived the purge


def test_answers_that_cannot_be_read_are_told_and_then_the_job_is_given_up() -> None:
    """Only beside answers to others; by a wish as wished; not at the edge of retention by the first of them alone."""

    def unread(held: Held, at: int, ok_at: int = 2 * NOW) -> Change:
        return TABLE_OF.unread(held, at, "j1", 1, why="no JSON", endpoint_ok_at=ok_at, delay_ms=250)

    tracked = in_phase(Phase.TRACKED)
    first = unread(tracked, NOW)
    assert (first.verdict, first.delay_ms) == ("missed", 250)
    alone = unread(first.after, NOW + 60_000, ok_at=NOW)
    assert not alone.record.unread_told  # nobody is answered: RunPod is in trouble, not the job
    told = unread(first.after, NOW + 60_000)
    assert (told.verdict, told.record.unread_told, told.delay_ms) == ("unreadable", 1, 15_000)
    assert (
        TABLE_OF.unread(told.after, NOW + 90_000, "j1", 1, why="x", endpoint_ok_at=2 * NOW, delay_ms=1).empty is False
    )
    read = TABLE_OF.observed(told.after, NOW + 90_000, heard("IN_PROGRESS"), poll_ms=1)
    assert (read.record.unread_since, read.record.unread_told, Long.UNREAD in read.after.long) == (0, 0, False)
    edge = NOW + 20 * 60_000
    assert unread(tracked, edge).record.phase is Phase.TRACKED
    assert unread(told.after, edge, ok_at=NOW).record.phase is Phase.TRACKED
    lost = unread(told.after, edge)
    assert (lost.record.status, lost.record.reason, lost.record.may_run) == ("LOST", "unreadable", 1)
    wished = unread(told.after._replace(record=replace(told.record, wish="cancel")), edge)
    assert (wished.record.status, wished.record.may_run) == ("CANCELLED", 1)
    both = [{"job_id": j, "endpoint_id": "demo", "attempt": 1, "status": "IN_PROGRESS"} for j in ("j1", "j2")]
    other = unread(Held(told.record, {**told.after.long, Long.JOBS: json.dumps(both)}), edge)
    assert (other.record.phase, other.record.job_id, other.record.unread_told) == (Phase.TRACKED, "j2", 0)
    found = TABLE_OF.observed(lost.after, edge + 1, heard("COMPLETED", output="1"), poll_ms=1)
    assert (found.record.status, found.record.unread_told, found.record.may_run) == ("COMPLETED", 0, 0)


def test_times_longer_than_since_the_submit_are_not_booked() -> None:
    """Also an epoch in milliseconds; a plausible one is, and a first poll's is not taken for the end's."""
    tracked = in_phase(Phase.TRACKED, sent_at=NOW - 50_000, execution_time=7)
    for ms in (60_000, NOW, 2**53):
        change = TABLE_OF.observed(tracked, NOW, heard("COMPLETED", output="1", execution_time=ms), poll_ms=1)
        assert (change.gpu_ms, change.record.execution_time, change.record.left_out) == (0, -1, "executionTime")
        assert change.output == "1"
    fine = TABLE_OF.observed(tracked, NOW, heard("COMPLETED", output="1", execution_time=50_100), poll_ms=1)
    assert (fine.gpu_ms, fine.record.left_out) == (50_100, "")


def test_a_stuck_job_ends_lost_with_its_last_output() -> None:
    """runpod-python#250: a late progress update leaves it IN_PROGRESS with an executionTime for good."""
    held = in_phase(Phase.TRACKED, execution_time=77, stuck_since=NOW - 11 * 60_000)
    change = TABLE_OF.observed(held, NOW, heard("IN_PROGRESS", execution_time=77, output='{"step":9}'), poll_ms=1)
    assert (change.record.status, change.record.reason, change.output) == ("LOST", "stuck", '{"step":9}')


def test_who_sends_a_request_again_from_elsewhere_hears_the_rest_too() -> None:
    """Each sender once, by its own list of events, up to a bound; nothing is added to an end."""
    table = Table(Rules())
    first = {"to": "a", "on": ["end"], "via": "redis", "correlation_id": "1"}
    held = Held(Record(id="r", endpoint="demo", phase=Phase.ACCEPTED), {Long.REPLY: json.dumps(first)})
    again = {"to": "b", "on": ["end"], "via": "amqp", "correlation_id": "2"}
    assert table.also_reply(held, 1_000, first).verdict == "known"
    noted = table.also_reply(held, 1_000, again)
    assert (noted.verdict, list(noted.record.waiting_sinks)) == ("noted", [Sink.REPLY])
    assert table.also_reply(noted.after, 1_000, again).verdict == "known"
    ended = table.wish(noted.after, 2_000, Wish.CANCEL, by=None, door="amqp")
    (event,) = ended.events
    assert [reply["to"] for reply in event.replies] == ["a", "b"]
    assert ended.record.phase is Phase.SETTLED  # until the broker has confirmed the second reply
    assert table.also_reply(ended.after, 3_000, {**again, "to": "c"}).verdict == "ended"
    full = noted.after
    for n in range(20):
        full = table.also_reply(full, 1_000, {**again, "to": f"q{n}"}).after
    assert len(json.loads(full.long[Long.REPLY])["also"]) == 8


def told(change: Change) -> list[tuple[str, str, int]]:
    """What a change tells: name, status in its data, sequence."""
    found = [(event.name.value, json.loads(event.body)) for event in change.events]
    return [(name, body["data"]["status"], int(body["sequence"])) for name, body in found]


def queued(**more: object) -> Held:
    """A job that was last seen in RunPod's queue."""
    return in_phase(Phase.TRACKED, status="IN_QUEUE", sequence=3, **more)


@pytest.mark.parametrize(
    ("end", "name"),
    [
        ({"status": "COMPLETED", "output": "1"}, "completed"),
        ({"status": "FAILED", "error": "boom"}, "failed"),
        ({"status": "TIMED_OUT"}, "timed_out"),
        ({"status": "CANCELLED"}, "cancelled"),
    ],
)
def test_a_job_that_ran_between_two_looks_is_told_started_first(end: dict[str, str], name: str) -> None:
    """In the change that tells its end (I3: without a gap), with RunPod's own times."""
    change = TABLE_OF.observed(queued(), NOW, heard(delay_time=9_000, execution_time=2_500, **end), poll_ms=1)
    assert told(change) == [("started", "IN_PROGRESS", 4), (name, end["status"], 5)]
    started, ended = (json.loads(event.body)["data"] for event in change.events)
    assert started["phase"] == "TRACKED"
    assert (started["started_at"], ended["started"]) == (ended["started_at"], True)
    assert change.record.started_at == NOW - 50_000 + 9_000
    late = TABLE_OF.observed(queued(), NOW, heard(delay_time=49_000, execution_time=2_500, **end), poll_ms=1)
    assert late.record.started_at == NOW - 2_500  # it cannot have begun later than that


def test_what_never_ran_is_not_told_as_started() -> None:
    """Out of the queue: RunPod gives it no executionTime."""
    for status, name in (("CANCELLED", "cancelled"), ("TIMED_OUT", "timed_out")):
        change = TABLE_OF.observed(queued(), NOW, heard(status), poll_ms=1)
        assert told(change) == [(name, status, 4)]
        assert json.loads(change.events[0].body)["data"]["started"] is False
    assert TABLE_OF.observed(queued(), NOW, heard("TIMED_OUT"), poll_ms=1).record.reason == "ttl_expired"


def test_started_is_told_once_for_each_attempt() -> None:
    """Seen running, it is not told again at the end; a retry begins anew."""
    running = TABLE_OF.observed(queued(), NOW, heard("IN_PROGRESS", delay_time=20_000), poll_ms=1)
    assert running.record.started_at == NOW - 30_000
    ended = TABLE_OF.observed(running.after, NOW, heard("COMPLETED", execution_time=5, output="1"), poll_ms=1)
    assert [name for name, _, _ in told(ended)] == ["completed"]
    failed = TABLE_OF.observed(queued(retries_left=1), NOW, heard("FAILED", execution_time=5, error="x"), poll_ms=1)
    assert told(failed) == [("started", "IN_PROGRESS", 4), ("retried", "FAILED", 5)]
    again = TABLE_OF.retry_answered(failed.after, NOW, poll_ms=1).after
    second = heard("COMPLETED", attempt=2, delay_time=70_000, execution_time=7, output="1")
    ended = TABLE_OF.observed(again, NOW + 20, second, poll_ms=1)
    assert [name for name, _, _ in told(ended)] == ["started", "completed"]
    assert ended.record.started_at == NOW + 13


def test_a_chunk_of_a_job_in_the_queue_says_that_it_runs() -> None:
    """Nobody has looked since it began: `started` comes before its first chunk, and only once."""
    held = queued(stream=1, reading="r", due="poll", lease="")
    first = TABLE_OF.stream_read(held, NOW, [("a", None), ("b", None)], reader="r", again_ms=10, lost=False)
    assert told(first) == [("started", "IN_PROGRESS", 4), ("chunk", "IN_PROGRESS", 5), ("chunk", "IN_PROGRESS", 6)]
    assert (first.record.status, first.record.started_at) == ("IN_PROGRESS", NOW)
    held = Held(replace(first.record, reading="r"), first.after.long)
    more = TABLE_OF.stream_read(held, NOW, [("c", None)], reader="r", again_ms=10, lost=False)
    assert told(more) == [("chunk", "IN_PROGRESS", 7)]
    assert not TABLE_OF.observed(more.after, NOW, heard("IN_PROGRESS"), poll_ms=1).events
    by_sync = in_phase(Phase.TRACKED, submitted_at=NOW - 5, sequence=3)  # the submit's answer said IN_PROGRESS
    assert told(TABLE_OF.observed(by_sync, NOW, heard("IN_PROGRESS"), poll_ms=1)) == [("started", "IN_PROGRESS", 4)]
    stale = queued(stream=1, reading="another", attempt=2)
    late = TABLE_OF.stream_read(stale, NOW, [("z", None)], reader="r", again_ms=10, lost=False)
    assert told(late) == [("chunk", "IN_QUEUE", 4)]  # of the attempt before, as far as anybody knows


def test_each_event_of_a_change_tells_its_own_step() -> None:
    """A request that is born cancelled was accepted first."""
    record = Record(id="r", endpoint="demo", door="amqp", fingerprint="f")
    born = TABLE_OF.accept(Held(record, {}), NOW, {"by": "ann", "door": "cli"})
    assert told(born) == [("accepted", "ACCEPTED", 1), ("cancelled", "CANCELLED", 2)]
    assert json.loads(born.events[0].body)["data"]["phase"] == "ACCEPTED"


def test_the_end_of_the_chunks_says_whether_all_of_them_are_there() -> None:
    """I13: who follows them alone hears of a hole too."""
    held = in_phase(Phase.TRACKED, stream=1, stream_done=1, stream_incomplete=1, chunks=1)
    end = json.loads(TABLE_OF.observed(held, NOW, heard("FAILED", error="x"), poll_ms=1).chunks[-1])
    assert (end["end"], end["stream_incomplete"]) == (True, "possible")
    whole = in_phase(Phase.TRACKED, stream=1, stream_done=1, chunks=1)
    end = json.loads(TABLE_OF.observed(whole, NOW, heard("FAILED", error="x"), poll_ms=1).chunks[-1])
    assert end == {"end": True, "status": "FAILED", "reason": "handler_error", "chunks": 1}


NEWS = st.lists(
    st.one_of(
        st.tuples(
            st.just("heard"),
            st.sampled_from(["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED", "PECULIAR"]),
            st.sampled_from([None, 0, 5, 7]),
        ),
        st.tuples(st.just("chunks"), st.integers(0, 2), st.booleans()),
        st.tuples(st.sampled_from(["cancel", "retry_sending", "retry_answered", "retry_unanswered"])),
    ),
    max_size=12,
)


@given(NEWS, st.integers(0, 2), st.booleans())
def test_whatever_comes_in_whatever_order_the_events_tell_one_way(
    news: list[tuple[Any, ...]], retries: int, streams: bool
) -> None:
    """I3: numbered without a gap; each attempt starts once at most, before its chunks and its COMPLETED; one end."""
    held = queued(retries_left=retries, stream=int(streams), reading="r", due="poll", sinks="")
    events: list[tuple[str, str, int, int]] = []
    for n, (what, *rest) in enumerate(news):
        now = NOW + 20_000 * n
        held = Held(replace(held.record, reading="r", lease=TOKEN, lease_until=now + 1), held.long, held.output)
        changes: dict[str, Callable[[], Change]] = {
            "heard": lambda held=held, now=now, rest=rest: TABLE_OF.observed(  # type: ignore[misc]
                held,
                now,
                heard(rest[0], attempt=held.record.attempt, execution_time=rest[1], chunks=("c",) * held.record.chunks),
                poll_ms=1,
            ),
            "chunks": lambda held=held, now=now, rest=rest: TABLE_OF.stream_read(  # type: ignore[misc]
                held, now, [("c", None)] * rest[0], reader="r", again_ms=None if rest[1] else 1, lost=False
            ),
            "cancel": lambda held=held, now=now: TABLE_OF.wish(held, now, Wish.CANCEL),  # type: ignore[misc]
            "retry_sending": lambda held=held, now=now: TABLE_OF.retry_sending(held, now, TOKEN),  # type: ignore[misc]
            "retry_answered": lambda held=held, now=now: TABLE_OF.retry_answered(held, now, poll_ms=1),  # type: ignore[misc]
            "retry_unanswered": lambda held=held, now=now: TABLE_OF.retry_unanswered(held, now),  # type: ignore[misc]
        }
        change = changes[what]()
        attempt = change.record.attempt
        events += [(name, status, sequence, attempt) for name, status, sequence in told(change)]
        held = change.after
    assert [sequence for _, _, sequence, _ in events] == list(range(4, 4 + len(events)))
    for attempt in range(1, held.record.attempt + 1):
        names = [name for name, _, _, of in events if of == attempt]
        assert names.count("started") <= 1
        for late in ("chunk", "completed"):
            assert late not in names or "started" in names[: names.index(late)]
    ends = [name for name, _, _, _ in events if name in {"completed", "failed", "timed_out", "cancelled"}]
    assert len(ends) == (1 if held.record.phase.ended else 0)
    assert not ends or events[-1][0] == ends[0]


def test_a_submit_that_was_not_taken_rests_and_others_go_first() -> None:
    """Back to ACCEPTED with no submit used up, under a lease of nobody's; then behind those of the next minute."""
    held = in_phase(Phase.SUBMITTING)
    rest = TABLE_OF.denied(held, NOW, denials=1, reason="forbidden", says="HTTP 403", rest_ms=5_000)
    record = rest.record
    assert (record.phase, record.submits, record.denials, record.due) == (Phase.ACCEPTED, 0, 1, "")
    assert record.lease_until == NOW + 5_000
    assert record.timer <= NOW + 5_000
    assert json.loads(rest.after.long[Long.DENIED]) == {"reason": "forbidden", "says": "HTTP 403"}
    again = TABLE_OF.tick(rest.after, NOW + 5_000)
    assert (again.record.due, again.record.lease, again.record.claims) == ("submit", "", 0)
    younger = replace(again.record, denied_at=0, accepted_at=NOW + 59_000)
    assert submit_score(younger) < submit_score(again.record)


def test_a_submit_that_was_not_taken_forgets_it_once_one_is() -> None:
    """Nothing of it is told any more."""
    held = in_phase(Phase.SUBMITTING, denials=2, denied_at=NOW - 5_000)
    held = held._replace(long={**held.long, Long.DENIED: "{}"})
    taken = TABLE_OF.submitted(held, NOW, "j9", "IN_QUEUE", poll_ms=500)
    assert (taken.record.denials, taken.record.denied_at) == (0, 0)
    assert Long.DENIED not in taken.after.long


def test_a_cancelled_submit_that_was_not_taken_ends_at_once() -> None:
    """It does not rest first."""
    held = in_phase(Phase.SUBMITTING, wish="cancel")
    change = TABLE_OF.denied(held, NOW, denials=1, reason="forbidden", says="", rest_ms=5_000)
    assert change.record.status == Status.CANCELLED


@pytest.mark.parametrize("sent", [False, True])
def test_a_cancel_between_two_attempts_shows_nothing_of_the_end_before(sent: bool) -> None:
    """The error of round 1 is not why round 2 was cancelled; it stands in the event of its own end."""
    closed = in_phase(Phase.CLOSED, delay_time=5, execution_time=7, worker_id="w1", platform_retries=1, left_out="x")
    closed = closed._replace(long={**closed.long, Long.ERROR: '"boom"'}, output='{"rest": 1}')
    held = TABLE_OF.ask_retry(closed, NOW, "n2").after
    if sent:  # /retry has left, its answer is refused
        held = held._replace(record=replace(held.record, lease=TOKEN, lease_until=NOW + 30_000))
        held = TABLE_OF.wish(TABLE_OF.retry_sending(held, NOW, TOKEN).after, NOW, Wish.CANCEL).after
        ended = TABLE_OF.retry_refused(held, NOW)
    else:
        ended = TABLE_OF.wish(held, NOW, Wish.CANCEL)
    assert ended.record.status == "CANCELLED"
    told = document(ended.after, inline_limit=None, clock_offset=0)
    assert (told["error"], told.get("output"), told.get("output_ref")) == (None, None, None)
    assert told_of_a_run(ended) == (None, None, None, 0, None)
    assert "boom" not in str(ended.events)


def told_of_a_run(change: Change) -> tuple[object, ...]:
    """What a document tells of how the job ran."""
    told = document(change.after, inline_limit=None, clock_offset=0)
    return (*(told[name] for name in ("delayTime", "executionTime", "workerId", "retries")), told.get("left_out"))


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ({"status": "CANCELLED"}, (None, None, None, 0, None)),
        ({"status": "FAILED", "execution_time": 9, "worker_id": "w2"}, (None, 9, "w2", 0, None)),
        (None, (None, None, None, 0, None)),  # RunPod knows it no more
    ],
)
def test_the_end_of_an_attempt_tells_nothing_of_how_the_attempt_before_ran(
    end: dict[str, Any] | None, told: tuple[object, ...]
) -> None:
    """RunPod tells no times of a job that was cancelled in its queue, nor do we."""
    failed = in_phase(
        Phase.RETRYING, delay_time=5, execution_time=7, worker_id="w1", platform_retries=1, started_at=NOW
    )
    again = TABLE_OF.retry_answered(failed, NOW, poll_ms=500).after
    queued = TABLE_OF.observed(again, NOW, heard("IN_QUEUE", attempt=2), poll_ms=1).after
    echo = heard("FAILED", attempt=2, execution_time=7, worker_id="w1")
    assert not TABLE_OF.observed(queued, NOW + 1, echo, poll_ms=1).record.phase.ended  # it is known all the same
    if end is None:
        queued = queued._replace(record=replace(queued.record, gone_at=NOW - 31_000))
        change = TABLE_OF.gone(queued, NOW, "j1", 2, endpoint_ok_at=NOW - 5, purge=Purge(), poll_ms=1)
    else:
        change = TABLE_OF.observed(queued, NOW + 60_000, heard(**end, attempt=2), poll_ms=1)
    assert change.record.phase.ended
    assert told_of_a_run(change) == told


def test_a_retry_that_runpod_refuses_keeps_the_error_of_the_end_that_stands() -> None:
    """It is that end's own."""
    closed = in_phase(Phase.CLOSED, execution_time=7, worker_id="w1")
    closed = closed._replace(long={**closed.long, Long.ERROR: '"boom"'})
    stands = TABLE_OF.retry_refused(TABLE_OF.ask_retry(closed, NOW, "n2").after, NOW)
    assert document(stands.after, inline_limit=None, clock_offset=0)["error"] == "boom"
    assert told_of_a_run(stands) == (None, 7, "w1", 0, None)
