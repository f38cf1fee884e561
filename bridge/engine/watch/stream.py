"""Reads streams: one reader a job at a time, every chunk recorded and numbered before it is passed on (I13).

RunPod's /stream is a destructive read that holds the connection while there is nothing. So its calls have threads and a
budget of their own, and status reads never wait behind them. A permit comes first and a stream is taken only for it:
nothing is held that cannot be read now.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from bridge.engine.calls.endpoint_isolation import apart
from bridge.errors import ApiError, JobUnknown, Unanswered
from bridge.job.enums import Status, Step, is_end
from bridge.job.lenient_json import spelled
from bridge.runpod.limits.permits import Permits
from bridge.runpod.operations import LIMITS, Operation

if TYPE_CHECKING:
    from bridge.engine.calls.threads import Callers
    from bridge.engine.calls.write_queue import WriteQueue
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.runpod.client import RunPodClient

IDLE_S = 1.0
#: Streams taken in one turn at most.
BATCH = 64
#: RunPod's shortest hold, and our longest: short ones let few threads serve many streams and an engine stop soon.
HOLD_MIN_MS, HOLD_MAX_MS = 1_000, 5_000
#: Idle holds of one process end at most so often a second: what is left of RunPod's 200 reads is for chunks.
IDLE_READS = 80
#: Milliseconds until the next read: after a page with chunks at least, after an empty one, after one that came back
#: empty at once, after a failed one, and after a 404.
AGAIN_MS, EMPTY_MS, HASTY_MS, FAILED_MS, UNKNOWN_MS = 50, 20, 500, 1_000, 2_000
#: The longest that the stream of a job in RunPod's queue is left alone.
QUEUED_MOST_MS = 60_000
#: A stream that brought chunks so lately counts as busy. Seconds.
BUSY_S = 5.0
#: A page is written in parts of at most so many chunks (RunPod's own pages have no more) and so many bytes, each in
#: a change of its own.
PART_CHUNKS, PART_BYTES = 200, 1024 * 1024


class Share:
    """How many streams of each endpoint are busy, and so how soon one of them may be read again.

    RunPod allows 200 reads a second and endpoint. Four hundred busy streams get one every two seconds each, evenly;
    spending the permits of a 10 s window in its first second would leave all of them without for nine.
    """

    def __init__(self) -> None:
        """Nobody is busy yet."""
        self._lock = threading.Lock()
        self._busy: dict[str, dict[str, float]] = {}

    def again_ms(self, endpoint: str, request_id: str) -> int:
        """A page with chunks has come: when its stream may be read again."""
        now = time.monotonic()
        with self._lock:
            busy = self._busy.setdefault(endpoint, {})
            busy.pop(request_id, None)
            busy[request_id] = now  # the newest stands last
            for other, seen in list(busy.items()):
                if now - seen < BUSY_S:
                    break
                del busy[other]
            return pause_ms(len(busy))


def parts(chunks: Sequence[tuple[Any, Any]]) -> Iterator[tuple[Sequence[tuple[Any, Any]], float]]:
    """A page in the parts in which it is written, each with its weight: 1 is a full one."""
    first, size = 0, 0
    for place, chunk in enumerate(chunks):
        more = len(spelled(chunk)[0])
        if place > first and (place - first >= PART_CHUNKS or size + more > PART_BYTES):
            yield chunks[first:place], max((place - first) / PART_CHUNKS, size / PART_BYTES)
            first, size = place, 0
        size += more
    if chunks:
        yield chunks[first:], max((len(chunks) - first) / PART_CHUNKS, size / PART_BYTES)


def pause_ms(busy: int) -> int:
    """Between two reads of one of so many busy streams, so that all together stay inside RunPod's limit."""
    reads = LIMITS[Operation.STREAM].calls / 10 * 0.9
    return max(AGAIN_MS, int(busy * 1000 / reads))


