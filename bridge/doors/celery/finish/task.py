"""The second half of a Celery-born request: its end, run by Celery's tracer as `bridge.run` under the original id.

`bridge.finish` is only the message by which it comes. What is traced is `bridge.run` itself, so that signals, Sentry
and OpenTelemetry hear of a job by the name that its caller knows, once, with the job's own run time.

The order that makes a copy harmless (HARDENING 8): a turn is taken in the ledger; the tracer publishes link and chain;
`continued` is recorded; the result is stored; `delivered` is recorded. A copy that comes in between either finds
somebody else's turn, or `continued` and only stores.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import signals, states
from celery.app import trace
from celery.canvas import Signature
from celery.exceptions import Ignore

from bridge.doors.celery.accept import AcceptTask, OwnTraceTask, ignored
from bridge.doors.celery.canvas import continues, fail_followers, followers, put_back
from bridge.doors.celery.consumer.secrets import blot
from bridge.doors.celery.known_ids import GuardedBackend
from bridge.doors.celery.sending import cause_of, is_outage, sending_behind
from bridge.doors.celery.wait_for_ledger import wait_for_ledger
from bridge.engine.control import Asker
from bridge.engine.tell.askers import answers_senders, askers
from bridge.engine.tell.finish import TRACE, CeleryEnd, celery_end, undeliverable
from bridge.engine.tell.kombu_json import dumps, load
from bridge.errors import JobError, JobRejected
from bridge.job.document import document
from bridge.job.record import Long
from bridge.job.request import rejected
from bridge.job.words import DeadReason, Reason, Sink
from bridge.ledger.later import BYTES_MAX
from bridge.ledger.records.read import COMMON
from bridge.ledger.streams.dead import ORIGINAL_MAX
from bridge.telemetry import tell
from bridge.timing import backoff

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery.app.task import Context

    from bridge.engine.control import Control
    from bridge.engine.notifier import Notifier
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.settings import Settings

_WANTED = (*COMMON, Long.CANVAS, Long.LAST_FAULT)
#: How soon what is held back is sent again.
_AGAIN_MS = 1_000
#: What a process gives to Celery beside what a message says.
_OBJECTS = frozenset({"producer", "publisher", "connection", "router", "result_cls", "task_type"})


@dataclass(frozen=True, slots=True)
class Finishing:
    """What telling an end uses."""

    settings: Settings
    ledger: Ledger
    control: Control
    notifier: Notifier


class Turn:
    """The right to tell one end, for as long as its lease lasts."""

    def __init__(self, uses: Finishing, backend: Any, held: Held, token: str, end: CeleryEnd) -> None:
        """Kept on the finish's context, where the backend finds it."""
        self._uses = uses
        self._backend = backend
        self.held = held
        self.token = token
        self.end = end
        self.given_back = False

    @property
    def continued(self) -> bool:
        """Whether what follows has been published before."""
        return self.held.record.continued >= self.held.record.round

    def mark_continued(self) -> None:
        """What follows is published; where nothing follows, `delivered` says so as well."""
        if not continues(self.held.json(Long.CANVAS) or {}):
            return
        table = self._uses.ledger.table
        change = wait_for_ledger(
            lambda: self._uses.ledger.change(self.held, lambda held, now: table.continued(held, now, self.token))
        )
        self.held = change.after

    def delivered(self) -> None:
        """The stored state is the ledger's end."""
        table, round_ = self._uses.ledger.table, self.held.record.round
        change = wait_for_ledger(
            lambda: self._uses.ledger.change(
                self.held, lambda held, now: table.delivered(held, now, Sink.CELERY, round_=round_)
            )
        )
        self._uses.notifier.changed(change)
        tell(
            "finish.delivered", request_id=self.held.record.id, endpoint=self.held.record.endpoint, state=self.end.state
        )

    def abort_chord(self) -> None:
        """BRIDGE_CHORD_ABORT: a chord whose body can not run any more needs none of its header's other jobs."""
        canvas, wished = self.held.json(Long.CANVAS) or {}, self.held.json(Long.WISHED) or {}
        group = canvas.get("group")
        if not self._uses.settings.bridge_chord_abort or not canvas.get("chord") or not group:
            return
        if wished.get("by") != "chord" and self.held.record.round == 1:
            wait_for_ledger(lambda: self._uses.control.cancel_all(Asker(by="chord", door="celery"), group=group))

    def could_not(self, context: Context, error: BaseException) -> None:
        """Sending what follows, or storing, went wrong: the end is stored in another turn, in any case.

        What is no outage before all is sent lies in what follows: then nothing of it is tried again.
        """
        if not is_outage(error) and not self.continued:
            behind = [*(context.callbacks or ()), *(context.chain or ())]
            if behind or context.errbacks:
                refusal = self._letter(dumps([*behind, *(context.errbacks or ())]), "what follows", "", error)
                context.update(callbacks=None, errbacks=None, chord=None, chain=behind)  # the chord hears of the end
                try:
                    fail_followers(self._backend, context, refusal)
                except (TypeError, ValueError, LookupError, AttributeError) as unreadable:  # told as far as it can be
                    tell("call.failed", call="fail what follows", error=type(unreadable).__name__)
                self.mark_continued()
        self.give_back(f"{type(error).__name__}: {error}")

    def unsendable(self, follow_up: Context, error: Exception) -> None:
        """No retry mends it: a dead letter, and FAILURE under its own id, for its chain, chord and errbacks too."""
        options = {
            name: value
            for name in ("group", "group_index", "chord", "chain", "errbacks", "root_id", "parent_id")
            if (value := getattr(follow_up, name))
        }
        signature = {"task": follow_up.task, "args": follow_up.args, "kwargs": follow_up.kwargs, "options": options}
        refusal = self._letter(dumps(signature), follow_up.task, follow_up.id, error)
        stored = not follow_up.ignore_result
        self._backend.mark_as_failure(follow_up.id, refusal, request=follow_up, store_result=stored)

    def _letter(self, body: str, task: str, task_id: str, error: BaseException) -> JobRejected:
        request_id, ledger = self.held.record.id, self._uses.ledger
        error = cause_of(error)
        text = f"{task} {task_id} cannot be sent behind {request_id}: {type(error).__name__}: {error}"
        raw, names = body.encode(), self._uses.settings.bridge_redact
        wait_for_ledger(
            lambda: ledger.dead.keep(
                DeadReason.UNDELIVERABLE,
                door="celery",
                body=raw,
                kept=blot(raw[:ORIGINAL_MAX], names),
                request_id=request_id,
                source=task,
                detail=text,
            )
        )
        return rejected("options", f"options: {text}", reason=Reason.UNDELIVERABLE.value)

    def held_back(self, follow_up: Mapping[str, Any]) -> bool:
        """What a chord sends, for one: Celery's backend would fail its body, for good, because of an outage.

        Links and chains of a success are not: for them a finish comes again, and they need no copy of the output.
        """
        if self.end.state == states.SUCCESS and not self.continued:
            return False
        ledger, task_id = self._uses.ledger, follow_up["options"]["task_id"]
        options = {name: value for name, value in follow_up["options"].items() if name not in _OBJECTS}
        message = dumps({**follow_up, "options": options, "subtask_type": None, "immutable": True})
        at = ledger.now() + _AGAIN_MS
        return len(message) <= BYTES_MAX and wait_for_ledger(lambda: ledger.later.keep(task_id, at, message))

    def give_back(self, fault: str) -> None:
        """The end could not be stored: another turn, later."""
        if self.given_back:
            return
        self.given_back = True
        table, record = self._uses.ledger.table, self.held.record
        delay_ms = int(backoff(record.turns, 1.0, 300.0) * 1000)
        wait_for_ledger(
            lambda: self._uses.ledger.change(
                self.held, lambda held, now: table.give_back_turn(held, now, self.token, fault, delay_ms=delay_ms)
            )
        )
        tell("finish.failed", request_id=record.id, endpoint=record.endpoint, error=fault, turns=record.turns)


