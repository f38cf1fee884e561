"""Chunks of a stream, while the job runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.job.change import Change, Draft
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.state_table import T, check, same
from bridge.job.transitions.base import Base
from bridge.job.transitions.chunks import drains_until


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
