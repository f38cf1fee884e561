"""How each endpoint answers: feeds the gate, spaces tries while RunPod is away, remembers the last success."""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from bridge.engine.endpoint_health.endpoint_or_request import WholeEndpoint
from bridge.engine.endpoint_health.hold_submits import UnansweredSubmits
from bridge.errors import (
    ApiError,
    EndpointTrouble,
    JobUnknown,
    KeyUnusable,
    LedgerError,
    Throttled,
    Unanswered,
    Unreachable,
    Unreadable,
)
from bridge.runpod.limits.circuit_breaker import AWAY_MS, Denied
from bridge.runpod.limits.permits import Permits
from bridge.runpod.meaning import OF_A_JOB, SUBMITS
from bridge.runpod.operations import Operation
from bridge.runtime.backoff import backoff
from bridge.telemetry import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.runpod.answers import Health
    from bridge.runpod.limits.budget import Budget
    from bridge.runpod.limits.circuit_breaker import CircuitBreaker

T = TypeVar("T")
AWAY_BASE_S, AWAY_MAX_S = 0.25, 15.0
#: Seconds after which a process that gets no answer says so again to the others; well under `gate.AWAY_MS`.
SAY_AGAIN_S = 2.0
#: So many odd answers to reads in a row, and none as it should be between, are no longer one job's own.
ODD_IN_A_ROW = 3
#: Troubles that another key, or another id of the endpoint, may end.
MENDED_HERE = frozenset({"unauthorised", "forbidden", "key", "out_of_credit", "endpoint_unknown"})
#: Seconds between looks for the answer to a call that asks whether anybody is there.
ASK_S = 0.1
#: Milliseconds after which the permit of a process that died counts as used.
SLOT_MS = 30_000


class Waiting(NamedTuple):
    """Why requests of an endpoint wait: a closed word, what was said, and to which request (or "")."""

    reason: str
    says: str = ""
    request: str = ""

    def told(self) -> dict[str, str]:
        """As documents and Celery's states tell it."""
        named = {"waiting_for": self.reason, "waiting_says": self.says, "waiting_request": self.request}
        return {name: value for name, value in named.items() if value}


