"""The admin side, `/_emulator/...`: faults, the clock, jobs and calls. It asks for no key; bind it to loopback.

- `POST /_emulator/fault` `{"kind", "op"?, "endpoint"?, "times"?, "probability"?, ...}`
- `GET`, `DELETE /_emulator/faults`
- `POST /_emulator/advance` `{"seconds"}` · `GET /_emulator/clock`
- `GET /_emulator/jobs?endpoint=` · `GET /_emulator/calls[?endpoint=]` · `GET /_emulator/counts`
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bridge.emulator import answers
from bridge.emulator.answers import Answer, document
from bridge.emulator.faults import Fault

if TYPE_CHECKING:
    from bridge.emulator.platform import Platform


class Admin:
    """What the admin API and the in-process methods of `Emulator` do, on the emulator's loop."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def fault(
        self,
        kind: str,
        op: str | None = None,
        endpoint: str | None = None,
        times: int | None = 1,
        probability: float | None = None,
        **args: Any,
    ) -> None:
        """Add a fault. `vanish` with `job_id` and `paused` take effect at once."""
        if endpoint is not None and endpoint not in self._platform.endpoints:
            known = ", ".join(self._platform.endpoints)
            raise ValueError(f"unknown endpoint {endpoint!r}; known: {known}")
        fault = Fault(kind, op, endpoint, times, probability, args)
        if kind == "vanish" and "job_id" in args:
            for each in self._platform.endpoints.values():
                if (job := each.jobs.get(args["job_id"])) is not None:
                    each.forget(job)
            return
        self._platform.faults.add(fault)
        self._pause()

    def clear_faults(self) -> None:
        """Forget all faults; paused endpoints go on."""
        self._platform.faults.clear()
        self._pause()

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that still wait."""
        return [fault.shown() for fault in self._platform.faults.waiting]

    async def advance(self, seconds: float) -> None:
        """Move the virtual clock forward."""
        await self._platform.clock.advance(seconds)

    def jobs(self, endpoint: str) -> list[dict[str, Any]]:
        """Return all jobs that `endpoint` knows: the /status document, `runs`, times and the input."""
        if endpoint not in self._platform.endpoints:
            raise ValueError(f"unknown endpoint {endpoint!r}; known: {', '.join(self._platform.endpoints)}")
        return [
            {
                **job.document(),
                "input": job.input,
                "webhook": job.webhook,
                "runs": job.runs,
                "created": job.created,
                "started": job.started,
            }
            for job in self._platform.endpoints[endpoint].jobs.values()
        ]

    def calls(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return the received calls, oldest first: time (virtual s), endpoint, op, job_id, code (0: none)."""
        return [call._asdict() for call in self._platform.front.calls if endpoint in {None, call.endpoint}]

    def counts(self) -> dict[str, Any]:
        """Return per endpoint how many jobs were submitted and ended how, and how many calls had which code.

        `webhooks` lists tries as (job id, code), code 0 where there was no answer.
        """
        calls: dict[str, dict[str, dict[str, int]]] = {}
        for (name, op, code), number in self._platform.front.tally.items():
            calls.setdefault(name, {}).setdefault(op, {})[str(code)] = number
        return {
            name: {
                "submitted": endpoint.submitted,
                "completed": endpoint.completed,
                "failed": endpoint.failed,
                "cancelled": endpoint.cancelled,
                "retried": endpoint.retried,
                "removed": endpoint.removed,
                "inQueue": endpoint.queued,
                "inProgress": endpoint.running,
                "held": len(endpoint.jobs),
                "calls": calls.get(name, {}),
                "webhooks": [try_[2:] for try_ in self._platform.webhooks.tries if try_[1] == name],
            }
            for name, endpoint in self._platform.endpoints.items()
        }

    async def answer(self, method: str, path: str, body: bytes, query: dict[str, str]) -> Answer:
        """Answer one call of the admin API; bad input gives a 400 that names it."""
        try:
            return await self._answer(method, path, body, query)
        except (ValueError, TypeError) as error:
            return answers.bad_request(str(error))

    async def _answer(self, method: str, path: str, body: bytes, query: dict[str, str]) -> Answer:
        shown: Any
        match method, path:
            case "POST", "/_emulator/fault" | "/_emulator/faults":
                self.fault(**_object(body))
                shown = self.faults()
            case "GET", "/_emulator/faults":
                shown = self.faults()
            case "DELETE", "/_emulator/faults":
                self.clear_faults()
                shown = self.faults()
            case "POST", "/_emulator/advance":
                seconds = _object(body).get("seconds")
                if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                    raise TypeError(f"seconds must be a number, not {seconds!r}")
                await self.advance(seconds)
                shown = self._clock()
            case "GET", "/_emulator/clock":
                shown = self._clock()
            case "GET", "/_emulator/jobs":
                shown = self.jobs(query.get("endpoint", ""))
            case "GET", "/_emulator/calls":
                shown = self.calls(query.get("endpoint"))
            case "GET", "/_emulator/counts":
                shown = self.counts()
            case _:
                return answers.NOT_FOUND
        return document(shown)

    def _clock(self) -> dict[str, float]:
        clock = self._platform.clock
        return {"now": clock.now(), "speed": clock.speed}

    def _pause(self) -> None:
        for name, endpoint in self._platform.endpoints.items():
            paused = self._platform.faults.paused(name)
            if paused != endpoint.paused:
                endpoint.paused = paused
                endpoint.fleet.wake()


def _object(body: bytes) -> dict[str, Any]:
    value = json.loads(body or b"{}")
    if not isinstance(value, dict):
        raise TypeError("the body must be a JSON object")
    return value
