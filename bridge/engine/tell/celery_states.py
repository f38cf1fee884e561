"""Celery's view of a request on its way: ACCEPTED, IN_QUEUE, IN_PROGRESS; never written over an end.

Only the newest state of a request is written. Losing one costs nothing: the next observation writes again. One that
covers an end costs everything: who waits for the result would wait for ever. In Redis the look and the write are one
script; on other backends a second look follows the write.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery.backends.redis import RedisBackend

from bridge.engine.tell.celery_result import CeleryEnd, celery_end
from bridge.engine.tell.rpc_results import answers_senders, askers
from bridge.errors import LedgerError
from bridge.job.enums import Phase, Status
from bridge.job.record import Long
from bridge.ledger.records.read import ALL
from bridge.redis.outage import is_outage
from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from bridge.engine.endpoint_health import Waiting
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.job.record import Record
    from bridge.ledger import Ledger

BATCH = 100
IDLE_S, AGAIN_S = 1.0, 0.2

# KEYS the results  ARGV 1 seconds that they are kept, 0 for ever, then of each: its state, and since when its round
# runs ("" for the first). An end is covered only by a later round; what is not a result of Celery's is left alone, and
# so is what is compressed: states never are, so it is an end.
_STORE = """
local function ended(key, since)
  local text = redis.pcall('GET', key)
  if not text then return false end
  if type(text) ~= 'string' then return true end
  local read, meta = pcall(cjson.decode, text)
  if not read or type(meta) ~= 'table' then return true end
  if meta.status ~= 'SUCCESS' and meta.status ~= 'FAILURE' and meta.status ~= 'REVOKED' then return false end
  return since == '' or type(meta.date_done) ~= 'string' or string.sub(meta.date_done, 1, #since) >= since
end
local kept = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local state, since = ARGV[2 * i], ARGV[2 * i + 1]
  if not ended(key, since) then
    if kept > 0 then redis.call('SET', key, state, 'EX', kept) else redis.call('SET', key, state) end
    redis.call('PUBLISH', key, state)
  end
end
"""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What Celery is to show of a request."""

    state: str
    info: dict[str, Any]
    since: str  # when its round began, "" for the first one
    replaces: str = ""  # the task that has replaced itself by it, which shows the same until its own end
    waits: bool = False  # only news of why it waits: nothing, where it does not wait any more


class States:
    """`changed` from any thread; `once` writes what is newest."""

    def __init__(
        self, ledger: Ledger, app: Celery, waiting: Callable[[Held], Waiting | None], celery_limit: int
    ) -> None:
        """`waiting` says why a request waits."""
        self._ledger = ledger
        self._app = app
        self._waiting = waiting
        self._celery_limit = celery_limit
        self._lock = threading.Lock()
        self._newest: dict[str, _Shown] = {}
        self._written: set[str] = set()  # states just written without a look, whose requests may have ended meanwhile
        self.wake: Callable[[], None] = lambda: None

    def changed(self, change: Change) -> None:
        """A request that Celery knows has a new status."""
        before, record = change.before, change.record
        if record.door != "celery" or record.silent or record.phase.ended or change.empty:
            return
        if before is not None and _told_by(before) == _told_by(change.after):
            if before.record.phase is Phase.SUBMITTING and record.phase is Phase.ACCEPTED:
                self.waits(change.after)  # whoever told the others why they wait did not find this one among them
            return
        self.put(change.after)

    def put(self, held: Held) -> None:
        """Have the state of a request written soon."""
        shown = self._shown(held)
        with self._lock:
            self._newest[held.record.id] = shown
        self.wake()

    def waits(self, held: Held) -> None:
        """The reason for which a request waits has changed; anything newer of it goes before."""
        shown = self._shown(held, waits=True)
        with self._lock:
            self._newest.setdefault(held.record.id, shown)
        self.wake()

    def _shown(self, held: Held, *, waits: bool = False) -> _Shown:
        record = held.record
        return _Shown(self._state(held), self._info(held), self._since(record), record.replaces, waits)

    @staticmethod
    def _state(held: Held) -> str:
        return (
            held.record.status if held.record.status in {Status.IN_QUEUE, Status.IN_PROGRESS} else Status.ACCEPTED.value
        )

    def _info(self, held: Held) -> dict[str, Any]:
        record = held.record
        info: dict[str, Any] = {"endpoint": record.endpoint, "job_id": record.job_id or None, "attempt": record.attempt}
        with suppress(LedgerError):  # a state on the way is worth no wait
            waiting = self._waiting(held)
            info |= waiting.told() if waiting else {}
        progress = held.json(Long.PROGRESS)
        if progress is not None:
            info["progress"] = progress
        return info

    def once(self) -> float:
        """Returns seconds until the next look."""
        with self._lock:
            batch = [(key, self._newest.pop(key)) for key in list(self._newest)[:BATCH]]
        taken = len(batch)
        if batch:
            phases = self._ledger.phases([key for key, _ in batch])
            batch = [
                (key, shown)
                for (key, shown), phase in zip(batch, phases, strict=True)
                if phase is not None and (phase is Phase.ACCEPTED if shown.waits else not phase.ended)
            ]
        if batch:
            self._store(batch)
        self._look_again()
        return 0.0 if taken == BATCH else AGAIN_S if self._written else IDLE_S

    def _look_again(self) -> None:
        """An end may have been stored while we wrote (facts: the backend itself guards only SUCCESS).

        A request that ended meanwhile is looked at until its end has been told, and then told once more.
        """
        ended = self._ended(list(self._written))
        for request_id, phase in ended.items():
            if phase is not Phase.SETTLED:
                self._store_end_again(request_id)
        self._written = {request_id for request_id, phase in ended.items() if phase is Phase.SETTLED}

    def _ended(self, request_ids: list[str]) -> dict[str, Phase | None]:
        phases = self._ledger.phases(request_ids) if request_ids else []
        found = zip(request_ids, phases, strict=True)
        return {key: phase for key, phase in found if phase is None or phase.ended}

    def _store(self, batch: list[tuple[str, _Shown]]) -> None:
        backend: Any = self._app.backend
        if isinstance(backend, RedisBackend):
            told: list[Any] = []
            try:
                every = [(request_id, shown, shown.since) for request_id, shown in batch]
                # Of a replaced task only the script is safe: its end is somebody else's, and could not be told again.
                every += [(shown.replaces, shown, "") for _, shown in batch if shown.replaces]
                for task_id, shown, since in every:
                    told += (_plain(backend, _meta(task_id, shown.state, shown.info)), since)
                keys = [backend.get_key_for_task(task_id) for task_id, _, _ in every]
                backend.client.eval(_STORE, len(keys), *keys, int(backend.expires or 0), *told)
            except Exception as error:
                if is_outage(error) or len(batch) == 1:
                    raise
                self._one_by_one(batch)
            return
        if answers_senders(backend):
            found = self._ledger.load_many([request_id for request_id, _ in batch], wanted=(Long.CANVAS,))
            for request_id, shown in batch:
                self._answer(found.get(request_id), shown.info, shown.state)
        else:
            for request_id, shown in batch:
                backend.store_result(request_id, shown.info, shown.state)
        self._written.update(request_id for request_id, _ in batch)

    def _answer(self, held: Held | None, result: Any, state: str) -> None:
        """To each that asked."""
        if held is None:
            return
        # Once to each queue: a state is news, and not the answer to one send of several.
        places = {asker.reply_to: asker for asker in askers(held.json(Long.CANVAS) or {})}
        for asker in places.values():
            self._app.backend.store_result(held.record.id, result, state, request=asker)

    def _one_by_one(self, batch: list[tuple[str, _Shown]]) -> None:
        """One of them cannot be shown: the others are."""
        for one in batch:
            try:
                self._store([one])
            except Exception as error:
                if is_outage(error):
                    raise
                tell("record.failed", request_id=one[0], endpoint="", error=f"its state: {type(error).__name__}")

    def _since(self, record: Record) -> str:
        """Since when a later round runs, to the millisecond, as Celery writes the time of an end."""
        if record.round == 1:
            return ""
        at = datetime.fromtimestamp((record.submitted_at - self._ledger.clock.offset) / 1000, UTC)
        return at.astimezone(self._app.timezone).replace(tzinfo=None).isoformat(timespec="milliseconds")

    def _store_end_again(self, request_id: str) -> None:
        held = self._ledger.load(request_id, wanted=ALL, output=True)
        if held is None:
            return
        tell("state.repaired", request_id=request_id, endpoint=held.record.endpoint)
        end: CeleryEnd = celery_end(held, limit=self._celery_limit, clock_offset=self._ledger.clock.offset)
        if answers_senders(self._app.backend):
            self._answer(held, end.result, end.state)
        else:
            self._app.backend.store_result(request_id, end.result, end.state)


def _told_by(held: Held) -> tuple[object, ...]:
    return held.record.status, held.record.unread_told, held.record.denied_at, held.long.get(Long.PROGRESS)


def _plain(backend: Any, meta: dict[str, Any]) -> Any:
    """As the backend writes it, but for `result_compression`: the script could not read it, nor the next one cover it.

    Whoever reads results with that setting reads those that are not compressed as well.
    """
    return backend._encode(meta)[2]  # noqa: SLF001


def _meta(request_id: str, state: str, info: dict[str, Any]) -> dict[str, Any]:
    """What Celery's backends keep of a task (`Backend._get_result_meta`)."""
    return {
        "status": state,
        "result": info,
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": request_id,
    }
