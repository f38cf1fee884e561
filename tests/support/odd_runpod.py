"""A RunPod that answers what a test tells it to, byte by byte: a real HTTP server on loopback.

Every /run makes a job. Its status is COMPLETED with the job's input, unless the input's `odd` names an answer that was
put here: then it is that one, for ever.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

JSON_TYPE = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What stands on the wire. In a body of text, `{id}` is the job's."""

    body: bytes | str
    code: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON_TYPE))


class OddRunPod:
    """Started with the test, and ended with it."""

    def __init__(self) -> None:
        """On a port of its own."""
        self.odd: dict[str, Answer] = {}
        self.streams: dict[str, Answer] = {}
        self.inputs: dict[str, dict[str, Any]] = {}
        self.reads: dict[str, int] = {}
        self.before_run: Callable[[], object] = lambda: None
        self.gone: set[str] = set()
        self._count = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._say(outer.answer(self.path, b""))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._say(outer.answer(self.path, body))

            def _say(self, answer: Answer) -> None:
                body = answer.body.encode() if isinstance(answer.body, str) else answer.body
                self.send_response(answer.code)
                for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def base_url(self) -> str:
        """For RUNPOD_ENDPOINT_BASE_URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v2"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, body: bytes) -> Answer:
        """One call."""
        op, _, job_id = path.partition("?")[0].removeprefix("/v2/demo/").partition("/")
        if op == "run":
            return self._run(json.loads(body)["input"])
        if op in _PLAIN:
            return _json(_PLAIN[op])
        with self._lock:
            self.reads[job_id] = self.reads.get(job_id, 0) + 1
        if job_id in self.gone or job_id not in self.inputs:
            return Answer('{"error":"job not found"}', 404)
        given = self.inputs[job_id]
        kept = (self.streams if op == "stream" else self.odd).get(given.get("odd", ""))
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
