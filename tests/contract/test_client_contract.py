"""One suite of the client's contract, over whatever speaks RunPod's API.

The emulator, the official package's own local server (as far as it goes), and, marked `live`, RunPod itself.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.embedded import tied
from bridge.emulator import Emulator
from bridge.errors import JobUnknown, Unauthorised
from bridge.job.enums import is_end
from bridge.runpod.answers import JobState
from bridge.runpod.client import RunPodClient
from tests.conftest import OUTSIDE
from tests.support.helpers import eventually, free_port

HANDLER = """
import runpod

def handler(job):
    if job["input"].get("mock_error"):
        raise RuntimeError(job["input"]["mock_error"])
    return job["input"]

runpod.serverless.start({"handler": handler})
"""


@dataclass
class Peer:
    """Something that speaks RunPod's API, and what it can do."""

    name: str
    client: RunPodClient
    endpoint: str
    make: Callable[[str], RunPodClient]


RUNPOD = pytest.param("runpod", marks=pytest.mark.live)


@pytest.fixture(params=["emulator", "rp_serve_api", RUNPOD])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    """One of them."""
    if request.param == "emulator":
        with Emulator(endpoints=["demo"], api_keys=["k"]) as emulator:
            yield Peer("emulator", client(emulator.base_url, "k"), "demo", lambda key: client(emulator.base_url, key))
    elif request.param == "rp_serve_api":
        with served(tmp_path) as base_url:
            yield Peer("rp_serve_api", client(base_url, "k"), "demo", lambda key: client(base_url, key))
    else:
        base_url = OUTSIDE.get("RUNPOD_ENDPOINT_BASE_URL", "https://api.runpod.ai/v2")
        endpoint, key = OUTSIDE["RUNPOD_ENDPOINT_ID"], OUTSIDE["RUNPOD_API_KEY"]
        yield Peer("runpod", client(base_url, key), endpoint, lambda other: client(base_url, other))


def client(base_url: str, key: str) -> RunPodClient:
    """The bridge's client."""
    return RunPodClient(base_url, lambda: key, read_timeout_s=60)


class served:  # noqa: N801  (a context manager)
    """`python handler.py --rp_serve_api`, with RunPod's paths before it.

    The local server has its own at the root, and takes no GET.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "handler.py"
        self._file.write_text(HANDLER)
        self._port = free_port()

    def __enter__(self) -> str:
        command = [
            sys.executable,
            str(self._file),
            "--rp_serve_api",
            "--rp_api_host",
            "127.0.0.1",
            "--rp_api_port",
            str(self._port),
        ]
        self._process = subprocess.Popen(tied(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        upstream = f"http://127.0.0.1:{self._port}"

        class Rewrite(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"
                path = "/" + self.path.split("?")[0].removeprefix("/v2/demo/")
                sent = urllib.request.Request(upstream + path, body, {"Content-Type": "application/json"})  # noqa: S310
                try:
                    with urllib.request.urlopen(sent, timeout=30) as answer:  # noqa: S310
                        code, told = answer.status, answer.read()
                except urllib.error.HTTPError as error:
                    code, told = error.code, error.read()
                self.send_response(code)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rewrite)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        eventually(lambda: urllib.request.urlopen(upstream + "/openapi.json", timeout=2).status == 200, timeout=30)  # noqa: S310
        return f"http://127.0.0.1:{self._server.server_port}/v2"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._process.terminate()
        self._process.wait(10)


def body(**given: object) -> bytes:
    """A request's body."""
    return json.dumps({"input": given}).encode()


def test_run_then_status_brings_the_output(peer: Peer) -> None:
    """An id and a status that is no end; later the end with its output."""
    taken = peer.client.run(peer.endpoint, body(prompt="hi"))
    assert taken.job_id
    assert not is_end(taken.status)

    def ended() -> JobState | None:
        seen = peer.client.status(peer.endpoint, taken.job_id)
        return seen if is_end(seen.status) else None

    end = eventually(ended, timeout=60, every=0.2)
    assert end is not None
    assert end.status == "COMPLETED"
    if peer.name != "runpod":
        assert end.output == {"prompt": "hi"}


def test_runsync_answers_with_the_end(peer: Peer) -> None:
    """One call for a short job."""
    seen = peer.client.runsync(peer.endpoint, body(prompt="hi"), 60_000)
    assert seen.status in {"COMPLETED", "IN_QUEUE", "IN_PROGRESS"}


@pytest.mark.parametrize("peer", ["emulator", "rp_serve_api"], indirect=True)  # whose handler fails on demand
def test_a_failure_is_an_answer_not_an_error(peer: Peer) -> None:
    """HTTP 200 with FAILED, and the handler's words in `error`."""
    seen = peer.client.runsync(peer.endpoint, body(mock_error="boom"), 30_000)
    assert seen.status == "FAILED"
    assert "boom" in str(seen.error)


@pytest.mark.parametrize("peer", ["emulator", RUNPOD], indirect=True)  # the local server has none of it
def test_what_only_the_platform_has(peer: Peer) -> None:
    """health, an unknown job, a wrong key."""
    assert set(peer.client.health(peer.endpoint).jobs) >= {"completed", "failed", "inProgress", "inQueue"}
    with pytest.raises(JobUnknown):
        peer.client.status(peer.endpoint, "no-such-job-u1")
    with pytest.raises(Unauthorised):
        peer.make("wrong-key").health(peer.endpoint)
