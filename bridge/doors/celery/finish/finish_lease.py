"""The right to tell one end: who has it stores the end and sends what follows, and nobody else does (I8)."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from celery import states
from celery.canvas import Signature
from celery.exceptions import Ignore

from bridge.doors.celery.canvas import continues_beside_chord, fail_followers
from bridge.doors.celery.consumer.blot_secrets import blot
from bridge.doors.celery.send_follow_ups import cause_of, is_outage
from bridge.doors.celery.servers import open_results
from bridge.doors.celery.wait_for_ledger import wait_for_ledger
from bridge.engine.control import Asker
from bridge.engine.tell.celery_result import CeleryEnd, celery_end, undeliverable
from bridge.engine.tell.finish import WANTED
from bridge.engine.tell.kombu_json import dumps, load
from bridge.errors import BridgeError, JobRejected, LedgerFault
from bridge.job.document import document
from bridge.job.enums import DeadReason, Reason, Sink
from bridge.job.record import Long
from bridge.job.request import rejected
from bridge.ledger.stores.scheduled_commands import BYTES_MAX
from bridge.ledger.streams.dead_letters import ORIGINAL_MAX
from bridge.runtime.backoff import backoff
from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery.app.task import Context

    from bridge.engine.control import Control
    from bridge.engine.notifier import Notifier
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.settings import Settings

#: How soon what is held back is sent again.
_AGAIN_MS = 1_000
#: Seconds between the turns of one end: doubling from the first to the last.
_PAUSE_S, _PAUSE_MAX_S = 1.0, 300.0
#: Turns that count in an outage, however many it takes: the next one is half a minute away, and none is the last.
_OUTAGE_TURNS = 5
#: What a process gives to Celery beside what a message says.
_OBJECTS = frozenset({"producer", "publisher", "connection", "router", "result_cls", "task_type"})


@dataclass(frozen=True, slots=True)
class Finishing:
    """What telling an end uses."""

    settings: Settings
    ledger: Ledger
    control: Control
    notifier: Notifier


class FinishLease:
    """The right to tell one end, for as long as its lease lasts."""

    def __init__(self, uses: Finishing, backend: Any, held: Held, token: str, end: CeleryEnd) -> None:
        """Kept on the finish's context, where the backend finds it."""
        self._uses = uses
        self._backend = backend
        self.held = held
        self.canvas = load(held.long.get(Long.CANVAS))
        self.token = token
        self.end = end
        self.given_back = False
        self._published = False

    @property
    def continued(self) -> bool:
        """Whether what follows has been published before."""
        return self._published or self.held.record.continued >= self.held.record.round

    def mark_continued(self) -> None:
        """What follows is published. Where nothing follows, or a chord alone, `delivered` says so as well.

        A chord hears of the end as the result is stored, once however often that is.
        """
        self._published = True
        if not continues_beside_chord(self.canvas):
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
        wished, group = self.held.json(Long.WISHED) or {}, self.canvas.get("group")
        if not self._uses.settings.bridge_chord_abort or not self.canvas.get("chord") or not group:
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
        self.give_back(error)

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

    def give_back(self, error: BaseException) -> None:
        """The end could not be stored: another turn, later."""
        if self.given_back:
            return
        self.given_back = True
        table, record = self._uses.ledger.table, self.held.record
        fault, turns_max = f"{type(error).__name__}: {error}", self._uses.settings.bridge_finish_turns_max
        passes = outlasts(error) or (record.turns >= turns_max and results_away(self._backend.app))
        back = partial(
            table.give_back_turn,
            turn=self.token,
            fault=fault,
            delay_ms=int(backoff(record.turns, _PAUSE_S, _PAUSE_MAX_S) * 1000),
            turns=turns_in_outage(turns_max) if passes else None,
        )
        wait_for_ledger(lambda: self._uses.ledger.change(self.held, back))
        tell("finish.failed", request_id=record.id, endpoint=record.endpoint, error=fault, turns=record.turns)


def begin(
    uses: Finishing, backend: Any, context: Context, round_: int, nonce: str, known: Held | None = None
) -> FinishLease:
    """Take the turn, or raise Ignore: a copy, a forgery, or an end that has been told.

    `known` was just read, but for its output it may be.
    """
    token = secrets.token_hex(8)
    if known is not None and known.output is None:
        known = known._replace(output=wait_for_ledger(lambda: uses.ledger.outputs([context.id]))[0])
    held = known or _read(uses.ledger, context.id)
    chord = (held.json(Long.CANVAS) or {}).get("chord")
    turn_ms = int(max(uses.settings.bridge_finish_turn_s, chord_claim_s(backend.app) if chord else 0.0) * 1000)
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
    # A turn that was taken onto another version than the known one: that has another output.
    mine = change.after if known is None or change.before is known else _read(uses.ledger, context.id)
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
    return FinishLease(uses, backend, mine, token, end)


def _read(ledger: Ledger, request_id: str) -> Held:
    held = wait_for_ledger(lambda: ledger.load(request_id, wanted=WANTED, output=True))
    if held is None:
        tell("finish.ignored", request_id=request_id, why="unknown")
        raise Ignore
    return held


def outlasts(error: BaseException) -> bool:
    """Whether it says nothing of this end: it is stored when the server takes anything again."""
    return is_outage(error) and not isinstance(cause_of(error), MemoryError | LedgerFault)


def results_away(app: Any) -> bool:
    """Whether the result backend answers nobody. Drivers of databases have words of their own for that."""
    try:
        open_results(app)
    except BridgeError:
        return True
    return False


def turns_in_outage(turns_max: int) -> int:
    """How many turns count as taken after one that met an outage."""
    return max(0, min(_OUTAGE_TURNS, turns_max - 1))


@lru_cache(maxsize=1)
def chord_claim_s(app: Any) -> float:
    """How long a process that died while it sent a chord's body keeps others from sending it; 0 for never.

    Celery 5.7's Redis backend leaves a claim behind. A turn must outlast it: the next finish would find the claim,
    send nothing, and count as delivered, and the chord would hang for ever. The app's settings stay as they are.
    """
    estimate = getattr(app.backend, "_chord_publish_claim_expires", None)
    if estimate is None:
        return 0.0
    join_s = app.conf.result_chord_join_timeout or 5.0
    return float(estimate(max(5, int(join_s * 2)), Signature("body", app=app))) + 1.0
