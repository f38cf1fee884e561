"""How the console tells times, sizes and what happened; no I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge.doors.http.console import timeline
from bridge.doors.http.console.render import FILTERS, ago, scaled, size, span
from bridge.job.enums import Phase
from bridge.job.record import Record


def went(record: Record, now: int = 100_000) -> dict[str, float]:
    """Seconds by name."""
    return {one["name"]: one["seconds"] for one in timeline.spans(record, now)}


def test_the_time_is_divided_by_runpods_own_times_and_adds_up() -> None:
    """Waiting with the bridge, RunPod's queue, running, until it was seen."""
    record = Record(
        "a", phase=Phase.CLOSED, accepted_at=1_000, sent_at=2_900, submitted_at=3_000, started_at=4_500,
        ended_at=10_000, delay_time=1_000, execution_time=5_000,
    )  # fmt: skip
    assert went(record) == {"waiting": 2.0, "RunPod's queue": 1.0, "running": 5.0, "until it was seen": 1.0}
    assert sum(one["width"] for one in timeline.spans(record, 0)) == pytest.approx(100, abs=0.1)


def test_times_of_runpods_that_cannot_be_are_cut_to_what_was_seen() -> None:
    """A clock that stepped makes no bar longer than the request."""
    record = Record("a", accepted_at=1_000, submitted_at=2_000, ended_at=3_000, delay_time=9_000, execution_time=9_000)
    assert went(record) == {"waiting": 1.0, "RunPod's queue": 1.0}


def test_what_earlier_attempts_took_is_no_waiting() -> None:
    """The record's times are those of the last one."""
    record = Record(
        "a", accepted_at=1_000, sent_at=1_100, submitted_at=61_000, started_at=62_000, ended_at=64_000, attempt=2,
        delay_time=1_000, execution_time=2_000,
    )  # fmt: skip
    told = went(record)
    assert (told["waiting"], told["earlier attempts"], told["running"]) == (0.1, 59.9, 2.0)


@pytest.mark.parametrize(
    ("record", "names"),
    [
        (Record("a", accepted_at=1_000), ["waiting"]),
        (Record("a", accepted_at=1_000, not_before=90_000), ["scheduled", "waiting"]),
        (Record("a", accepted_at=1_000, not_before=900_000), ["scheduled"]),
        (Record("a", accepted_at=1_000, submitted_at=2_000), ["waiting", "RunPod's queue"]),
        (
            Record("a", accepted_at=1_000, submitted_at=2_000, started_at=3_000),
            ["waiting", "RunPod's queue", "running"],
        ),
        (Record("a", accepted_at=1_000, ended_at=1_000), []),
    ],
)
def test_what_is_under_way_is_told_up_to_now(record: Record, names: list[str]) -> None:
    """And nothing has a negative length."""
    told = timeline.spans(record, 100_000)
    assert [one["name"] for one in told] == names
    assert all(one["seconds"] > 0 for one in told)


def event(sequence: int, name: str, **data: Any) -> dict[str, Any]:
    """As the stream has it."""
    return {"sequence": f"{sequence:010}", "type": f"bridge.job.{name}", "time": "2026-11-28T10:00:00Z", "data": data}


def test_a_gap_in_the_events_is_told_and_many_chunks_are_one_line() -> None:
    """The sequence numbers show what is missing, also behind the last one."""
    events = [event(1, "accepted"), *(event(n, "chunk", index=n - 3) for n in range(3, 9))]
    told = timeline.entries(Record("a", sequence=12), events, 0, ())
    assert [one["name"] for one in told] == ["accepted", "", "6 chunks", ""]
    assert told[1]["details"][0][1].startswith("1 event ")
    assert told[3]["details"][0][1].startswith("4 events ")


def test_where_all_events_are_trimmed_the_record_tells_its_moments() -> None:
    """Marked as such."""
    record = Record("a", phase=Phase.CLOSED, status="FAILED", accepted_at=1_000, submitted_at=2_000, ended_at=3_000)
    told = timeline.entries(record, [], 0, ())
    assert [(one["name"], one["since_s"]) for one in told] == [("accepted", 0), ("submitted", 1), ("failed", 2)]
    assert all(one["details"] == [("", "from the record")] for one in told)


def test_secrets_in_errors_are_blotted_out_and_who_asked_is_told() -> None:
    """By name, door and cause."""
    failed = event(1, "failed", error='{"api_key": "s3cret"}', wish={"by": "ada", "door": "console", "cause": "cancel"})
    (told,) = timeline.entries(Record("a", sequence=1), [failed], 0, ())
    assert ("asked by", "ada, console, cancel") in told["details"]
    assert "s3cret" not in str(told)


def test_figures_are_written_as_people_read_them() -> None:
    """Short, with their unit; a dash for none."""
    assert [span(s) for s in (0, 0.24, 3.2, 42, 200, 9_000, 400_000)] == [
        "0 s", "240 ms", "3.2 s", "42 s", "3 min", "2.5 h", "4.6 d",
    ]  # fmt: skip
    assert [size(n) for n in (12, 2_048, 5 * 1024 * 1024)] == ["12 B", "2.0 KiB", "5.0 MiB"]
    now = datetime.now(UTC)
    assert ago((now - timedelta(seconds=30)).isoformat()) == "30 s ago"
    assert ago((now + timedelta(hours=3)).isoformat()).startswith("in ")
    assert [FILTERS["count"](n) for n in (None, 0, 1_234, 2.5, 55.5)] == ["\u2013", "0", "1,234", "2.5", "56"]
    assert scaled([0, 1], 1, 10, 10) == "M0.0,9.0L10.0,3.0"
    assert scaled([], 0, 10, 10) == ""
