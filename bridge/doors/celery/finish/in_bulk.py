"""Stores ends that nothing follows, many in one round trip, as Celery's tracer would store each.

Celery's tracer is there for what follows a task: link, chain, chord, signals, every backend. Most requests have none of
it: their end is one value under one key, and the tracer's way to it is a turn, a read, a write and a word to the ledger
for each alone. Here a turn is taken for all of a batch (I8), the values are stored, and `delivered` is said for all.
Whatever is not plain, and whatever could not be stored here, goes through the tracer.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from celery.exceptions import Reject
from kombu.exceptions import EncodeError

from bridge.doors.celery.canvas import continues
from bridge.doors.celery.finish.finish_lease import outlasts, turns_in_outage
from bridge.doors.celery.wait_for_ledger import wait_for_ledger
from bridge.doors.celery.worker.listeners import heard
from bridge.engine.tell.celery_result import celery_end
from bridge.job.enums import Sink, Status
from bridge.job.record import Long
from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from bridge.engine.notifier import Notifier
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.settings import Settings

#: What the tracer would send around a finish; while somebody listens, it does.
_SIGNALS = (signals.task_prerun, signals.task_postrun, signals.task_success, signals.task_failure)


class PlainEnds:
    """Thread-safe. `takes` says which ends are plain; a call stores a batch of them."""

    def __init__(self, app: Celery, ledger: Ledger, notifier: Notifier, settings: Settings) -> None:
        """The result backend is looked at with each batch: it is made anew after a fork."""
        self._app = app
        self._ledger = ledger
        self._notifier = notifier
        self._settings = settings

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
        """Whether this end is one value under one key."""
        record, canvas = held.record, held.json(Long.CANVAS) or {}
        return (
            record.round == 1
            and record.status != Status.CANCELLED
            and record.turns < self._settings.bridge_finish_turns_max
            and not continues(canvas)
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
        ledger, table = self._ledger, self._ledger.table
        token, turn_ms = secrets.token_hex(8), int(self._settings.bridge_finish_turn_s * 1000)
        begin = partial(table.finish_begin, round_=1, turn=token, turn_ms=turn_ms)
        begun = wait_for_ledger(
            lambda: ledger.change_many([(held, partial(begin, nonce=held.record.nonce)) for held in batch])
        )
        # A turn that was taken onto the very version that was read: its output belongs to it.
        mine: list[Held] = []
        anew: list[Held] = []
        for held, change in zip(batch, begun, strict=True):
            if change.verdict == "turn":
                (mine if change.before is held else anew).append(change.after)
        if anew:
            self._give_back(anew, token, "the record changed while its end was to be stored", away=False)
        backend: Any = self._app.backend
        try:
            told = self._store(mine, backend)
        except (*backend.connection_errors, *backend.channel_errors, EncodeError, TypeError, ValueError) as error:
            self._give_back(mine, token, f"{type(error).__name__}: {error}", away=outlasts(error))
            return mine + anew
        said = partial(table.delivered, sink=Sink.CELERY, round_=1)
        for change in wait_for_ledger(lambda: ledger.change_many([(held, said) for held in mine])):
            self._notifier.changed(change)
            record = change.record
            tell("finish.delivered", request_id=record.id, endpoint=record.endpoint, state=told[record.id])
        return anew

    def _store(self, mine: Sequence[Held], backend: Any) -> dict[str, str]:
        """In one round trip, as `RedisBackend.set` does for one. Returns the states, by id."""
        limit, offset = self._settings.celery_limit, self._ledger.clock.offset
        told = {}
        with backend.client.pipeline(transaction=False) as pipe:
            for held in mine:
                task_id, end = held.record.id, celery_end(held, limit=limit, clock_offset=offset)
                request = _context(held)
                result = backend.encode_result(end.result, end.state)
                meta = backend._get_result_meta(result=result, state=end.state, traceback=None, request=request)  # noqa: SLF001
                key, value = backend.get_key_for_task(task_id), backend.encode({**meta, "task_id": task_id})
                pipe.set(key, value, ex=backend.expires or None)
                pipe.publish(key, value)
                told[task_id] = end.state
            pipe.execute()
        return told

    def _give_back(self, mine: Sequence[Held], token: str, fault: str, *, away: bool) -> None:
        turns = turns_in_outage(self._settings.bridge_finish_turns_max) if away else None
        back = partial(self._ledger.table.give_back_turn, turn=token, fault=fault, delay_ms=0, turns=turns)
        wait_for_ledger(lambda: self._ledger.change_many([(held, back) for held in mine]))


def _context(held: Held) -> Context:
    """The task's request as far as a stored result tells of it."""
    canvas = held.json(Long.CANVAS) or {}
    options = canvas.get("options", {})
    return Context(
        id=held.record.id,
        task=canvas.get("task"),
        group=canvas.get("group"),
        parent_id=options.get("parent_id"),
        retries=options.get("retries", 0),
        delivery_info=canvas.get("delivery_info"),
        args=(),
        kwargs={},
    )
