"""What is heard of a job, by whom, and when: hints, evidence, chunks and late words, as the table judges them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bridge.engine.watch.stream import PART_BYTES, PART_CHUNKS, after_nothing_ms, hold_ms, parts, pause_ms
from bridge.job.change import Change, Rules
from bridge.job.document import Held, document
from bridge.job.enums import Phase, Step
from bridge.job.observation import Observation
from bridge.job.record import Long, Record
from bridge.job.transitions import Table
from bridge.job.transitions.streaming import DRAIN_LOOK_MS, DRAIN_MOST_MS, DRAIN_MOST_SYNC_MS, DRAIN_MS, MEND_MAX

NOW = 1_800_000_000_000
TABLE = Table(Rules())


def tracked(**more: object) -> Held:
    """A job that runs, leased for a status read."""
    record = Record(
        id="r1", phase=Phase.TRACKED, endpoint="demo", endpoint_id="demo", door="celery", sinks="celery", nonce="n",
        job_id="j1", status="IN_PROGRESS", submits=1, submitted_at=NOW - 5_000, started_at=NOW - 4_000,
        observed_at=NOW - 1_000,
        lease="mine", lease_until=NOW + 30_000,
    )  # fmt: skip
    return Held(replace(record, **more), {})  # type: ignore[arg-type]


def heard(status: str, output: object = None, **more: object) -> Observation:
    """One observation."""
    text = None if output is None else json.dumps(output)
    return Observation(**{"job_id": "j1", "status": status, "attempt": 1, "output": text, **more})  # type: ignore[arg-type]


def chunk_events(change: Change) -> list[dict[str, object]]:
    """What the change tells of chunks."""
    told = [json.loads(event.body) for event in change.events]
    return [event["data"] for event in told if event["type"] == "bridge.job.chunk"]


# Hints


def test_a_hint_during_a_read_makes_another_follow_at_once() -> None:
    """The read may have left before the job ended; its answer must not put the next one far away."""
    hinted = TABLE.hinted(tracked(), NOW)
    answered = TABLE.observed(hinted.after, NOW + 1, heard("IN_PROGRESS"), poll_ms=60_000)
    assert (answered.record.due, answered.delay_ms, answered.record.hint) == (Step.POLL, 0, 0)
    again = TABLE.observed(answered.after, NOW + 2, heard("IN_PROGRESS"), poll_ms=60_000)
    assert again.delay_ms == 60_000  # one hint, one read


def test_repeated_hints_cause_one_read_and_are_no_progress() -> None:
    """A flood of callbacks changes a record once, and does not hide that engines die on it (HARDENING 14)."""
    once = TABLE.hinted(tracked(claims=2), NOW)
    assert once.record.claims == 2
    assert TABLE.hinted(once.after, NOW).empty


def test_a_hint_brings_a_waiting_read_forward() -> None:
    """No lease: due now."""
    waiting = tracked(lease="", lease_until=0, due="poll")
    change = TABLE.hinted(waiting, NOW)
    assert (change.record.due, change.delay_ms) == (Step.POLL, 0)
    assert TABLE.hinted(change.after, NOW - 1).empty  # it is due already
    again = TABLE.hinted(change.after, NOW + 50)  # a flood of callbacks is no flood of reads
    assert again.delay_ms == 150
    assert TABLE.hinted(again.after, NOW + 60).empty


@pytest.mark.parametrize("phase", [Phase.SETTLED, Phase.CLOSED, Phase.ACCEPTED])
def test_a_late_hint_changes_nothing(phase: Phase) -> None:
    """After the end, and before the submit."""
    assert TABLE.hinted(tracked(phase=phase), NOW).empty


# Evidence of a lost submit


def unanswered(**more: object) -> Held:
    """A submit whose answer was lost, resting until the grace ends."""
    lost = {"phase": Phase.UNANSWERED, "job_id": "", "submitted_at": 0, "status": "ACCEPTED", "hook": "t" * 32,
            "lease": "", "lease_until": 0, "grace_until": NOW + 20_000}  # fmt: skip
    return tracked(**{**lost, **more})


def test_evidence_is_confirmed_by_a_read_inside_the_budget() -> None:
    """It stands in the due set of the polls, so permits, leases and every engine's reach are theirs."""
    change = TABLE.evidence(unanswered(), NOW, "j7")
    assert (change.record.due, change.delay_ms) == (Step.POLL, 0)
    assert change.after.long[Long.EVIDENCE] == "j7"
    assert TABLE.evidence(change.after, NOW, "j7").empty