def hold_ms(holding: int) -> int:
    """How long RunPod is asked to hold an empty read while so many are held."""
    return min(HOLD_MAX_MS, max(HOLD_MIN_MS, holding * 1000 // IDLE_READS))


def after_nothing_ms(status: str, age_ms: float, *, hasty: bool) -> int:
    """When a stream that brought nothing is read again; `hasty`: RunPod did not hold the read.

    A job that waits for a GPU has no chunks: the longer it waits, the rarer its stream is read, so that ten thousand of
    them leave the reads to those that run. A status read that sees it started makes the stream due at once (`table`).
    """
    if status == Status.IN_QUEUE:
        return int(min(QUEUED_MOST_MS, max(EMPTY_MS, age_ms)))
    return HASTY_MS if hasty else EMPTY_MS


@dataclass(frozen=True, slots=True)
class Stream:
    """One `once()` takes streams that are due, as many as there are permits and free threads."""

    ledger: Ledger
    writes: WriteQueue
    endpoint_health: EndpointHealth
    callers: Callers
    client_of: Callable[[str], RunPodClient]
    endpoint_id_of: Callable[[str], str]
    lease_ms: int
    _share: Share = field(default_factory=Share, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        wait = IDLE_S
        for due in self.ledger.due(Step.STREAM):
            read = partial(self._endpoint, due.endpoint, due.ready)
            wait = min(wait, apart(f"stream {due.endpoint}", read) if due.ready else due.wait_ms / 1000)
        return wait

    def _endpoint(self, endpoint: str, ready: int) -> float:
        wanted = min(ready, self.callers.free_for(endpoint), BATCH)
        if wanted <= 0:
            return IDLE_S  # a thread that becomes free wakes this loop
        allowed, wait = self.endpoint_health.may_call(endpoint, submitting=False)
        if allowed is not None:
            wanted = min(wanted, allowed)
        if wanted <= 0:
            return wait or IDLE_S
        endpoint_id = self.endpoint_id_of(endpoint)
        permits = Permits.take(
            self.endpoint_health.budget, endpoint_id, Operation.STREAM, wanted, slot_ms=self.lease_ms
        )
        if permits.count == 0:
            return permits.retry_after_ms / 1000
        with permits.unused_if_away(permits.count):
            taken = self.ledger.streams({endpoint: permits.count}, lease_ms=self.lease_ms)
        permits.give_back(permits.count - len(taken.records))
        for held in taken.records:
            self.callers.start(self._read, held, permits, taken.token, owner=endpoint)
        return 0.0 if ready > len(taken.records) and taken.records else IDLE_S

    def _read(self, held: Held, permits: Permits, reader: str) -> None:
        with permits.spend():
            self._page(held, reader)

    def _page(self, held: Held, reader: str) -> None:
        record = held.record
        read = partial(self.ledger.table.stream_read, reader=reader)
        hold, started = hold_ms(self.callers.busy), time.monotonic()
        try:
            page = self.client_of(record.endpoint).stream(record.endpoint_id, record.job_id, hold)
        except JobUnknown:
            # One 404 proves nothing; the status reads find out. Where they have told an end, nothing is left to read.
            again = None if record.drain_until else UNKNOWN_MS
            self.writes.put(held, partial(read, chunks=(), again_ms=again, lost=False))
        except ApiError as error:
            self.endpoint_health.failed(record.endpoint, record.endpoint_id, Operation.STREAM, error)
            # A page may have been in transit: RunPod has dropped it, and nobody can read it again.
            lost = isinstance(error, Unanswered)
            self.writes.put(held, partial(read, chunks=(), again_ms=FAILED_MS, lost=lost))
        else:
            self.endpoint_health.ok(record.endpoint)
            chunks = [(chunk.output, chunk.metrics) for chunk in page.chunks]
            over = is_end(page.status) and not chunks  # a terminal status may come before the last chunks
            if over:
                again = None
            elif chunks:
                self._keep(held, reader, chunks)
                return
            else:
                age_ms = self.ledger.now() - record.submitted_at
                again = after_nothing_ms(page.status, age_ms, hasty=time.monotonic() - started < hold / 2000)
            self.writes.put(held, partial(read, chunks=(), again_ms=again, lost=False))

    def _keep(self, held: Held, reader: str, chunks: Sequence[tuple[Any, Any]]) -> None:
        """Write a page part by part; what other streams brought is written between them.

        The reader's lease begins anew with each part. A part that was not written ends the page: the record says that
        somebody was reading, and whoever reads next marks it.
        """
        left, record = len(chunks), held.record
        for number, (part, weight) in enumerate(parts(chunks)):
            left -= len(part)
            again = self.lease_ms if left else self._share.again_ms(record.endpoint, record.id)
            read = partial(
                self.ledger.table.stream_read, chunks=part, reader=reader, again_ms=again, lost=False,
                part=f"{reader}/{number}", more=left > 0,
            )  # fmt: skip
            written = self.writes.write(held, read, weight)
            if written is None or written.verdict not in {"read", "written"} or written.record.stream_done:
                return
            held = written.after
