"""The second half of a Celery-born request: its end, run by Celery's tracer as `bridge.run` under the original id.

`bridge.finish` is only the message by which it comes. What is traced is `bridge.run` itself, so that signals, Sentry
and OpenTelemetry hear of a job by the name that its caller knows, once, with the job's own run time.

The order that makes a copy harmless (HARDENING 8): a turn is taken in the ledger; the tracer publishes link and chain;
`continued` is recorded; the result is stored; `delivered` is recorded. A copy that comes in between either finds
somebody else's turn, or `continued` and only stores.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import signals, states
from celery.app import trace
from celery.exceptions import Ignore

from bridge.doors.celery.accept.task import AcceptTask, OwnTraceTask, ignored
from bridge.doors.celery.canvas import followers, put_back
from bridge.doors.celery.finish.backend import ComesAgain, LedgerBackend, turn_of
from bridge.doors.celery.finish.finish_lease import Finishing, FinishLease, begin
from bridge.doors.celery.send_follow_ups import sending_behind
from bridge.engine.tell.celery_result import CeleryEnd
from bridge.engine.tell.finish import TRACE
from bridge.job.document import Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery.app.task import Context


#: Where the finish's request has the end, if this process has just read it.
KNOWN = "bridge_known"


@dataclass(slots=True)
class Telling:
    """Which end is to be told: no message can bring one, or an end that is known: JSON has no such values."""

    request_id: str
    round: int
    nonce: str
    known: Held | None = None
    turn: FinishLease | None = None

    def unsendable(self, follow_up: Context, error: Exception) -> None:
        """Nothing is sent before a turn is taken."""
        if self.turn is not None:
            self.turn.unsendable(follow_up, error)

    def held(self, follow_up: Mapping[str, Any]) -> bool:
        """See `FinishLease.held_back`."""
        return self.turn is not None and self.turn.held_back(follow_up)


class RunTask(AcceptTask):
    """Base of `bridge.run`: for an end its backend asks the ledger, and `delivered` is its last word."""

    _ledger_backend: LedgerBackend | None = None
    _end_tracer: Any = None

    def _take_tracer(self, tracer: Any) -> None:
        super()._take_tracer(tracer)
        # By its place in Celery: there the tools that watch tasks put their own.
        self._end_tracer = trace.build_tracer(self.name, self, self.app.loader, app=self.app, monotonic=_clock)

    def end(self, task_id: str, kwargs: dict[str, Any], request: dict[str, Any] | None) -> Any:
        """Trace an end, of which the message of `bridge.finish` speaks."""
        round_, nonce = kwargs.get("round"), kwargs.get("nonce")
        if not isinstance(round_, int) or not isinstance(nonce, str):
            return ignored()
        _job.ran_s = 0.0
        request, callers = dict(request or {}), kwargs.get("trace")
        request |= {k: v for k, v in callers.items() if k in TRACE} if isinstance(callers, dict) else {}
        known = request.pop(KNOWN, None)
        telling = request["bridge_telling"] = Telling(
            task_id, round_, nonce, known if isinstance(known, Held) else None
        )
        with sending_behind(telling):
            try:
                return self._end_tracer(task_id, (), {}, request)
            except ComesAgain:
                return ignored()

    @property
    def backend(self) -> Any:
        """The app's backend, with the ledger's word in it."""
        if self._ledger_backend is None:
            self._ledger_backend = LedgerBackend(self._get_app(), super().backend)
        return self._ledger_backend

    @staticmethod
    def answer(end: CeleryEnd) -> Any:
        """A traceback begins here, and shows nothing of what was at hand when the end was found."""
        if end.state == states.FAILURE:
            raise end.result
        return end.result

    @property
    def watched(self) -> bool:
        """Whether a tool has put its own around what is traced (as Sentry does)."""
        return "run" in vars(self)

    def after_return(self, status: str, _retval: Any, _task_id: str, _args: Any, _kwargs: Any, _einfo: Any) -> None:
        """Runs after callbacks and store: `delivered` only if what was stored is the ledger's end."""
        turn = turn_of(self.request)
        if turn is not None and not turn.given_back and status == turn.end.state:
            turn.delivered()
            if status == states.FAILURE:
                turn.abort_chord()


class FinishTask(OwnTraceTask):
    """Base of `bridge.finish`."""

    def _trace(self, uuid: str, _args: Any, kwargs: Any, request: Any = None) -> Any:
        return self.app.tasks["bridge.run"].end(uuid, kwargs, request)


_job = threading.local()


def _clock() -> float:
    """Celery's tracer takes a run time by two looks at it; the job has run meanwhile, though not here."""
    return time.monotonic() + float(getattr(_job, "ran_s", 0.0))


def finish(task: RunTask, telling: Telling, uses: Finishing) -> CeleryEnd:
    """What the task is to answer; a cancel is told here, and Ignore raised."""
    context = task.request
    turn = begin(uses, task.app.backend, context, telling.round, telling.nonce, telling.known)
    context.bridge_turn = telling.turn = turn
    _job.ran_s = max(0, turn.held.record.execution_time) / 1000
    put_back(context, turn.canvas, continued=turn.continued)
    if turn.held.record.round > 1:
        # Later rounds replace the stored result; link, chain and chord have heard the first.
        context.update(callbacks=None, errbacks=None, chain=None, chord=None)
    if turn.end.state == states.REVOKED:
        _revoke(task, context, turn, cancel_is_failure=uses.settings.bridge_cancel_is_failure)
    return turn.end


def _revoke(task: RunTask, context: Context, turn: FinishLease, *, cancel_is_failure: bool) -> None:
    """A cancelled request: REVOKED as Celery's own revoke stores it; the chord it is in fails instead of hanging."""
    inner = task.backend.inner
    ignored = turn.canvas.get("options", {}).get("ignore_result")
    try:
        inner.mark_as_revoked(context.id, turn.end.result.args[0], request=context, store_result=not ignored)
        task.backend.tell_others(turn, states.REVOKED, turn.end.result)
        for follower in followers(context.chain):  # as Celery does for a failure, so that nobody waits for ever
            store = not ignored and follower.id is not None
            inner.mark_as_revoked(follower.id, turn.end.result.args[0], request=follower, store_result=store)
        if cancel_is_failure and context.errbacks:
            inner._call_task_errbacks(context, turn.end.result, None)  # noqa: SLF001
    except Exception as error:
        turn.could_not(context, error)
        raise Ignore from error
    turn.mark_continued()
    has_job = bool(turn.held.record.job_id)
    signals.task_revoked.send(sender=task, request=context, terminated=has_job, signum=None, expired=False)
    turn.delivered()
    turn.abort_chord()
    raise Ignore