def test_evidence_before_the_answer_is_lost_is_kept() -> None:
    """The job ended before its submit was answered, and then the answer is lost: the read is due at once."""
    sending = unanswered(phase=Phase.SUBMITTING, lease="mine", lease_until=NOW + 30_000, grace_until=0)
    noted = TABLE.evidence(sending, NOW, "j7")
    assert noted.record.lease == "mine"
    lost = TABLE.unanswered(noted.after, NOW, seen=True)
    assert (lost.record.phase, lost.record.due) == (Phase.UNANSWERED, Step.POLL)


def test_no_second_submit_while_evidence_is_being_confirmed() -> None:
    """The grace ends under a read that is on its way: that read decides."""
    reading = unanswered(lease="mine", lease_until=NOW + 30_000, grace_until=NOW - 1)
    assert TABLE.grace_ended(reading, NOW).empty
    assert TABLE.submitted(reading, NOW, "j7", "IN_PROGRESS", poll_ms=0).record.phase is Phase.TRACKED


def test_a_job_that_runpod_does_not_know_is_no_evidence() -> None:
    """The record rests again until its grace ends."""
    noted = TABLE.evidence(unanswered(), NOW, "forged").after
    change = TABLE.unconfirmed(noted, NOW, again_ms=None)
    assert change.record.due == ""
    assert Long.EVIDENCE not in change.after.long
    assert change.record.timer == NOW + 20_000


# Chunks


def stream(**more: object) -> Held:
    """A stream whose reader is known."""
    return tracked(**{"stream": 1, "reading": "me", **more})


def read(held: Held, *outputs: object, reader: str = "me", again_ms: int | None = 50, lost: bool = False) -> Change:
    """One page."""
    pages = [(output, None) for output in outputs]
    return TABLE.stream_read(held, NOW, pages, reader=reader, again_ms=again_ms, lost=lost)


def test_a_lost_page_is_filled_in_from_the_aggregate() -> None:
    """I13, HARDENING 17: by position; what stood in the place of a lost chunk moves to its own."""
    page = read(stream(), "a", "b").after
    lost = read(Held(replace(page.record, reading="me"), {}), lost=True).after
    last = read(Held(replace(lost.record, reading="me"), {}), "e", again_ms=None).after
    recorded = ("a", "b", "e")
    end = TABLE.observed(last, NOW, heard("COMPLETED", list("abcde"), chunks=recorded), poll_ms=0)
    told = {event["index"]: event["output"] for event in chunk_events(end)}
    assert told == {2: "c", 3: "d", 4: "e"}
    assert all(event["repaired"] for event in chunk_events(end))
    assert json.loads(end.events[-1].body)["type"] == "bridge.job.completed"
    shown = document(end.after)
    assert (shown["stream_incomplete"], shown["stream_repaired"]) == ("possible", 3)
    assert [json.loads(chunk).get("index") for chunk in end.chunks] == [2, 3, 4, None]  # the last tells the end


def test_an_output_that_is_no_aggregate_mends_nothing() -> None:
    """A list that does not hold what was streamed is something else."""
    held = stream(stream_done=1, reading="", chunks=2, stream_incomplete=1)
    recorded = ("a", "b")
    end = TABLE.observed(held, NOW, heard("COMPLETED", ["x", "y", "z"], chunks=recorded), poll_ms=0)
    assert chunk_events(end) == []
    assert "stream_repaired" not in document(end.after)


def test_an_end_made_of_chunks_has_all_of_them() -> None:
    """Chunks that were recorded while the status read was under way are not missing from the output."""
    held = stream(stream_done=1, reading="", chunks=3, lease="mine")
    early = TABLE.observed(held, NOW, heard("COMPLETED", [], chunks=("a", "b")), poll_ms=0)
    assert (early.record.phase, early.record.due) == (Phase.TRACKED, Step.POLL)
    end = TABLE.observed(held, NOW, heard("COMPLETED", [], chunks=("a", "b", "c")), poll_ms=0)
    assert end.output == '["a","b","c"]'


def test_a_second_attempt_is_made_of_its_own_chunks() -> None:
    """What the failed attempt streamed keeps its numbers and is no part of the result."""
    retrying = tracked(phase=Phase.RETRYING, status="FAILED", stream=1, chunks=2, retried_at=NOW - 1)
    again = TABLE.retry_answered(retrying, NOW, poll_ms=0)
    assert (again.record.chunks, again.record.chunks_from) == (2, 2)
    page = read(Held(replace(again.record, reading="me"), {}), "a", again_ms=None)
    assert [event["index"] for event in chunk_events(page)] == [2]
    end = TABLE.observed(page.after, NOW, heard("COMPLETED", [], attempt=2, execution_time=7, chunks=("a",)), poll_ms=0)
    assert end.output == '["a"]'


