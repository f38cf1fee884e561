"""Health: RunPod's counters beside the bridge's own, and a verdict with its reasons.

One call to /health serves every asker of every process for HEALTH_CACHE_S; several endpoints are asked at once, and an
asker waits ANSWER_S at most, so that a dead endpoint makes nobody's answer late. What an asker did not wait for is
there for the next one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bridge.engine.control.base import LIVE_PHASES, Base
from bridge.errors import ApiError, BridgeError, EndpointTrouble, JobRejected, LedgerError, Throttled
from bridge.job.document import stamp
from bridge.job.enums import Phase
from bridge.ledger.endpoints import ages as vital_signs
from bridge.ledger.endpoints import gpu_time
from bridge.ledger.endpoints.answer_cache import OnceForAll
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.ledger import Ledger
    from bridge.settings.config_file import Endpoint

#: Seconds that RunPod's answer serves all askers, that one asker waits, and between looks for another's answer.
HEALTH_CACHE_S, ANSWER_S, LOOK_S = 2.0, 3.0, 0.05
#: Milliseconds after which a process that died while asking is no longer waited for.
TURN_MS = 30_000
#: How old an answer the pace of status reads goes by, in milliseconds, before RunPod is asked again.
LATELY_MS = 30_000
#: What a request waits for while calls to its endpoint are not answered.
AWAY = frozenset({"unreachable", "tls", "proxy"})
#: The gate's word for a trouble -> the verdict, which is a closed list, and what to look at.
TROUBLES: Mapping[str, tuple[str, str]] = {
    "out_of_credit": ("out_of_credit", "RunPod answers 402: the account's balance is used up"),
    "unauthorised": (
        "unauthorised",
        "RunPod answers 401: RUNPOD_API_KEY (or the endpoint's api_key_file) is missing or wrong",
    ),
    "forbidden": ("unauthorised", "RunPod answers 403: the key may not use this endpoint"),
    "key": (
        "unauthorised",
        "no key can be sent: RUNPOD_API_KEY, RUNPOD_API_KEY_FILE or api_key_file gives none",
    ),
    "paused": ("paused", "RunPod answers 409: the endpoint takes no jobs now"),
    "endpoint_unknown": (
        "unreachable",
        "RunPod answers 404: there is no endpoint with this id; mend the id where it is set",
    ),
}


class Healths(Base):
    """Asks each endpoint once for all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Base."""
        super().__init__(*args, **kwargs)
        self._shared = OnceForAll(self.ledger.client, self.ledger.names.key("health:"))
        self._flights: dict[str, threading.Thread] = {}
        self._flights_lock = threading.Lock()

    def health(self, endpoint: str | None = None) -> Any:
        """`{endpoint, endpoint_id, runpod, bridge, verdict, reasons}`; a list of all when none is named."""
        if endpoint is not None:
            return self._healths([self.named(endpoint).name])[0]
        return self._healths(sorted({*self.book.all(), *self._used()}))

    def known(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """The same without a call to RunPod: what it said within the last minute. `verdict` None when nobody asked."""
        names = [self.named(endpoint).name] if endpoint else sorted({*self.book.all(), *self._used()})
        heard = self._kept(names)
        told = [self._told(name, heard.get(name)) for name in names]
        for one in told:
            if one["endpoint"] not in heard and one["verdict"] == "unreachable" and not one["bridge"]["waiting_for"]:
                one.update(verdict=None, reasons=["nobody has asked RunPod lately; `bridge health` does"])
        return told

    def verdict(self, name: str) -> str:
        """The verdict by what is known without a call: `ok` while nothing speaks against it."""
        state = self.endpoint_health.gate.state(name)
        answer, away = self._kept([name]).get(name) or {}, self._away(name)
        if not (state.paused or state.reason or answer or away):
            return "ok"
        runpod = answer.get("runpod") or (None if answer else {"jobs": {}, "workers": {}})
        return judge(runpod, paused=state.paused, trouble=state.reason, fault=answer.get("fault"), away=away)[0]

    def heard_lately(self, name: str, within_ms: int = LATELY_MS) -> Mapping[str, Any] | None:
        """RunPod's counters `{jobs, workers}` as somebody has heard them; asked for anew behind the caller's back.

        None when nobody has asked lately, or RunPod has not answered. Never waits for RunPod.
        """
        answer = self._shared.answers(name).get(name)
        if answer is None or answer["at"] < self.ledger.now() - within_ms:
            self._fly(name)
        return answer.get("runpod") if answer else None

    def _kept(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What was heard within the last minute and still holds: a fault that is over is not told any more."""
        fresh, found = self.ledger.now() - HEALTH_CACHE_S * 1000, self._shared.answers(*names)
        return {
            name: answer
            for name, answer in found.items()
            if "fault" not in answer
            or answer["at"] >= fresh
            or self.endpoint_health.gate.state(name).reason
            or self._away(name)
        }

    def _away(self, name: str) -> str:
        """What calls to the endpoint meet instead of answers, as any process says now; "" while they are answered."""
        found = self.endpoint_health.waiting(name, reads=True)
        return found.says or found.reason if found is not None and found.reason in AWAY else ""

    def _used(self) -> list[str]:
        """Endpoints that have had requests, are no misspelt ones, and are still allowed."""
        found = []
        for name in filter(self.in_use, self.ledger.endpoints()):
            try:
                found.append(self.book.resolve(name).name)
            except JobRejected:  # taken off the list, or never was on it
                continue
        return [name for name in found if name != "_invalid"]

    def _healths(self, names: Sequence[str]) -> list[dict[str, Any]]:
        heard = self._heard(names)
        return [self._told(name, heard.get(name)) for name in names]

    def _heard(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What RunPod said of each, at most HEALTH_CACHE_S ago; one that has not answered in time is missing."""
        ends, now = time.monotonic() + ANSWER_S, self.ledger.now()
        found = self._fresh(names, now)
        for name in names:
            if name not in found:
                self._fly(name)
        while len(found) < len(names) and time.monotonic() < ends:
            time.sleep(LOOK_S)
            found |= self._fresh([name for name in names if name not in found], now)
        return found

    def _fresh(self, names: Sequence[str], now: int) -> dict[str, dict[str, Any]]:
        answers = self._shared.answers(*names)
        return {name: answer for name, answer in answers.items() if answer["at"] >= now - HEALTH_CACHE_S * 1000}

    def _fly(self, name: str) -> None:
        """Ask in a thread of its own, unless one of this process does so already."""
        with self._flights_lock:
            flight = self._flights.get(name)
            if flight is None or not flight.is_alive():
                flight = threading.Thread(target=self._ask, args=(name,), name=f"bridge-health-{name}", daemon=True)
                self._flights[name] = flight
                flight.start()

    def _ask(self, name: str) -> None:
        token = secrets.token_hex(8)
        try:
            if not self._shared.take_turn(name, token, turn_ms=TURN_MS):
                return  # another process asks; its answer is looked for
            try:
                self._shared.put(name, {**self._call(name), "at": self.ledger.now()})
            finally:
                self._shared.end_turn(name, token)
        except LedgerError as error:
            tell("ledger.unavailable", error=str(error), waiting=0)

    def _call(self, name: str) -> dict[str, Any]:
        """`runpod`, or the `fault` for which there is none."""
        endpoint = self.book.resolve(name)
        state = self.endpoint_health.gate.state(name)
        if state.reason and not self.endpoint_health.gate.try_turn(name, secrets.token_hex(8)):
            return {"fault": state.reason}  # tries of a closed gate are spaced, whoever asks
        try:
            heard = self.call(endpoint, Operation.HEALTH, lambda client: client.health(endpoint.id))
        except EndpointTrouble as error:
            return {"fault": error.reason}
        except Throttled:
            return {"fault": "busy"}
        except JobRejected:
            return {"fault": "busy"}
        except (ApiError, BridgeError) as error:
            return {"fault": "unreachable", "said": str(error)[:300]}
        self.endpoint_health.budget.raise_to(endpoint.id, heard.workers.get("running", 0))
        return {"runpod": {"jobs": dict(heard.jobs), "workers": dict(heard.workers)}}

    def _told(self, name: str, heard: Mapping[str, Any] | None) -> dict[str, Any]:
        endpoint = self.book.resolve(name)
        runpod = heard.get("runpod") if heard else None
        self.endpoint_health.gate.forget(name)
        state = self.endpoint_health.gate.state(name)
        counts = self.ledger.counts(name)
        budget = self.endpoint_health.budget.state(endpoint.id)
        waiting = self.why.of_endpoint(name)
        own: dict[str, Any] = {
            "phases": {phase.value: counts.get(phase.value, 0) for phase in LIVE_PHASES},
            **vital_signs.read(self.ledger, name),
            "unanswered": counts.get(Phase.UNANSWERED.value, 0),
            "waiting_for": None,
            **(waiting.told() if waiting else {}),
            "paused": state.paused,
            "paused_by": state.paused_by or None,
            "pause_reason": state.pause_reason or None,
            "paused_since": stamp(state.paused_at_ms if state.paused else 0, self.ledger.clock.offset),
            "budget": budget,
            "answers_429": sum(one.get("cuts_by_429", 0) for one in budget.values()),
            "paid_twice_ms": counts.get("paid_twice_ms", 0),
            "gpu": _gpu(self.ledger, endpoint),
            "engines": self.ledger.engines.count(),
        }
        verdict, reasons = judge(
            runpod,
            paused=state.paused,
            trouble=state.reason,
            fault=heard.get("fault") if heard else None,
            why=_why(state.pause_reason, state.paused_by) if state.paused else str((heard or {}).get("said", "")),
            away=self._away(name),
        )
        return {
            "endpoint": name,
            "endpoint_id": endpoint.id,
            "verdict": verdict,
            "reasons": reasons,
            "runpod": runpod,
            "bridge": own,
        }


def _gpu(ledger: Ledger, endpoint: Endpoint) -> dict[str, Any]:
    """Today's GPU time: seconds, by tenant, paid twice; the cost where a price is set."""
    spent, price = gpu_time.read(ledger, endpoint.name), endpoint.gpu_price_per_s
    return {
        "day": spent.day,
        "seconds": spent.ms / 1000,
        "tenants": {name: ms / 1000 for name, ms in sorted(spent.tenants.items())},
        "paid_twice_seconds": spent.paid_twice_ms / 1000,
        "cost": None if price is None else round(spent.ms / 1000 * price, 6),
        "ceiling_seconds": endpoint.ceiling_s,
    }


def _why(reason: str, by: str) -> str:
    return " ".join(filter(None, (f"by {by}" if by else "", f"({reason})" if reason else "")))


def judge(
    runpod: Mapping[str, Any] | None,
    *,
    paused: bool,
    trouble: str | None,
    fault: str | None = None,
    why: str = "",
    away: str = "",
) -> tuple[str, list[str]]:
    """The verdict and its reasons; the words are a closed list (docs/control.md).

    `away` is what calls meet instead of answers: it outweighs counters that were heard before.
    """
    trouble = trouble or (fault if fault in TROUBLES else None)
    if trouble:
        verdict, reason = TROUBLES.get(trouble, ("unreachable", f"RunPod answers {trouble}"))
        return ("paused", [f"paused {why}".strip(), reason]) if paused else (verdict, [reason])
    if paused:
        return "paused", [f"paused {why}".strip()]
    if away:
        return "unreachable", [f"RunPod does not answer: {away}"]
    if runpod is None:
        if fault == "busy":
            return "throttled", ["the budget of /health is used up (429, or our own limit): come again"]
        return "unreachable", [f"RunPod has not answered /health: {why or f'no answer within {ANSWER_S:g} s'}"]
    return _judge_workers(runpod["jobs"].get("inQueue", 0), runpod["workers"])


def _judge_workers(queued: int, workers: Mapping[str, int]) -> tuple[str, list[str]]:
    up = workers.get("ready", 0) + workers.get("running", 0) + workers.get("idle", 0)
    if up:
        return "ok", []
    if queued and workers.get("unhealthy", 0):
        return "unhealthy", [
            f"{queued} queued, {workers['unhealthy']} RunPod workers unhealthy: does the handler start?"
        ]
    if queued and workers.get("throttled", 0):
        return "throttled", [f"{queued} queued, {workers['throttled']} RunPod workers throttled: no GPU is free"]
    return "cold", ["no RunPod worker is up; the next job waits for a cold start"]
