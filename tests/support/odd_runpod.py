"""A RunPod that answers what a test tells it to, byte by byte: a real HTTP server on loopback.

Every /run makes a job, on any endpoint. Its status is COMPLETED with the job's input, unless the input's `odd` names an
answer that was put here: then it is that one, for ever. Pages of a stream in a list are handed out once each.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.loopback import Asked, Loopback, Said

JSON_TYPE = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What stands on the wire. In a body of text, `{id}` is the job's."""

    body: bytes | str
    code: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON_TYPE))


class OddRunPod(Loopback):
    """Started with the test, and ended with it."""

    def __init__(self) -> None:
        """On a port of its own."""
        self.odd: dict[str, Answer] = {}
        self.streams: dict[str, Answer | list[Answer]] = {}
        self.inputs: dict[str, dict[str, Any]] = {}
        self.reads: dict[str, int] = {}
        self.before_run: Callable[[], object] = lambda: None
        self.gone: set[str] = set()
        self._count = 0
        self._lock = threading.Lock()
        super().__init__(self._said)

    @property
    def base_url(self) -> str:
        """For RUNPOD_ENDPOINT_BASE_URL."""
        return f"{self.origin}/v2"

    def _said(self, asked: Asked) -> Said:
        answer = self.answer(asked.path, asked.body)
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        return Said(answer.code, body, answer.headers)

    def answer(self, path: str, body: bytes) -> Answer:
        """One call."""
        op, _, job_id = path.partition("?")[0].removeprefix("/v2/").partition("/")[2].partition("/")
        if op == "run":
            return self._run(json.loads(body)["input"])
        if op in _PLAIN:
            return _json(_PLAIN[op])
        with self._lock:
            self.reads[job_id] = self.reads.get(job_id, 0) + 1
        if job_id in self.gone or job_id not in self.inputs:
            return Answer('{"error":"job not found"}', 404)
        given = self.inputs[job_id]
        kept = self.streams.get(given.get("odd", "")) if op == "stream" else self.odd.get(given.get("odd", ""))
        if isinstance(kept, list):
            kept = kept.pop(0) if kept else None
        if kept is not None:
            body_of = kept.body.replace("{id}", job_id) if isinstance(kept.body, str) else kept.body
            return Answer(body_of, kept.code, kept.headers)
        if op == "stream":
            return _json({"status": "COMPLETED", "stream": []})
        return _json({"id": job_id, "status": "COMPLETED", "executionTime": 1, "delayTime": 1, "output": given})

    def _run(self, given: dict[str, Any]) -> Answer:
        with self._lock:
            self._count += 1
            job_id = f"job-{self._count}"
        self.before_run()
        self.inputs[job_id] = given
        return _json({"id": job_id, "status": "IN_QUEUE"})


_PLAIN: dict[str, dict[str, Any]] = {
    "health": {"jobs": {}, "workers": {"ready": 1, "running": 1}},
    "purge-queue": {"removed": 0, "status": "completed"},
}


def _json(value: dict[str, Any]) -> Answer:
    return Answer(json.dumps(value))
