"""docs/monitoring.md: Celery's signals, Sentry and OpenTelemetry in a bridge worker, set up as the page says."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery.exceptions import TaskRevokedError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.errors import JobFailed
from tests.support.helpers import eventually
from tests.support.house import API_KEY, ROOT, House

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "monitoring.md").read_text(), re.DOTALL)
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Sink:
    """Takes what Sentry's and OpenTelemetry's clients send."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Keep it, and say that all is well."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                coding = {"Content-Encoding": self.headers.get("Content-Encoding", "identity")}
                sink.bodies.append((self.path, httpx.Response(200, headers=coding, content=body).content))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more."""
        self.server.shutdown()
        self._thread.join(10)
        self.server.server_close()

    def errors(self) -> list[dict[str, Any]]:
        """Sentry's events of Celery's tasks."""
        found = []
        for path, body in list(self.bodies):
            if path.endswith("/envelope/"):
                for line in body.splitlines():
                    item = json.loads(line)
                    if "exception" in item and "celery_task_id" in item.get("tags", {}):
                        found.append(item)
        return found

    def spans(self) -> list[Any]:
        """OpenTelemetry's."""
        found = []
        for path, body in list(self.bodies):
            if path.endswith("/v1/traces"):
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


@pytest.fixture
def sink() -> Iterator[Sink]:
    """On loopback."""
    made = Sink()
    yield made
    made.close()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
@pytest.mark.slow
def test_jobs_are_told_to_signals_sentry_and_opentelemetry(
    pool: str, tmp_path: Path, redis_url: str, sink: Sink
) -> None:
    """Once each, under the task's own name; nothing of the bridge's own parts or keys leaves with them."""
    assert len(BLOCKS) == 3
    (tmp_path / "watched_bridge.py").write_text("\n".join(BLOCKS))
    with House(tmp_path, broker=redis_url, redis_url=redis_url, celery_config="watched_bridge") as house:
        worker = house.worker(
            pool=pool,
            PYTHONPATH=f"{tmp_path}:{ROOT}",
            SENTRY_DSN=f"http://public@{sink.address}/1",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{sink.address}",
            OTEL_BSP_SCHEDULE_DELAY="100",
        )
        done = house.send({"value": 1, "mock_delay": 1.5}, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
        failed, cancelled = house.send({"mock_error": "boom"}), house.send({"mock_delay": 60})
        eventually(lambda: "started" in house.names_of(cancelled.id), timeout=20)
        cancelled.revoke()
        assert done.get(timeout=20)["value"] == 1
        with pytest.raises(JobFailed):
            failed.get(timeout=20)
        with pytest.raises(TaskRevokedError):
            cancelled.get(timeout=20)
        eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in (done, failed, cancelled)))

        eventually(lambda: sink.errors() and len(sink.spans()) >= 3 + 3 * (pool == "prefork"), timeout=20)
        worker.stop()
        said = worker.said()
        (runtime,) = re.findall(rf"done bridge\.run {done.id} (\S+)", said)
        assert 1.5 <= float(runtime) < 60
        assert said.count(f"failed bridge.run {failed.id} JobFailed") == 1
        assert said.count(f"cancelled bridge.run {cancelled.id}") == 1

        (error,) = sink.errors()
        assert error["tags"]["celery_task_id"] == failed.id
        assert error["transaction"] == "bridge.run"
        assert [(e["type"], "boom" in e["value"]) for e in error["exception"]["values"]] == [("JobFailed", True)]

        told = [span for span in sink.spans() if not span.name.startswith("apply_async/")]  # of what is sent on
        spans = {a.value.string_value: s for s in told for a in s.attributes if a.key == "messaging.message.id"}
        assert [span.name for span in told] == ["run/bridge.run"] * 3
        assert sorted(spans) == sorted([done.id, failed.id, cancelled.id])
        assert spans[done.id].trace_id.hex() == TRACE
        assert (spans[done.id].status.code, spans[failed.id].status.code) == (0, 2)

        assert not [body for _, body in sink.bodies if API_KEY.encode() in body]
        assert "Traceback" not in said