def test_an_end_waits_for_its_stream_as_long_as_chunks_come() -> None:
    """A terminal status before the last chunks; each page gives the rest more time."""
    waiting = TABLE.observed(stream(reading=""), NOW, heard("COMPLETED", []), poll_ms=0)
    assert (waiting.verdict, waiting.stream_ms) == ("draining", 0)
    assert waiting.record.drain_until == NOW + DRAIN_MS
    later = Held(replace(waiting.record, reading="me", drain_until=NOW + 1), {})
    assert read(later, "x").record.drain_until == NOW + DRAIN_MS


@pytest.mark.parametrize(("sync_wait_ms", "most"), [(0, DRAIN_MOST_MS), (1_000, DRAIN_MOST_SYNC_MS)])
def test_a_last_page_that_is_told_for_ever_ends_in_time(sync_wait_ms: int, most: int) -> None:
    """The job has ended, and each read brings chunks: it settles with what it has, marked, while RunPod has it."""
    held, now, end = stream(reading="", sync_wait_ms=sync_wait_ms), NOW, None
    while end is None or end.verdict == "draining":
        assert now <= NOW + most + DRAIN_LOOK_MS
        known = heard("COMPLETED", "whole", chunks=("x",) * held.record.chunks)
        end = TABLE.observed(held, now, known, poll_ms=0)
        held = Held(replace(end.record, reading="me"), {})
        page = TABLE.stream_read(held, now, [("x", None)], reader="me", again_ms=50, lost=False)
        held, now = page.after, now + DRAIN_LOOK_MS
    assert end.record.phase is Phase.SETTLED
    assert (document(end.after)["status"], document(end.after)["stream_incomplete"]) == ("COMPLETED", "possible")
    assert end.stream_ms == -1


