"""The answer to a request that came before.

To each sender, where results are messages (`rpc://`, I2); elsewhere where nothing of it is stored for Celery, because
it came by another door, ignored its result, or the result is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import DisabledBackend

from bridge.doors.celery.canvas import plain_canvas
from bridge.engine.accept.repeated import too_many
from bridge.engine.tell.celery_result import celery_end
from bridge.engine.tell.rpc_results import askers
from bridge.errors import BridgeError, JobRejected, LedgerUnavailable
from bridge.job.enums import Sink, Status
from bridge.job.record import Long
from bridge.ledger.records.read import COMMON
from bridge.redis.outage import is_outage

if TYPE_CHECKING:
    from celery.app.task import Context

    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.ledger import Ledger


def answer_again(backend: Any, ledger: Ledger, context: Context, limit: int, refusal: JobRejected | None) -> None:
    """The end now, or with the first sender's once there is one.

    A refused one is told so, unless it waits where the first sender waits: under one id there is one answer at one
    place, and it gets the first one's end.
    """
    wanted = (*COMMON, Long.CANVAS)
    held = ledger.load(context.id, wanted=wanted, output=True)
    if refusal is not None:
        known = askers((held.json(Long.CANVAS) or {}) if held is not None else {})
        if all(asker.reply_to != context.reply_to for asker in known):
            backend.store_result(context.id, refusal, states.FAILURE, request=context)
            return
    if held is not None and not held.record.phase.ended:
        asker = {"reply_to": context.reply_to, "correlation_id": context.correlation_id}
        mine = plain_canvas(context)
        change: Change = ledger.change(held, lambda fresh, now: ledger.table.also_answer(fresh, now, mine, asker))
        if change.verdict == "full":
            backend.store_result(context.id, too_many(context.id, "reply_to"), states.FAILURE, request=context)
            return
        if not change.after.record.phase.ended:
            return
        held = ledger.load(context.id, wanted=wanted, output=True)
    _store_end(backend, ledger, context, limit, held)


def store_again(backend: Any, ledger: Ledger, context: Context, limit: int, conflict: JobRejected | None) -> None:
    """The end, or `conflict` where nobody of Celery's owns the id; nothing where a result is stored, or will be."""
    try:
        if isinstance(backend, DisabledBackend) or backend.get_state(context.id) in states.READY_STATES:
            return
        _store_again(backend, ledger, context, limit, conflict)
    except BridgeError:
        raise
    except Exception as error:
        if is_outage(error):
            raise LedgerUnavailable(f"results: {error}") from error
        raise


def _store_again(backend: Any, ledger: Ledger, context: Context, limit: int, conflict: JobRejected | None) -> None:
    wanted = (*COMMON, Long.CANVAS)
    held = ledger.load(context.id, wanted=wanted, output=True)
    canvas = (held.json(Long.CANVAS) or {}) if held is not None else {}
    told = bool(canvas) and not canvas.get("options", {}).get("ignore_result")
    if conflict is not None:
        if held is not None and not told:
            backend.store_result(context.id, conflict, states.FAILURE, request=context)
        return
    if held is not None and not held.record.phase.ended:
        if told:
            return
        mine = plain_canvas(context)
        change: Change = ledger.change(held, lambda fresh, now: ledger.table.also_answer(fresh, now, mine))
        if not change.after.record.phase.ended:
            return
        held, told = ledger.load(context.id, wanted=wanted, output=True), False
    if held is not None and told and Sink.CELERY in held.record.waiting_sinks:
        return
    _store_end(backend, ledger, context, limit, held)


def _store_end(backend: Any, ledger: Ledger, context: Context, limit: int, held: Held | None) -> None:
    if held is None or _is_gone(held):
        backend.store_result(context.id, _forgotten(context.id), states.FAILURE, request=context)
        return
    end = celery_end(held, limit=limit, clock_offset=ledger.clock.offset)
    backend.store_result(context.id, end.result, end.state, request=context)


def _is_gone(held: Held) -> bool:
    """Whether it completed, and its output is no longer kept."""
    record = held.record
    if record.status != Status.COMPLETED or record.whole_document:
        return False
    return held.output is None and not record.output_missing and not (held.json(Long.OUTPUT_REF) or {}).get("url")


def _forgotten(request_id: str) -> JobRejected:
    return JobRejected(
        f"id: {request_id} is the id of an earlier request, whose result is no longer kept; send it with another id",
        {"id": request_id, "status": "REJECTED", "reason": "id_conflict", "field": "id"},
    )
