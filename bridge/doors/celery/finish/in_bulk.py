"""Stores ends that nothing follows, or a chord alone, many in one round trip, as Celery's tracer would store each.

Celery's tracer is there for what follows a task: link, chain, chord, signals, every backend. Most requests have none of
it: their end is one value under one key, and the tracer's way to it is a turn, a read, a write and a word to the ledger
for each alone. Here a turn is taken for all of a batch (I8), the values are stored, their chords are told, and
`delivered` is said for all. Whatever is not plain, and whatever could not be stored here, goes through the tracer.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import signals, states
from celery.backends.redis import RedisBackend
from celery.exceptions import Reject
from kombu.exceptions import EncodeError

from bridge.doors.celery.canvas import continues_beside_chord, original
from bridge.doors.celery.finish.chord_member import tell_chord
from bridge.doors.celery.finish.finish_lease import FinishLease, chord_claim_s, outlasts, turns_in_outage
from bridge.doors.celery.wait_for_ledger import wait_for_ledger
from bridge.doors.celery.worker.listeners import heard
from bridge.engine.tell.celery_result import celery_end
from bridge.job.enums import Sink, Status
from bridge.job.record import Long
from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery
    from celery.app.task import Context

    from bridge.doors.celery.finish.finish_lease import Finishing
    from bridge.job.document import Held

#: What the tracer would send around a finish; while somebody listens, it does.
_SIGNALS = (signals.task_prerun, signals.task_postrun, signals.task_success, signals.task_failure)
#: Seconds after which no further chord of a batch is told: one that joins a large header or meets a slow broker takes
#: its time, and each end's turn must outlast what Celery keeps of its chord under way (`chord_claim_s`).
CHORDS_S = 1.0


class PlainEnds:
    """Thread-safe. `takes` says which ends are plain; a call stores a batch of them."""

    def __init__(self, app: Celery, uses: Finishing) -> None:
        """The result backend is looked at with each batch: it is made anew after a fork."""
        self._app = app
        self._uses = uses
        self._ledger = uses.ledger
        self._settings = uses.settings

    def ready(self) -> bool:
        """Whether plain ends may be stored here: in Redis, while nobody watches what the tracer does."""
        app = self._app
        return (
            isinstance(app.backend, RedisBackend)
            and not app.conf.result_extended  # tells of arguments and worker, which the tracer knows
            and not heard(*_SIGNALS)
            and not app.tasks["bridge.run"].watched
        )

    def takes(self, held: Held) -> bool:
        """Whether this end is one value under one key, of which at most a chord hears, and then of a success."""
        record, canvas = held.record, held.json(Long.CANVAS) or {}
        return (
            record.round == 1
            and record.status != Status.CANCELLED
            and record.turns < self._settings.bridge_finish_turns_max
            and not continues_beside_chord(canvas)
            and (record.status == Status.COMPLETED or not canvas.get("chord"))
            and not canvas.get("options", {}).get("ignore_result")
        )

    def __call__(self, batch: Sequence[Held], *, whole: bool = False) -> Sequence[Held]:
        """Store these ends. Returns those that could not be stored: each is to go its own way through the tracer.

        They come with all that a result tells, but for the output, which is read here, unless they are `whole`.
        """
        try:
            return self._tell(batch if whole else self._with_outputs(batch))
        except Reject:  # the worker stops while the ledger is away: their turn ends, and they are due again
            return ()

    def _with_outputs(self, batch: Sequence[Held]) -> Sequence[Held]:
        outputs = wait_for_ledger(lambda: self._ledger.outputs([held.record.id for held in batch]))
        return [held._replace(output=output) for held, output in zip(batch, outputs, strict=True)]

    def _tell(self, batch: Sequence[Held]) -> Sequence[Held]:
        ledger, table, app = self._ledger, self._ledger.table, self._app
        token, turn_s = secrets.token_hex(8), max(self._settings.bridge_finish_turn_s, chord_claim_s(app) + CHORDS_S)
        until = time.monotonic() + CHORDS_S
        begin = partial(table.finish_begin, round_=1, turn=token, turn_ms=int(turn_s * 1000))
        begun = wait_for_ledger(
            lambda: ledger.change_many([(held, partial(begin, nonce=held.record.nonce)) for held in batch])
        )
        # A turn that was taken onto the very version that was read: its output belongs to it.
        mine: list[Held] = []
        alone: list[Held] = []
        for held, change in zip(batch, begun, strict=True):
            if change.verdict == "turn":
                (mine if change.before is held else alone).append(change.after)
        backend: Any = app.backend
        try:
            turns = [self._turn(held, backend, token) for held in mine]
            requests = [original(turn.held.record.id, turn.canvas) for turn in turns]
            self._store(turns, requests, backend)
        except (*backend.connection_errors, *backend.channel_errors, EncodeError, TypeError, ValueError) as error:
            turns_max = self._settings.bridge_finish_turns_max
            counted = turns_in_outage(turns_max) if outlasts(error) else turns_max
            self._give_back(mine + alone, token, f"{type(error).__name__}: {error}", counted)
            return mine + alone
        alone += self._tell_chords(turns, requests, until)
        if alone:
            self._give_back(alone, token, "it is to be told by itself")
        ids = {held.record.id for held in alone}
        told = [turn for turn in turns if not turn.given_back and turn.held.record.id not in ids]
        said = partial(table.delivered, sink=Sink.CELERY, round_=1)
        changes = wait_for_ledger(lambda: ledger.change_many([(turn.held, said) for turn in told]))
        for turn, change in zip(told, changes, strict=True):
            self._uses.notifier.changed(change)
            record = change.record
            tell("finish.delivered", request_id=record.id, endpoint=record.endpoint, state=turn.end.state)
        return alone

    def _turn(self, held: Held, backend: Any, token: str) -> FinishLease:
        end = celery_end(held, limit=self._settings.celery_limit, clock_offset=self._ledger.clock.offset)
        return FinishLease(self._uses, backend, held, token, end)

    @staticmethod
    def _store(turns: Sequence[FinishLease], requests: Sequence[Context], backend: Any) -> None:
        """In one round trip, as `RedisBackend.set` does for one."""
        with backend.client.pipeline(transaction=False) as pipe:
            for turn, request in zip(turns, requests, strict=True):
                task_id, end = turn.held.record.id, turn.end
                result = backend.encode_result(end.result, end.state)
                meta = backend._get_result_meta(result=result, state=end.state, traceback=None, request=request)  # noqa: SLF001
                key, value = backend.get_key_for_task(task_id), backend.encode({**meta, "task_id": task_id})
                pipe.set(key, value, ex=backend.expires or None)
                pipe.publish(key, value)
            pipe.execute()

    def _tell_chords(self, turns: Sequence[FinishLease], requests: Sequence[Context], until: float) -> list[Held]:
        """Returns those whose chord is to hear of them from the tracer."""
        left = []
        for turn, request in zip(turns, requests, strict=True):
            if not turn.canvas.get("chord"):
                continue
            if turn.end.state == states.SUCCESS and time.monotonic() < until:
                tell_chord(self._app, turn, request)
            else:
                left.append(turn.held)
        return left

    def _give_back(self, ends: Sequence[Held], token: str, fault: str, turns_max: int | None = None) -> None:
        """`turns_max`: how many turns count as taken; None where this one does not, because nothing was tried."""

        def back(held: Held) -> Any:
            turns = held.record.turns - 1 if turns_max is None else turns_max
            return partial(self._ledger.table.give_back_turn, turn=token, fault=fault, delay_ms=0, turns=turns)

        wait_for_ledger(lambda: self._ledger.change_many([(held, back(held)) for held in ends]))