def test_a_page_is_written_in_parts_of_bounded_count_and_bytes() -> None:
    """Everything once and in order; what is too large for a part is one of its own."""
    sizes = [*[1] * 450, PART_BYTES // 2, PART_BYTES // 2, PART_BYTES // 2, 3 * PART_BYTES, 1]
    page = [("x" * size, None) for size in sizes]
    made = [part for part, _ in parts(page)]
    assert [chunk for part in made for chunk in part] == page
    assert all(len(part) <= PART_CHUNKS for part in made)
    assert all(len(part) == 1 or sum(len(output) for output, _ in part) <= PART_BYTES for part in made)
    assert len(made) == 7
    assert len(list(parts([(1, {"note": "x" * PART_BYTES})] * 3))) == 3
    assert [weight >= 1 for _, weight in parts(page)] == [True, True, False, False, False, True, False]
    assert list(parts([])) == []


def test_a_part_of_a_page_is_written_once_and_its_reader_stays_on_record() -> None:
    """I15: its answer was lost and it is written again; between two parts the page is in somebody's hands."""
    both: dict[str, object] = {"reader": "me", "again_ms": 9_000, "lost": False}
    part = TABLE.stream_read(stream(), NOW, [("a", None)], part="me/0", more=True, **both)  # type: ignore[arg-type]
    assert (part.record.reading, part.stream_ms) == ("me", 9_000)
    again = TABLE.stream_read(part.after, NOW, [("a", None)], part="me/0", more=True, **both)  # type: ignore[arg-type]
    assert (again.verdict, again.empty) == ("written", True)
    last = TABLE.stream_read(part.after, NOW, [("b", None)], part="me/1", **both)  # type: ignore[arg-type]
    assert (last.record.reading, last.record.chunks, last.record.stream_incomplete) == ("", 2, 0)
    assert TABLE.stream_read(last.after, NOW, [("b", None)], part="me/1", **both).empty  # type: ignore[arg-type]


def test_a_stream_without_room_is_read_no_more_and_says_so() -> None:
    """I16: what is kept of one request is bounded, whatever its job streams."""
    table = Table(Rules(chunks_bytes_max=600))
    change = table.stream_read(stream(), NOW, [("x" * 40, None)] * 9, reader="me", again_ms=50, lost=False, more=True)
    assert (change.record.chunks, len(change.chunks)) == (2, 2)
    assert (change.record.stream_done, change.record.reading, change.stream_ms) == (1, "", -1)
    assert document(change.after)["stream_incomplete"] == "possible"


def test_chunks_over_the_ceiling_are_kept_and_not_told() -> None:
    """Everybody's events stay readable beside one long stream; the document counts what no event tells."""
    table = Table(Rules(chunk_events_max=2))
    page = [(n, None) for n in range(5)]
    change = table.stream_read(stream(), NOW, page, reader="me", again_ms=50, lost=False)
    assert [event["index"] for event in chunk_events(change)] == [0, 1]
    assert [json.loads(chunk)["index"] for chunk in change.chunks] == [0, 1, 2, 3, 4]
    assert document(change.after)["chunks_untold"] == 3
    end = table.observed(
        Held(replace(change.record, reading="", stream_done=1), {}), NOW, heard("COMPLETED", "x"), poll_ms=0
    )
    assert [event.sequence for event in (*change.events, *end.events)] == [1, 2, 3]


def test_a_lost_page_of_more_than_can_be_mended_is_marked_and_the_output_has_it() -> None:
    """The end is one change: it never grows with what the job has streamed."""
    held = stream(stream_done=1, reading="", stream_incomplete=1)
    most = TABLE.observed(held, NOW, heard("COMPLETED", list(range(MEND_MAX)), chunks=()), poll_ms=0)
    assert document(most.after)["stream_repaired"] == MEND_MAX
    more = TABLE.observed(held, NOW, heard("COMPLETED", list(range(MEND_MAX + 1)), chunks=()), poll_ms=0)
    shown = document(more.after)
    assert (shown["stream_incomplete"], len(shown["output"])) == ("possible", MEND_MAX + 1)
    assert "stream_repaired" not in shown
    assert len(more.chunks) == 1


def test_an_end_made_of_chunks_that_somebody_has_deleted_comes_and_is_marked() -> None:
    """Consumers may trim what they have read: the end does not look for it for ever."""
    held = stream(stream_done=1, reading="", chunks=3, lease="mine")
    end = TABLE.observed(held, NOW, heard("COMPLETED", [], chunks=("c",), chunks_to=3), poll_ms=0)
    shown = document(end.after)
    assert (shown["status"], shown["output"], shown["stream_incomplete"]) == ("COMPLETED", ["c"], "possible")


def test_a_chunk_keeps_what_the_handler_measured() -> None:
    """RunPod's `metrics` stand beside the output, in the event and in what is kept."""
    change = TABLE.stream_read(stream(), NOW, [("a", {"tokens": 7})], reader="me", again_ms=50, lost=False)
    assert chunk_events(change)[0]["metrics"] == {"tokens": 7}
    assert json.loads(change.chunks[0]) == {"index": 0, "output": "a", "metrics": {"tokens": 7}}


def test_chunks_of_a_reader_that_lost_its_turn_are_kept_and_marked() -> None:
    """A fact is never refused; but who reads now alone says when the next read is due."""
    change = read(stream(reading="another"), "late")
    assert [event["output"] for event in chunk_events(change)] == ["late"]
    assert (change.record.reading, change.record.stream_incomplete, change.stream_ms) == ("another", 1, None)


# Late words


def test_late_progress_never_reopens_an_ended_job() -> None:
    """Whoever answers last: an end stands (I4)."""
    end = TABLE.observed(tracked(), NOW, heard("COMPLETED", {"x": 1}), poll_ms=0)
    assert TABLE.observed(end.after, NOW + 1, heard("IN_PROGRESS", {"step": 9}), poll_ms=0).empty
    assert TABLE.observed(end.after, NOW + 1, heard("IN_QUEUE"), poll_ms=0).empty


def test_a_progress_is_told_once() -> None:
    """The same progress read again is no news."""
    first = TABLE.observed(tracked(), NOW, heard("IN_PROGRESS", {"step": 1}), poll_ms=0)
    assert [event.name for event in first.events] == ["progress"]
    again = TABLE.observed(first.after, NOW, heard("IN_PROGRESS", {"step": 1}), poll_ms=0)
    assert again.events == ()


# How often streams are read


@pytest.mark.parametrize("busy", [1, 10, 100, 400, 2_000])
def test_busy_streams_together_stay_inside_runpods_limit(busy: int) -> None:
    """200 reads a second and endpoint, evenly; a few streams are read as soon as there may be news."""
    assert busy * 1_000 / pause_ms(busy) <= 200
    assert pause_ms(9) == 50


@pytest.mark.parametrize("holding", [0, 10, 100, 400])
def test_idle_holds_leave_reads_for_chunks(holding: int) -> None:
    """RunPod takes 1 s at least; with many held, each is held longer."""
    assert 1_000 <= hold_ms(holding) <= 5_000
    assert holding * 1_000 / hold_ms(holding) <= 80


def test_ten_thousand_queued_streams_leave_the_reads_to_those_that_run() -> None:
    """A queued job is read as often as its age doubles, then once a minute; a running one goes on at once."""
    looks, age = 0, 500.0
    while age < 100_000:
        age += after_nothing_ms("IN_QUEUE", age, hasty=False)
        looks += 1
    assert looks <= 10
    assert after_nothing_ms("IN_PROGRESS", 100_000, hasty=False) <= 50
    assert after_nothing_ms("IN_PROGRESS", 100_000, hasty=True) >= 500  # a server that does not hold is not hammered
