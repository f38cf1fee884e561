"""A stream and its end: the last chunks are waited for, and what was lost is filled in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bridge.job.change import Draft
from bridge.job.enums import Step
from bridge.job.observation import Observation
from bridge.job.record import Record, dumps

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
