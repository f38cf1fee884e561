"""Keeps time: records whose clocks have run out, and the engine's beat."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.job.change import Change
    from bridge.ledger import Ledger

#: Seconds between turns; also how late a clock may be acted on.
TURN_S = 0.5
BATCH = 200
BEAT_S = 1.0


@dataclass(slots=True)
class Sweep:
    """One `once()` beats, and acts on clocks that have run out."""

    ledger: Ledger
    engine_id: str
    noticed: Callable[[Change], None]
    flush_budget: Callable[[], None]
    _beat_at: float = field(default=0.0, init=False)
    _unreadable: set[str] = field(default_factory=set, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        now = time.monotonic()
        if now - self._beat_at >= BEAT_S:
            self._beat()
            self._beat_at = now
        self.flush_budget()
        held, wait_ms = self.ledger.timers(BATCH)
        table = self.ledger.table
        for one in held:
            try:
                change = self.ledger.change(one, table.tick)
            except (AssertionError, ValueError, TypeError, KeyError) as error:
                # Its clock is set to an hour from now: many of its kind must not stand before everybody else's.
                self.ledger.isolate(one.record.id, f"{type(error).__name__}: {error}")
                continue
            self.noticed(change)
        if len(held) == BATCH:
            return 0.0
        return TURN_S if wait_ms < 0 else min(TURN_S, wait_ms / 1000)

    def _beat(self) -> None:
        """Also notices a ledger that came back without its latest writes (HARDENING 19)."""
        beat = self.ledger.engines.beat(self.engine_id)
        tell("engine.beat", engine=self.engine_id, engines=beat.engines)
        if beat.lost:
            tell("ledger.rolled_back", lost=beat.lost)
        if beat.doubt:
            self._doubt(beat.doubt)
        for key, why in self.ledger.asides().items():
            tell("key.set_aside", key=key, why=why, kept_in=f"{self.ledger.names.prefix}aside:{key}")
        unreadable = self.ledger.unreadable()
        for request_id in unreadable.keys() - self._unreadable:
            tell("record.failed", request_id=request_id, endpoint="", error=unreadable[request_id])
        self._unreadable = set(unreadable)

    def _doubt(self, since: int) -> None:
        """What says "never sent" may have been: its answer counts as lost, and `delivery` decides. Then submits go on.

        Whoever dies on the way leaves the doubt standing, and the next beat of any engine goes on.
        """
        doubtful = self.ledger.engines.doubtful(since)
        for change in self.ledger.change_many([(held, self.ledger.table.doubted) for held in doubtful]):
            self.noticed(change)
        if not doubtful:
            self.ledger.engines.doubt_over(since)