class EndpointHealth:
    """Thread-safe; one for all loops of a process.

    `ok` and `failed` are called between RunPod's answer and its way to the ledger, so an outage of the ledger must not
    come out of them: the answer (a job id, a page of chunks) would be lost with it. What the others are not told then,
    the next answer tells them.
    """

    def __init__(
        self,
        gate: CircuitBreaker,
        budget: Budget,
        now: Callable[[], int],
        gate_max_ms: int = 0,
        health: Callable[[str, str], Any] | None = None,
        stamp: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`now` is ledger time in ms; after `gate_max_ms` of trouble requests are refused (0: they wait).

        `health` asks for the health of an endpoint, by name and id; `stamp` changes with the endpoint's id and key.
        """
        self.gate = gate
        #: Whether what this process hears counts for all: an engine's word does, that of a single command does not.
        self.decides = True
        self._health, self._stamp = health, stamp
        self._whole = WholeEndpoint(budget, health, self._found_well, SLOT_MS) if health is not None else None
        self._unanswered = UnansweredSubmits()
        self._stamps: dict[str, object] = {}
        self._taken_at: dict[str, int] = {}
        #: Reads in a row that were answered, and not as they should be.
        self._odd: dict[str, int] = {}
        self._said_away: dict[str, tuple[float, str]] = {}
        self.budget = budget
        self._now = now
        self._gate_max_ms = gate_max_ms
        self._lock = threading.Lock()
        self._ok_at: dict[str, int] = {}
        self._away: dict[str, tuple[int, float]] = {}  # fails in a row, monotonic time of the next try

    def ok(self, endpoint: str, *, submitted: bool = False, probed: bool = False) -> None:
        """A call was answered with success; `submitted`: it was a submit, `probed`: it asked for this alone."""
        self._ok_at[endpoint] = self._now()
        if not probed:
            self._odd.pop(endpoint, None)
        if submitted:
            self._taken_at[endpoint] = self._now()
            self._stamps.pop(endpoint, None)
        self._unanswered.answered(endpoint, submitted=submitted)
        if endpoint in self._away:
            with self._lock:
                self._away.pop(endpoint, None)
                self._said_away.pop(endpoint, None)
            tell("runpod.back", endpoint=endpoint)
            self.gate.forget(endpoint)
        with suppress(LedgerError):
            self.gate.succeeded(endpoint, submitted=submitted)

    def ok_at(self, endpoint: str) -> int:
        """When that last was, in ledger time; 0 for never (in this process)."""
        return self._ok_at.get(endpoint, 0)

    def failed(self, endpoint: str, endpoint_id: str, op: Operation, error: ApiError) -> None:
        """A call was not: trouble closes the gate, 429 lowers the budget, silence spaces the tries."""
        if isinstance(error, Throttled):
            with suppress(LedgerError):
                self.budget.throttled(endpoint_id, op, error.delay_s)
        elif isinstance(error, Unreadable) and op not in SUBMITS:
            return  # of one job's answer: nobody else waits for it, and it is no sign of life either
        elif isinstance(error, KeyUnusable | Unreachable):
            self._spaced(endpoint, error, error.reason)
            return
        elif isinstance(error, Unanswered):
            if op in SUBMITS:
                self._unanswered.begins(endpoint)
            if not self._ones_own(endpoint, op, error):
                self._spaced(endpoint, error, "unreachable")
            return
        elif isinstance(error, EndpointTrouble) and self.decides:
            if op is not Operation.HEALTH and self.is_whole(endpoint, endpoint_id) is False:
                if not self._ones_own(endpoint, op, error):
                    self._spaced(endpoint, error, error.reason)
                return
            self._stamps.setdefault(endpoint, self._stamp(endpoint))
            with suppress(LedgerError):
                self.gate.trouble(endpoint, error.reason, error.message[:300])
        self._unanswered.answered(endpoint, submitted=False)

    def _ones_own(self, endpoint: str, op: Operation, error: ApiError) -> bool:
        """Whether an odd answer is one job's own, so that no other call need wait for it."""
        if error.code is None or op not in OF_A_JOB:
            return False
        with self._lock:
            self._odd[endpoint] = self._odd.get(endpoint, 0) + 1
            return self._odd[endpoint] < ODD_IN_A_ROW

    def denied(
        self, endpoint: str, endpoint_id: str, request_id: str, error: ApiError, *, before_ms: int
    ) -> tuple[Denied, str]:
        """A submit was not taken: whose trouble is it, and its word. `before_ms`: when the same was not taken before.

        Where /health has the same trouble it is the whole endpoint's; else the other requests tell. Raises LedgerError:
        without it nobody knows of them.
        """
        reason = error.reason if isinstance(error, EndpointTrouble) else "refused"
        said = (error.answered or error.message)[:300]
        self._stamps.setdefault(endpoint, self._stamp(endpoint))
        whole = self.is_whole(endpoint, endpoint_id)
        self._unanswered.answered(endpoint, submitted=False)
        if whole:
            self.gate.trouble(endpoint, reason, said, request_id)
            return Denied.SHARED, reason
        foreign = error.foreign and whole is False
        taken_ms = self._taken_at.get(endpoint, 0)
        verdict = self.gate.denied(
            endpoint, request_id, reason, said, foreign=foreign, before_ms=before_ms, taken_ms=taken_ms
        )
        return verdict, reason

    def is_whole(self, endpoint: str, endpoint_id: str) -> bool | None:
        """Whether the whole endpoint is in trouble, as its health answers now; None when that does not answer."""
        return self._whole.in_trouble(endpoint, endpoint_id) if self._whole is not None else True

    def _found_well(self, endpoint: str) -> None:
        self.ok(endpoint, probed=True)

    def _spaced(self, endpoint: str, error: ApiError, reason: str) -> None:
        """Nobody answered as he should: the next tries of this process are spaced, and every process can say why."""
        now = time.monotonic()
        with self._lock:
            fails = self._away.get(endpoint, (0, 0.0))[0] + 1
            self._away[endpoint] = (fails, now + backoff(fails, AWAY_BASE_S, AWAY_MAX_S))
            said = self._said_away.get(endpoint)
            news = self.decides and (said is None or said[1] != reason or now - said[0] > SAY_AGAIN_S)
            if news:
                self._said_away[endpoint] = now, reason
        if fails in {1, 10, 100}:
            tell("runpod.away", endpoint=endpoint, error=error.logged, fails=fails)
        if news:
            with suppress(LedgerError):
                self.gate.away(endpoint, reason, error.message)

    def permitted(
        self, endpoint: str, endpoint_id: str, op: Operation, call: Callable[[], T], *, slot_ms: int = SLOT_MS
    ) -> T | None:
        """One call inside the budget (I9), its outcome noted; None when there is no permit now. Raises ApiError."""
        permits = Permits.take(self.budget, endpoint_id, op, slot_ms=slot_ms, kind="small")
        if not permits.count:
            return None
        with permits.spend():
            try:
                answer = call()
            except JobUnknown:
                raise
            except ApiError as error:
                self.failed(endpoint, endpoint_id, op, error)
                raise
        self.ok(endpoint)
        return answer

    def ask_health(self, endpoint: str, endpoint_id: str) -> Health | None:
        """/health as any other call; None when there is no permit now, or nobody to ask. Raises ApiError, noted."""
        health = self._health
        if health is None:
            return None
        return self.permitted(endpoint, endpoint_id, Operation.HEALTH, lambda: health(endpoint, endpoint_id))

    def wait_s(self, endpoint: str) -> float:
        """Seconds until the endpoint may be tried again; 0.0 for now."""
        away = self._away.get(endpoint)
        return max(0.0, away[1] - time.monotonic()) if away else 0.0

    def again_ms(self, endpoint: str, least_s: float) -> int:
        """Milliseconds until a call that failed is made again: when the endpoint may be tried, `least_s` at least."""
        return int(max(self.wait_s(endpoint), least_s) * 1000)

    def waiting_for(self, endpoint: str) -> str | None:
        """Why requests of this endpoint wait, in a closed word; None when nothing stands in their way."""
        found = self.waiting(endpoint)
        return found.reason if found else None

    def waiting(self, endpoint: str, *, reads: bool = False) -> Waiting | None:
        """The same, with what was said and to whom; `reads`: those of jobs that run, which a pause does not stop.

        Every process tells the same within a second.
        """
        state = self.gate.state(endpoint)
        if state.paused and not reads:
            by = f" by {state.paused_by}" if state.paused_by else ""
            return Waiting("paused", f"paused{by}{f': {state.pause_reason}' if state.pause_reason else ''}")
        if state.reason and not (reads and state.submits_only):
            return Waiting(state.reason, state.said, state.request)
        if state.away and self._now() - state.away_at_ms < AWAY_MS:
            return Waiting(state.away, state.away_said)
        return Waiting("unreachable") if endpoint in self._away else None

    def refuses_at_once(self, endpoint: str) -> bool:
        """An endpoint that has never answered with success: a typing error is told, not waited for.

        And one that has been in trouble for longer than BRIDGE_GATE_MAX_S allows (HARDENING 2).
        """
        return not self.gate.state(endpoint).ever_succeeded or self.closed_too_long(endpoint) is not None

    def closed_too_long(self, endpoint: str) -> str | None:
        """The trouble for which requests are not to wait any more; None when there is none, or it may pass."""
        state = self.gate.state(endpoint)
        if not self._gate_max_ms or not state.reason or self._now() - state.since_ms < self._gate_max_ms:
            return None
        return state.reason

    def may_call(self, endpoint: str, *, submitting: bool) -> tuple[int | None, float]:
        """How many calls may leave: None for any number, 0 or 1 with the seconds to wait while the gate is closed."""
        wait = self.wait_s(endpoint)
        if wait > 0:
            return 0, wait
        state = self.gate.state(endpoint)
        if state.paused and submitting:
            return 0, 0.5
        if state.reason and (submitting or not state.submits_only):
            wait = 0.0 if self._is_mended(endpoint, state.reason) else (state.next_try_ms - self._now()) / 1000
            if wait > 0:
                return 0, min(wait, 1.0)
            return (1, 0.0) if self.gate.try_turn(endpoint, secrets.token_hex(8)) else (0, 0.5)
        silent = submitting and endpoint in self._unanswered
        if silent and not self._unanswered.lets_one_go(endpoint):
            return 0, ASK_S
        return (1 if silent or endpoint in self._away else None), 0.0

    def _is_mended(self, endpoint: str, reason: str) -> bool:
        """Whether key or id were changed since they were refused: then the endpoint is tried at once, and once."""
        stamp = self._stamp(endpoint)
        seen = self._stamps.setdefault(endpoint, stamp)
        if seen == stamp or reason not in MENDED_HERE:
            return False
        self._stamps[endpoint] = stamp
        self.gate.try_now(endpoint)
        return True

    def to_be_asked(self, endpoint: str) -> bool:
        """Whether submits wait for a sign of life that nobody asks for yet. The caller does it, by `ask_for_life`."""
        return self.wait_s(endpoint) <= 0 and self._unanswered.to_be_asked(endpoint)

    def ask_for_life(self, endpoint: str, endpoint_id: str) -> None:
        """The last submit was not answered: the next one leaves when somebody answers there."""
        try:
            self.ask_health(endpoint, endpoint_id)
        except ApiError:  # noted, which spaces the next one
            pass
        finally:
            self.asked(endpoint)

    def asked(self, endpoint: str) -> None:
        """The call that `to_be_asked` wanted is over, whatever came of it."""
        self._unanswered.asked(endpoint)
