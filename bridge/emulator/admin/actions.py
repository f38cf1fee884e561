"""What can be done to a running emulator beside RunPod's own API: faults, the clock, jobs and calls."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from bridge.emulator.api import operations
from bridge.emulator.model.calls import Calls
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.faults import KINDS, OPERATIONS, Fault, Faults
from bridge.emulator.model.job import ABSENT, Job
from bridge.emulator.model.webhooks import Webhooks

#: What the page lists: the newest jobs, and so much of their values.
JOBS_SHOWN, CHARACTERS_SHOWN = 50, 300


class Admin:
    """What the admin API and the in-process methods of `Emulator` do, on the emulator's loop."""

    def __init__(
        self, clock: Clock, endpoints: Mapping[str, Endpoint], faults: Faults, webhooks: Webhooks, calls: Calls
    ) -> None:
        self._clock = clock
        self._endpoints = endpoints
        self._faults = faults
        self._webhooks = webhooks
        self._calls = calls

    def fault(
        self,
        kind: str,
        op: str | None = None,
        endpoint: str | None = None,
        times: int | None = 1,
        probability: float | None = None,
        **args: Any,
    ) -> None:
        """Add a fault. `vanish` with `job_id`, `batch_failed` and `paused` take effect at once."""
        if endpoint is not None:
            self._endpoint(endpoint)
        fault = Fault(kind, op, endpoint, times, probability, args)
        if kind == "vanish" and "job_id" in args:
            for each in self._endpoints.values():
                if (job := each.jobs.get(args["job_id"])) is not None:
                    each.forget(job)
                elif (batch := each.batches.known.get(args["job_id"])) is not None:
                    each.batches.forget(batch)
            return
        if kind == "batch_failed":
            self._batch_failed(str(args.get("batch_id")))
            return
        self._faults.add(fault)
        self._pause()

    def clear_faults(self) -> None:
        """Forget all faults; paused endpoints go on."""
        self._faults.clear()
        self._pause()

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that still wait."""
        return [fault.shown() for fault in self._faults.waiting]

    async def advance(self, seconds: float) -> None:
        """Move the virtual clock forward."""
        await self._clock.advance(seconds)

    def jobs(self, endpoint: str) -> list[dict[str, Any]]:
        """Return all jobs that `endpoint` knows, then those of batches: /status document, `runs`, times, input."""
        known = self._endpoint(endpoint)
        return [
            {
                **job.document(),
                "input": job.input,
                "webhook": job.webhook,
                "runs": job.runs,
                "created": job.created,
                "started": job.started,
            }
            for job in (*known.jobs.values(), *known.batches.lane.jobs.values())
        ]

    def batches(self, endpoint: str) -> list[dict[str, Any]]:
        """Return all batches of `endpoint`, newest first, as GET /batch lists them."""
        return self._endpoint(endpoint).batches.listed()

    def calls(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return the received calls, oldest first: time (virtual s), endpoint, op, job_id, code (0: none)."""
        return [call._asdict() for call in self._calls.kept if endpoint in {None, call.endpoint}]

    def counts(self) -> dict[str, Any]:
        """Return per endpoint how many jobs were submitted and ended how, and how many calls had which code.

        `webhooks` lists tries as (job id, code), code 0 where there was no answer.
        """
        calls: dict[str, dict[str, dict[str, int]]] = {}
        for (name, op, code), number in self._calls.tally.items():
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
                "webhooks": [try_[2:] for try_ in self._webhooks.tries if try_[1] == name],
            }
            for name, endpoint in self._endpoints.items()
        }

    def run(self, endpoint: str, input: Any) -> dict[str, Any]:
        """Send a job from the page, with the checks of POST /run but no key."""
        body = json.dumps({"input": input}).encode()
        answer = operations.run(self._endpoint(endpoint), body)
        told: dict[str, Any] = json.loads(answer.body)
        if answer.job_id is None:
            raise ValueError(told["detail"])
        return told

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job of any endpoint from the page."""
        for endpoint in self._endpoints.values():
            if (job := endpoint.jobs.get(job_id)) is not None:
                endpoint.cancel(job)
                return job.brief()
        raise ValueError(f"job not found: {job_id!r}")

    def clock(self) -> dict[str, float]:
        """Return virtual seconds since the start, and the speed."""
        return {"now": self._clock.now(), "speed": self._clock.speed}

    def state(self) -> dict[str, Any]:
        """Return what the page shows: endpoints, the newest jobs, faults, clock."""
        newest = [
            (job.created, name, job)
            for name, endpoint in self._endpoints.items()
            for job in itertools.islice(reversed(endpoint.jobs.values()), JOBS_SHOWN)
        ]
        newest.sort(key=lambda one: one[0], reverse=True)
        endpoints = {
            name: {
                "inQueue": endpoint.queued,
                "inProgress": endpoint.running,
                "completed": endpoint.completed,
                "failed": endpoint.failed,
                "cancelled": endpoint.cancelled,
                "workers": endpoint.runners.counts(),
            }
            for name, endpoint in self._endpoints.items()
        }
        return {
            "clock": self.clock(),
            "endpoints": endpoints,
            "jobs": [_shown(name, job) for _, name, job in newest[:JOBS_SHOWN]],
            "faults": self.faults(),
            "kinds": sorted(KINDS),
            "operations": sorted(OPERATIONS),
        }

    def _endpoint(self, name: str) -> Endpoint:
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise ValueError(f"unknown endpoint {name!r}; known: {', '.join(self._endpoints)}")
        return endpoint

    def _batch_failed(self, batch_id: str) -> None:
        for endpoint in self._endpoints.values():
            if (batch := endpoint.batches.known.get(batch_id)) is not None:
                endpoint.batches.fail(batch)
                return
        raise ValueError(f"batch not found: {batch_id!r}")

    def _pause(self) -> None:
        for name, endpoint in self._endpoints.items():
            paused = self._faults.paused(name)
            if paused != endpoint.paused:
                for lane in (endpoint, endpoint.batches.lane):
                    lane.paused = paused
                    lane.runners.wake()


def _shown(endpoint: str, job: Job) -> dict[str, Any]:
    """Return a job as the page lists it: long values are cut."""
    said = job.error if job.error is not None else job.output
    return {
        "id": job.id,
        "endpoint": endpoint,
        "status": job.status,
        "delayTime": job.delay_ms,
        "executionTime": job.execution_ms,
        "input": _short(job.input),
        "said": "" if said is ABSENT else _short(said),
    }


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= CHARACTERS_SHOWN else f"{text[:CHARACTERS_SHOWN]}…"
