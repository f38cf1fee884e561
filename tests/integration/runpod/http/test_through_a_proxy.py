"""Calls to RunPod go through the proxy that the environment names, whole and over one connection."""

from __future__ import annotations

import http.client
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

from bridge.emulator import Emulator, EndpointConfig
from bridge.runpod.client import RunPodClient


class ForwardProxy(BaseHTTPRequestHandler):
    """Sends on what names a whole URL, as proxies of companies do for plain HTTP."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[int, str]]

    def do_GET(self) -> None:
        """One call, there and back."""
        self.asked.append((self.client_address[1], self.requestline))
        target = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        onward = http.client.HTTPConnection(target.netloc)
        onward.request(self.command, f"{target.path}?{target.query}", body or None, dict(self.headers))
        answer = onward.getresponse()
        told = answer.read()
        onward.close()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_calls_go_through_the_proxy_and_keep_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submit, looks and health; each whole, none around it."""
    asked: list[tuple[int, str]] = []
    ForwardProxy.asked = asked
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), ForwardProxy) as proxy,
        Emulator(endpoints={"demo": EndpointConfig()}, api_keys=["key"]) as emulator,
    ):
        Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        runpod = RunPodClient(emulator.base_url, lambda: "key")
        job = runpod.run("demo", b'{"input": {"a": 1}}')
        for _ in range(3):
            assert runpod.status("demo", job.job_id).job_id == job.job_id
        runpod.health("demo")
        runpod.close()
        proxy.shutdown()
    assert [line.split(" ")[0] for _, line in asked] == ["POST", "GET", "GET", "GET", "GET"]
    assert all(f" {emulator.base_url}/demo/" in line for _, line in asked)
    assert len({port for port, line in asked if line.startswith("GET")}) == 1