def begin(uses: Finishing, backend: Any, context: Context, round_: int, nonce: str) -> Turn:
    """Take the turn, or raise Ignore: a copy, a forgery, or an end that has been told."""
    token = secrets.token_hex(8)
    held = wait_for_ledger(lambda: uses.ledger.load(context.id, wanted=_WANTED, output=True))
    if held is None:
        tell("finish.ignored", request_id=context.id, why="unknown")
        raise Ignore
    claim_s = chord_claim_s(backend) if (held.json(Long.CANVAS) or {}).get("chord") else 0.0
    turn_ms = int(max(uses.settings.bridge_finish_turn_s, claim_s) * 1000)
    table = uses.ledger.table
    change = wait_for_ledger(
        lambda: uses.ledger.change(
            held,
            lambda fresh, now: table.finish_begin(fresh, now, round_=round_, nonce=nonce, turn=token, turn_ms=turn_ms),
        )
    )
    if change.verdict != "turn":
        tell("finish.ignored", request_id=context.id, why=change.verdict)
        raise Ignore
    mine = change.after
    offset = uses.ledger.clock.offset
    end = celery_end(mine, limit=uses.settings.celery_limit, clock_offset=offset)
    if mine.record.turns > uses.settings.bridge_finish_turns_max:
        end = CeleryEnd(states.FAILURE, undeliverable(mine, offset))
        uses.ledger.dead.keep(
            DeadReason.UNDELIVERABLE,
            door="finish",
            source="bridge.finish",
            request_id=mine.record.id,
            body=json.dumps(document(mine, inline_limit=uses.settings.bridge_inline_limit, clock_offset=offset)),
            detail=mine.long.get(Long.LAST_FAULT, ""),
        )
    return Turn(uses, backend, mine, token, end)


