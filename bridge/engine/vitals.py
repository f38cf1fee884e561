"""How each endpoint answers: feeds the gate, spaces tries while RunPod is away, remembers the last success."""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from bridge.errors import ApiError, EndpointTrouble, JobUnknown, Throttled, Unanswered, Unreachable, Unreadable
from bridge.runpod.operations import Operation
from bridge.telemetry import tell
from bridge.timing import backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.runpod.budget import Budget
    from bridge.runpod.gate import Gate

T = TypeVar("T")
AWAY_BASE_S, AWAY_MAX_S = 0.25, 15.0
#: Seconds between looks for the answer to a call that asks whether anybody is there.
ASK_S = 0.1
#: Milliseconds after which the permit of a process that died counts as used.
SLOT_MS = 30_000


class Vitals:
    """Thread-safe; one for all loops of a process."""

    def __init__(self, gate: Gate, budget: Budget, now: Callable[[], int], gate_max_ms: int = 0) -> None:
        """`now` is ledger time in ms; after `gate_max_ms` of trouble requests are refused (0: they wait)."""
        self.gate = gate
        self.budget = budget
        self._now = now
        self._gate_max_ms = gate_max_ms
        self._lock = threading.Lock()
        self._ok_at: dict[str, int] = {}
        self._away: dict[str, tuple[int, float]] = {}  # fails in a row, monotonic time of the next try
        #: Endpoints whose last submit was not answered: whether anything else was since.
        self._silent: dict[str, bool] = {}
        self._asking: set[str] = set()

    def ok(self, endpoint: str, *, submitted: bool = False) -> None:
        """A call was answered with success; `submitted`: it was a submit."""
        self._ok_at[endpoint] = self._now()
        self._answered(endpoint, submitted=submitted)
        if endpoint in self._away:
            with self._lock:
                self._away.pop(endpoint, None)
            tell("runpod.back", endpoint=endpoint)
        self.gate.succeeded(endpoint)

    def ok_at(self, endpoint: str) -> int:
        """When that last was, in ledger time; 0 for never (in this process)."""
        return self._ok_at.get(endpoint, 0)

    def failed(self, endpoint: str, endpoint_id: str, op: Operation, error: ApiError) -> None:
        """A call was not: trouble closes the gate, 429 lowers the budget, silence spaces the tries."""
        if isinstance(error, EndpointTrouble):
            self.gate.trouble(endpoint, error.reason)
        elif isinstance(error, Throttled):
            self.budget.throttled(endpoint_id, op, error.delay_s)
        elif isinstance(error, Unreadable) and op not in {Operation.RUN, Operation.RUNSYNC}:
            return  # of one job's answer: nobody else waits for it, and it is no sign of life either
        elif isinstance(error, Unreachable | Unanswered):
            with self._lock:
                fails = self._away.get(endpoint, (0, 0.0))[0] + 1
                self._away[endpoint] = (fails, time.monotonic() + backoff(fails, AWAY_BASE_S, AWAY_MAX_S))
                if isinstance(error, Unanswered) and op in {Operation.RUN, Operation.RUNSYNC}:
                    self._silent[endpoint] = False
            if fails in {1, 10, 100}:
                tell("runpod.away", endpoint=endpoint, error=error.message, fails=fails)
            return
        self._answered(endpoint, submitted=False)

    def _answered(self, endpoint: str, *, submitted: bool) -> None:
        if endpoint in self._silent:
            with self._lock:
                if submitted:
                    self._silent.pop(endpoint, None)
                elif endpoint in self._silent:
                    self._silent[endpoint] = True

    def permitted(
        self, endpoint: str, endpoint_id: str, op: Operation, call: Callable[[], T], *, slot_ms: int = SLOT_MS
    ) -> T | None:
        """One call inside the budget (I9), its outcome noted; None when there is no permit now. Raises ApiError."""
        token = secrets.token_hex(8)
        if not self.budget.acquire(endpoint_id, op, 1, token=token, slot_ms=slot_ms, kind="small").count:
            return None
        try:
            answer = call()
        except JobUnknown:
            raise
        except ApiError as error:
            self.failed(endpoint, endpoint_id, op, error)
            raise
        finally:
            self.budget.release(endpoint_id, op, token, used=1, unused=0)
        self.ok(endpoint)
        return answer

    def wait_s(self, endpoint: str) -> float:
        """Seconds until the endpoint may be tried again; 0.0 for now."""
        away = self._away.get(endpoint)
        return max(0.0, away[1] - time.monotonic()) if away else 0.0

    def waiting_for(self, endpoint: str) -> str | None:
        """Why requests of this endpoint wait, in a closed word; None when nothing stands in their way."""
        state = self.gate.state(endpoint)
        if state.paused:
            return "paused"
        if state.reason:
            return state.reason
        return "unreachable" if endpoint in self._away else None

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

    def may_call(self, endpoint: str, token: str, *, submitting: bool) -> tuple[int | None, float]:
        """How many calls may leave: None for any number, 0 or 1 with the seconds to wait while the gate is closed."""
        wait = self.wait_s(endpoint)
        if wait > 0:
            return 0, wait
        state = self.gate.state(endpoint)
        if state.paused and submitting:
            return 0, 0.5
        if state.reason:
            wait = (state.next_try_ms - self._now()) / 1000
            if wait > 0:
                return 0, min(wait, 1.0)
            return (1, 0.0) if self.gate.try_turn(endpoint, token) else (0, 0.5)
        silent = submitting and endpoint in self._silent
        if silent and not self._sign_of_life(endpoint):
            return 0, ASK_S
        return (1 if silent or endpoint in self._away else None), 0.0

    def _sign_of_life(self, endpoint: str) -> bool:
        """Whether something was answered since the last submit was not; used up by the submit that it lets go."""
        with self._lock:
            heard = self._silent.get(endpoint, True)
            if heard and endpoint in self._silent:
                self._silent[endpoint] = False
            return heard

    def to_be_asked(self, endpoint: str) -> bool:
        """Whether submits wait for a sign of life that nobody asks for yet. The caller asks, and then calls `asked`.

        A request has few submits, and one that nobody answers uses one of them up: an endpoint that hangs for minutes
        would end all that wait for it as LOST. So another call is tried first.
        """
        if self._silent.get(endpoint, True) or self.wait_s(endpoint) > 0:
            return False
        with self._lock:
            if endpoint in self._asking:
                return False
            self._asking.add(endpoint)
            return True

    def asked(self, endpoint: str) -> None:
        """The call that `to_be_asked` wanted is over, whatever came of it."""
        with self._lock:
            self._asking.discard(endpoint)
