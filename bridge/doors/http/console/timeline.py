"""One request as a line of time: what its events tell, and where they are trimmed, what its record remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bridge.job.document import stamp
from bridge.telemetry import blotted

if TYPE_CHECKING:
    from collections.abc import Collection

    from bridge.job.record import Record

#: Of an event's data, what is worth a line; the rest is the same in all of them.
TOLD = ("reason", "waiting_for", "error", "by", "door", "field", "workerId", "delayTime", "executionTime", "retries")
TONES = {
    "completed": "good", "failed": "bad", "lost": "bad", "timed_out": "bad", "rejected": "bad", "cancelled": "warn",
    "retried": "warn", "started": "busy", "submitted": "busy", "queued": "busy",
}  # fmt: skip
#: Chunks in a row that are told as one line.
CHUNKS_MAX = 3


def entries(
    record: Record, events: Sequence[Mapping[str, Any]], offset: int, redact: Collection[str]
) -> list[dict[str, Any]]:
    """`{name, time, since_s, details, tone, derived}` each, in their order; a gap in the sequence is an entry too."""
    found: list[dict[str, Any]] = []
    before, job_id, attempt = 0, None, 1
    for event in events:
        sequence, data = int(event["sequence"]), event["data"]
        if sequence > before + 1:
            found.append(_gap(sequence - before - 1))
        before = sequence
        name = str(event["type"]).rpartition(".")[2]
        details = _details(name, data, job_id, attempt, redact)
        job_id, attempt = data.get("job_id") or job_id, data.get("attempt") or attempt
        found.append({"name": name, "time": event.get("time"), "details": details, "tone": TONES.get(name, "calm")})
    if record.sequence > before and events:
        found.append(_gap(record.sequence - before))
    found = found or _remembered(record, offset)
    _since(found)
    return _chunks_together(found)


def spans(record: Record, now: int) -> list[dict[str, Any]]:
    """Where the time went, in seconds: with the bridge, in RunPod's queue, running, being told. RunPod's own times."""
    begun = max(record.accepted_at, record.not_before)
    until = record.ended_at or now
    parts: list[tuple[str, str, float]] = []
    if record.not_before > record.accepted_at:
        parts.append(("scheduled", "calm", (min(record.not_before, until) - record.accepted_at) / 1000))
    again = record.attempt > 1 and record.sent_at > 0  # the other times are those of its last attempt
    left = (again and record.sent_at) or record.submitted_at or record.sent_at or until
    parts.append(("waiting", "calm", (left - begun) / 1000))
    if again:
        parts.append(("earlier attempts", "earlier", (max(left, record.submitted_at) - left) / 1000))
    if record.submitted_at:
        with_runpod = max(0.0, (until - record.submitted_at) / 1000)
        queued = record.delay_time / 1000 if record.delay_time >= 0 else None
        ran = record.execution_time / 1000 if record.execution_time >= 0 else None
        if queued is None:
            queued = (
                with_runpod if not record.started_at else max(0.0, (record.started_at - record.submitted_at) / 1000)
            )
        queued = min(queued, with_runpod)
        ran = min(with_runpod - queued if ran is None else ran, with_runpod - queued)
        parts += [("RunPod's queue", "queue", queued), ("running", "busy", ran)]
        parts.append(("until it was seen", "told", with_runpod - queued - ran))
    shown = [(name, tone, seconds) for name, tone, seconds in parts if seconds > 0]
    whole = sum(seconds for _, _, seconds in shown) or 1.0
    told, at = [], 0.0
    for name, tone, seconds in shown:
        width = 100 * seconds / whole
        told.append({"name": name, "tone": tone, "seconds": seconds, "at": round(at, 2), "width": round(width, 2)})
        at += width
    return told


def _details(
    name: str, data: Mapping[str, Any], job_id: str | None, attempt: int, redact: Collection[str]
) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    if data.get("job_id") and data["job_id"] != job_id:
        told.append(("job", str(data["job_id"])))
    if (data.get("attempt") or 1) != attempt:
        told.append(("attempt", str(data["attempt"])))
    if name == "progress":
        told.append(("progress", _short(blotted(data.get("progress"), redact))))
    if name == "chunk":
        told.append(("chunk", str(data.get("index"))))
    if isinstance(wish := data.get("wish"), Mapping):
        told.append(("asked by", ", ".join(str(wish[key]) for key in ("by", "door", "cause") if wish.get(key))))
    if data.get("possible_duplicate"):
        told.append(("mark", "possible duplicate"))
    return told + [(key, _said(key, data[key], redact)) for key in TOLD if _worth(key, data.get(key))]


def _worth(key: str, value: object) -> bool:
    return value not in (None, "", 0, {}, []) or (key.endswith("Time") and value == 0)


def _said(key: str, value: object, redact: Collection[str]) -> str:
    if key == "error":
        return _short(blotted(value, redact))
    return f"{value} ms" if key.endswith("Time") else str(value)


def _short(value: object) -> str:
    if isinstance(value, Mapping) and "message" in value:
        value = f"{value.get('type') or ''} {value['message']}".strip()
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]} …"  # noqa: PLR2004


def _gap(count: int) -> dict[str, Any]:
    says = f"{count} event{'s' if count > 1 else ''} between that the stream no longer has, or that lie too far apart"
    return {"name": "", "time": None, "details": [("", says)], "tone": "gap"}


def _remembered(record: Record, offset: int) -> list[dict[str, Any]]:
    moments = [
        ("accepted", record.accepted_at),
        ("submitted", record.submitted_at),
        ("started", record.started_at),
        (record.status.lower(), record.ended_at),
    ]
    return [
        {"name": name, "time": stamp(at, offset), "details": [("", "from the record")], "tone": TONES.get(name, "calm")}
        for name, at in moments
        if at
    ]


def _since(found: list[dict[str, Any]]) -> None:
    """Seconds since the first one."""
    first: datetime | None = None
    for one in found:
        at = datetime.fromisoformat(one["time"]) if one["time"] else None
        at = at.replace(tzinfo=UTC) if at and at.tzinfo is None else at
        first = first or at
        one["since_s"] = (at - first).total_seconds() if at and first else None


def _chunks_together(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Many chunks in a row are one line."""
    told: list[dict[str, Any]] = []
    run: list[dict[str, Any]] = []
    for one in [*found, None]:
        if one is not None and one["name"] == "chunk":
            run.append(one)
            continue
        if len(run) > CHUNKS_MAX:
            first, last = run[0]["details"][0][1], run[-1]["details"][0][1]
            told.append({**run[0], "details": [("chunks", f"{first} to {last}")], "name": f"{len(run)} chunks"})
        else:
            told += run
        run = []
        if one is not None:
            told.append(one)
    return told
