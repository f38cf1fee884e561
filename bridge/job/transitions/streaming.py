"""Chunks of a stream while the job runs, and at its end: the last are waited for, and what was lost is filled in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bridge.job.change import Change, Draft
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.observation import Observation
from bridge.job.record import Record, dumps
from bridge.job.state_table import T, check, same
from bridge.job.transitions.base import Base

#: How long an end waits for the last chunks of its stream, and how often it is looked at meanwhile. Longer than a
#: reader's lease, so that the stream of a reader that died is read on.
DRAIN_MS, DRAIN_LOOK_MS = 40_000, 2_000
#: The longest that an end waits for its stream, however many chunks still come: a last page that is told for ever ends
#: here. Far inside RunPod's retention, after which nobody could read the end; an ended /runsync is kept for one minute.
DRAIN_MOST_MS, DRAIN_MOST_SYNC_MS = 5 * 60_000, 40_000
#: So many lost chunks are filled in from the aggregate, five of RunPod's pages: the end is one change, and others wait
#: while it is written. Of more the output alone tells.
MEND_MAX = 1_000
#: How soon an end that lacks chunks, which were recorded while it was read, is read again.
CHUNKS_AGAIN_MS = 100


class Streaming(Base):
    """What a /stream call brings is gone at RunPod, so it is kept whoever brings it (I13)."""

    def stream_on(self, held: Held, now: int) -> Change:
        """A caller asks for chunks of a request that is under way (RunPod needs no word of it at the submit)."""
        record = held.record
        if record.phase.ended:
            return same(held, "already_ended")
        if record.stream:
            return same(held, "streaming")
        draft = self._draft(held, now).set(stream=1)
        if record.phase is T:
            draft.read_stream(0)
        return draft.done("streaming")

    def stream_read(
        self, held: Held, now: int, chunks: Sequence[tuple[Any, Any]], *, reader: str, again_ms: int | None, lost: bool,
        part: str = "", more: bool = False,
    ) -> Change:  # fmt: skip
        """What a /stream call brought, or a part of it. `again_ms` None: the job has ended and nothing is left to read.

        Chunks are facts and are kept whoever brings them; only who is `reading` now says when the next read is due.
        `part` names this part of a page, so that it is written once. While there is `more` of the page the reader stays
        on record for `again_ms`: when it dies between two parts the stream is marked, as one whose whole page was lost.
        """
        record = held.record
        mine = record.reading == reader
        if part and record.page_part == part:
            return same(held, "written")
        if record.phase is not T or not (mine or chunks or lost):
            return same(held, "late")
        draft = self._draft(held, now)
        if lost or not mine:
            draft.set(stream_incomplete=1)
        if chunks and (mine or record.attempt == 1):  # of an attempt before this one they say nothing of this one
            draft.began(now)
        if not _kept(draft, chunks):  # nothing more is read of a stream of which nothing more is kept
            again_ms, more = None, False
        draft.set(page_part=part)
        if chunks and record.drain_until:
            draft.set(drain_until=drains_until(record, now))
        if mine:
            draft.set(reading=reader if more else "").read_stream(again_ms)
            if again_ms is None:
                draft.set(stream_done=1)
                if record.due == Step.POLL:
                    draft.due(Step.POLL)
        return check(draft.done("read"), "stream")


def _kept(draft: Draft, chunks: Sequence[tuple[Any, Any]]) -> bool:
    """Record chunks; False when there is no room for all of them."""
    for output, metrics in chunks:
        if draft.full_of_chunks:
            draft.set(stream_incomplete=1)
            return False
        draft.chunk(output, metrics)
    return True


def drained(draft: Draft) -> bool:
    """An end waits a while for its last chunks, so that it stays the last event of its round."""
    record = draft.record
    if not record.drain_until:
        draft.set(drain_since=draft.now, drain_until=draft.now + DRAIN_MS)
    elif draft.now >= record.drain_until:
        draft.set(stream_done=1, stream_incomplete=1).read_stream(None)
        return True
    if not record.reading:
        draft.read_stream(0)
    draft.due(Step.POLL, DRAIN_LOOK_MS)
    return False


def drains_until(record: Record, now: int) -> int:
    """How long an end waits after chunks that came now."""
    most = DRAIN_MOST_SYNC_MS if record.sync_wait_ms else DRAIN_MOST_MS
    return min(now + DRAIN_MS, (record.drain_since or now) + most)


def lacks_chunks(record: Record, heard: Observation) -> bool:
    """Whether this end is made or mended from the chunks, and was not read together with all of them."""
    recorded = record.chunks - record.chunks_from
    wanted = (recorded and heard.output in {None, "[]"}) or record.stream_incomplete
    return bool(wanted) and (heard.chunks is None or max(heard.chunks_to, len(heard.chunks)) < recorded)


def with_chunks(draft: Draft, heard: Observation) -> Observation:
    """An empty aggregate is filled from the chunks, and lost chunks from the aggregate (I13)."""
    record = draft.record
    known = list(heard.chunks or ())
    if heard.output in {None, "[]"}:
        if len(known) < record.chunks - record.chunks_from:  # who has read chunks may have deleted them
            draft.set(stream_incomplete=1)
        # Without `return_aggregate_stream` a generator's output is an empty list: its chunks are the output.
        return replace(heard, output=dumps(known), ref=None) if known else heard
    whole = json.loads(heard.output or "null") if record.stream_incomplete else None
    if isinstance(whole, list) and _runs_through(known, whole):
        first = record.chunks_from
        lost = [(n, item) for n, item in enumerate(whole) if n >= len(known) or known[n] != item]
        if len(lost) > MEND_MAX:
            return heard
        for n, item in lost:
            draft.mend_chunk(first + n, item)
        draft.set(stream_repaired=len(lost))
    return heard


def _runs_through(known: Sequence[Any], whole: Sequence[Any]) -> bool:
    """Whether all that is known stands in the whole, in this order: only then is the whole what was streamed."""
    left = iter(whole)
    return all(any(item == one for one in left) for item in known)
