"""Which spans a request's end makes, by what it went through."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace.status import StatusCode

from bridge.engine.otel.spans import spans
from bridge.job.document import stamp
from bridge.job.record import Record

T0 = 1_700_000_000_000
SUBMITTED: dict[str, Any] = {"sent_at": T0 + 500, "submitted_at": T0 + 600}
RAN = {**SUBMITTED, "started_at": T0 + 900, "delay_time": 250, "execution_time": 4_000}
ROOT = "bridge.run demo"


def made(status: str = "COMPLETED", *, ends: int = 6_000, told: int = 0, offset: int = 0, **fields: Any) -> Any:
    """Spans by name, of a request that was accepted at T0; `fields` are the record's."""
    record = Record(id="r", endpoint="demo", door="celery", accepted_at=T0, ended_at=T0 + ends, status=status, **fields)
    moments = ("accepted_at", "not_before", "submitted_at", "started_at", "ended_at")
    data = {
        **{name: stamp(getattr(record, name), offset) for name in moments},
        "status": status, "reason": None, "endpoint": "demo", "endpoint_id": "demo", "job_id": "j", "workerId": None,
        "attempt": 1, "round": 1, "possible_duplicate": False,
    }  # fmt: skip
    found = spans({"subject": "r", "data": data}, record, Resource({}), told_ms=told, clock_offset=offset)
    return {span.name: span for span in found}


def lasts(span: ReadableSpan) -> tuple[int, int]:
    """From when, in ms after T0, and how long."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time // 1_000_000 - T0, (span.end_time - span.start_time) // 1_000_000


def test_a_job_that_ran_has_runpods_own_lengths() -> None:
    """Queue and run begin where the submit was answered; the outermost span ends with the stored result."""
    found = made(told=T0 + 6_200, **RAN)
    assert {name: lasts(span) for name, span in found.items()} == {
        ROOT: (0, 6_200),
        "wait": (0, 500),
        "submit": (500, 100),
        "runpod queue": (600, 250),
        "runpod run": (850, 4_000),
        "finish": (6_000, 200),
    }
    assert found[ROOT].status.status_code is StatusCode.OK


def test_times_are_told_in_wall_time_whatever_the_ledgers_offset_is() -> None:
    """A stepped clock moves the ledger's time; a trace is read beside others'."""
    found = made(offset=3_000, **RAN)
    assert lasts(found["submit"]) == (500 - 3_000, 100)
    assert lasts(found["wait"]) == (-3_000, 500)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"status": "CANCELLED", "ends": 300}, [ROOT, "wait"]),
        ({"status": "REJECTED", "ends": 0}, [ROOT]),
        ({"status": "CANCELLED", "ends": 300, "not_before": T0 + 9_000}, [ROOT, "scheduled"]),
        (
            {"not_before": T0 + 100, **RAN},
            [ROOT, "scheduled", "wait", "submit", "runpod queue", "runpod run"],
        ),
        ({"status": "LOST", "sent_at": T0 + 1}, [ROOT, "wait", "submit"]),
        (
            {"status": "TIMED_OUT", **SUBMITTED},
            [ROOT, "wait", "submit", "runpod queue"],
        ),
    ],
)
def test_what_never_was_has_no_span(fields: dict[str, Any], names: list[str]) -> None:
    """Cancelled while it waited, refused, before its time; an answer that was lost; a job that never began."""
    found = made(**fields)
    assert list(found) == names
    start, length = lasts(found[ROOT])
    for span in found.values():
        begins, takes = lasts(span)
        assert start <= begins <= begins + takes <= start + length


def test_only_an_end_that_nobody_wanted_is_an_error() -> None:
    """A cancel is none."""
    codes = {status: made(status)[ROOT].status.status_code for status in ("FAILED", "LOST", "CANCELLED")}
    assert codes == {"FAILED": StatusCode.ERROR, "LOST": StatusCode.ERROR, "CANCELLED": StatusCode.UNSET}
