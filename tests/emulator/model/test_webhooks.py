"""Webhooks: one POST at the end, three tries, the captured body."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.helpers import eventually


class Receiver:
    """A webhook receiver that answers with the codes in `codes`, and 200 when they are used up."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.append(self.path)
                receiver.bodies.append(json.loads(body))
                self.send_response(receiver.codes.pop(0) if receiver.codes else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=a%20b"

    def stop(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    made = Receiver()
    yield made
    made.stop()


def tried(call: Any, count: int) -> None:
    """Wait until `count` deliveries have been tried."""
    eventually(lambda: len(call.emulator.counts()["demo"]["webhooks"]) == count)


def test_a_webhook_carries_the_status_document_input_and_webhook(call: Any, receiver: Receiver) -> None:
    """As captured in runpod-python#409."""
    job = call.run({"prompt": "hi"}, webhook=receiver.url)
    body = eventually(lambda: receiver.bodies[0])
    assert body == call.status(job) | {"input": {"prompt": "hi"}, "webhook": receiver.url}
    assert receiver.paths == ["/hook?token=a%20b"]


def test_a_webhook_is_tried_three_times_ten_seconds_apart(call: Any, receiver: Receiver) -> None:
    """And then no more."""
    receiver.codes = [500, 302, 503, 500]
    call.run(webhook=receiver.url)
    for number in (1, 2, 3):
        tried(call, number)
        call.emulator.advance(9.5)
        assert len(receiver.bodies) == number
        call.emulator.advance(1)
    call.emulator.advance(60)
    assert [code for _, code in call.emulator.counts()["demo"]["webhooks"]] == [500, 302, 503]


def test_a_webhook_that_is_answered_200_is_not_sent_again(call: Any, receiver: Receiver) -> None:
    """The second try was heard."""
    receiver.codes = [500]
    call.run(webhook=receiver.url)
    tried(call, 1)
    call.emulator.advance(10.5)
    tried(call, 2)
    call.emulator.advance(60)
    assert len(receiver.bodies) == 2


def test_which_ends_are_told_is_a_setting(calling: Any, receiver: Receiver) -> None:
    """FAILED is told, CANCELLED by default not."""
    call = calling()
    call.run({"mock_error": "no"}, webhook=receiver.url)
    assert eventually(lambda: receiver.bodies[0])["status"] == "FAILED"
    job = call.run({"mock_delay": 600}, webhook=receiver.url)
    call.post(f"cancel/{job}")
    call = calling(webhook_on=frozenset({"CANCELLED"}), webhook_echo=False)
    job = call.run({"mock_delay": 600}, webhook=receiver.url)
    call.post(f"cancel/{job}")
    eventually(lambda: len(receiver.bodies) == 2)
    assert receiver.bodies[1] == call.status(job)


def test_faults_make_webhooks_late_repeated_or_lost(call: Any, receiver: Receiver) -> None:
    """Each on the next delivery."""
    call.emulator.fault("webhook_lost")
    lost = call.run(webhook=receiver.url)
    call.emulator.fault("webhook_repeat", repeats=2)
    repeated = call.run(webhook=receiver.url)
    eventually(lambda: [body["id"] for body in receiver.bodies] == [repeated] * 3)
    call.emulator.fault("webhook_late", seconds=40)
    late = call.run(webhook=receiver.url)
    eventually(lambda: call.status(late)["status"] == "COMPLETED")
    call.emulator.advance(39)
    assert late not in [body["id"] for body in receiver.bodies]
    call.emulator.advance(2)
    eventually(lambda: receiver.bodies[-1]["id"] == late)
    assert lost not in [body["id"] for body in receiver.bodies]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "ftp://127.0.0.1/x", "nonsense", "http://127.0.0.1:99999/"])
def test_a_webhook_that_cannot_be_reached_harms_nobody(call: Any, url: str) -> None:
    """It is tried and given up."""
    job = call.run(webhook=url)
    eventually(lambda: call.emulator.counts()["demo"]["webhooks"])
    assert call.status(job)["status"] == "COMPLETED"