def chord_claim_s(backend: Any) -> float:
    """How long a process that died while it sent a chord's body keeps others from sending it; 0 for never.

    Celery 5.7's Redis backend leaves a claim behind. A turn must outlast it: the next finish would find the claim,
    send nothing, and count as delivered, and the chord would hang for ever.
    """
    estimate = getattr(backend, "_chord_publish_claim_expires", None)
    if estimate is None:
        return 0.0
    join_s = backend.app.conf.result_chord_join_timeout or 5.0
    return float(estimate(max(5, int(join_s * 2)), Signature("body", app=backend.app))) + 1.0


class LedgerBackend:
    """Celery's result backend with the ledger's word between publishing what follows and storing the result."""

    def __init__(self, app: Any, guarded: GuardedBackend) -> None:
        """What is no end goes by `guarded`, which stores nothing under the id of a request."""
        self._app = app
        self._guarded = guarded

    @property
    def inner(self) -> Any:
        """Celery's own. Each thread may have another one: it is looked up at each call."""
        return self._app.backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guarded, name)

    def mark_as_done(self, task_id: str, result: Any, request: Any = None, *args: Any, **kwargs: Any) -> None:
        """Called by the tracer after link and chain are out."""
        turn = _turn_of(request)
        if turn is None:
            self._guarded.mark_as_done(task_id, result, request, *args, **kwargs)
            return
        turn.mark_continued()
        self.inner.mark_as_done(task_id, result, request, *args, **kwargs)
        self.tell_others(turn, states.SUCCESS, result)

    def mark_as_failure(self, task_id: str, exc: BaseException, *args: Any, request: Any = None, **kwargs: Any) -> None:
        """Only the ledger's own end is stored: a fault of publishing or storing is no end of the request."""
        turn = _turn_of(request)
        if turn is None:
            self._guarded.mark_as_failure(task_id, exc, *args, request=request, **kwargs)
            return
        if exc is not turn.end.result and not isinstance(exc, JobError):
            turn.could_not(request, exc)
            return
        del args  # the traceback of our own raise says nothing about the job
        self.inner.mark_as_failure(task_id, exc, None, request=request, **kwargs)
        self.tell_others(turn, states.FAILURE, exc)
        turn.mark_continued()

    def tell_others(self, turn: Turn, state: str, result: Any) -> None:
        """Those who sent the request again and wait at queues of their own."""
        backend, canvas = self.inner, turn.held.json(Long.CANVAS) or {}
        if answers_senders(backend):
            for asker in askers({"also": canvas.get("also", ())}):
                backend.store_result(turn.held.record.id, result, state, request=asker)


def _turn_of(request: Any) -> Turn | None:
    return getattr(request, "bridge_turn", None) if request is not None else None


@dataclass(slots=True)
class Telling:
    """Which end is to be told: no message can bring one, for JSON has no such value."""

    request_id: str
    round: int
    nonce: str
    turn: Turn | None = None

    def unsendable(self, follow_up: Context, error: Exception) -> None:
        """Nothing is sent before a turn is taken."""
        if self.turn is not None:
            self.turn.unsendable(follow_up, error)

    def held(self, follow_up: Mapping[str, Any]) -> bool:
        """See `Turn.held_back`."""
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
        telling = request["bridge_telling"] = Telling(task_id, round_, nonce)
        with sending_behind(telling):
            return self._end_tracer(task_id, (), {}, request)

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
        turn = _turn_of(self.request)
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
    turn = begin(uses, task.app.backend, context, telling.round, telling.nonce)
    context.bridge_turn = telling.turn = turn
    _job.ran_s = max(0, turn.held.record.execution_time) / 1000
    put_back(context, load(turn.held.long.get(Long.CANVAS)), continued=turn.continued)
    if turn.held.record.round > 1:
        # Later rounds replace the stored result; link, chain and chord have heard the first.
        context.update(callbacks=None, errbacks=None, chain=None, chord=None)
    if turn.end.state == states.REVOKED:
        _revoke(task, context, turn, cancel_is_failure=uses.settings.bridge_cancel_is_failure)
    return turn.end


def _revoke(task: RunTask, context: Context, turn: Turn, *, cancel_is_failure: bool) -> None:
    """A cancelled request: REVOKED as Celery's own revoke stores it; the chord it is in fails instead of hanging."""
    inner = task.backend.inner
    ignored = (turn.held.json(Long.CANVAS) or {}).get("options", {}).get("ignore_result")
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
