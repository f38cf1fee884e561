"""Chunks of a stream, while the job runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.job.change import Change
from bridge.job.document import Held
from bridge.job.table import T, check, same
from bridge.job.transitions.base import Base
from bridge.job.transitions.chunks import DRAIN_MS
from bridge.job.words import Step


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
        self, held: Held, now: int, chunks: Sequence[tuple[Any, Any]], *, reader: str, again_ms: int | None, lost: bool
    ) -> Change:
        """What a /stream call brought. `again_ms` None: the job has ended and nothing is left to read.

        Chunks are facts and are kept whoever brings them; only who is `reading` now says when the next read is due.
        """
        record = held.record
        mine = record.reading == reader
        if record.phase is not T or not (mine or chunks or lost):
            return same(held, "late")
        draft = self._draft(held, now)
        if lost or not mine:
            draft.set(stream_incomplete=1)
        if chunks and (mine or record.attempt == 1):  # of an attempt before this one they say nothing of this one
            draft.began(now)
        for output, metrics in chunks:
            draft.chunk(output, metrics)
        if chunks and record.drain_until:
            draft.set(drain_until=now + DRAIN_MS)
        if mine:
            draft.set(reading="").read_stream(again_ms)
            if again_ms is None:
                draft.set(stream_done=1)
                if record.due == Step.POLL:
                    draft.due(Step.POLL)
        return check(draft.done("read"), "stream")
