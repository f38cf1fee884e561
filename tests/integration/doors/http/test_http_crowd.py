"""A crowd at the HTTP door of a real worker takes nothing from its requests, nor from those who ask for its health."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.doors.http.test_http import ask
from tests.support.helpers import COMMAND_S, eventually, free_port
from tests.support.house import House, Process

#: As a container often has it.
FILES = 1024
CROWD = 1_100


@contextmanager
def started(redis_url: str, directory: Path) -> Iterator[tuple[House, Process, int]]:
    """A worker with few files and an HTTP port."""
    port = free_port()
    bind = f"127.0.0.1:{port}"
    with House(
        directory, broker=redis_url, redis_url=redis_url, http_bind=bind, api="on", api_followers_max="10"
    ) as house:
        limited = f'ulimit -n {FILES}; exec "$0" "$@"'
        words = [sys.executable, "-m", "celery", "-A", "bridge.app", "worker", "-l", "INFO", "-c", "4"]
        process = house.start("worker", "/bin/sh", "-c", limited, *words)
        eventually(lambda: "ready." in process.said() or not process.running, timeout=40)
        assert process.running, process.said()[-3000:]
        yield house, process, port


def files_of(process: Process) -> int:
    """How many it has open."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


#: A head without a body, which does not come.
HALF = (
    b'POST /v1/requests HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"in'
)


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", HALF])
@pytest.mark.slow
def test_more_idle_connections_than_files_stop_nobody(said: bytes, redis_url: str, tmp_path: Path) -> None:
    """Silent ones, ones that never end headers or body: jobs run, probes are answered, and the files stay free."""
    with started(redis_url, tmp_path) as (house, process, port), ExitStack() as crowd:
        process.kill(signal.SIGSTOP)  # so that it meets all of them at once, as a busy one does
        for _ in range(CROWD):
            one = crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            one.sendall(said)
        process.kill(signal.SIGCONT)
        sent = [house.send({"n": n}) for n in range(20)]
        assert [one.get(timeout=30)["n"] for one in sent] == list(range(20))
        assert ask(port, "/healthz")[0] == 200
        assert json.loads(ask(port, "/readyz")[1])["ready"]
        assert files_of(process) < FILES // 2
        eventually(lambda: "http.crowded" in process.said())
        assert "Too many open files" not in process.said()
        assert process.running
        assert process.stop() == 0


@pytest.mark.slow
def test_a_slow_head_and_a_slow_body_are_cut_off_and_the_body_is_answered_408(redis_url: str, tmp_path: Path) -> None:
    """Bytes that drip in put nothing off; a head over its bound is refused at once; 408 is a problem document."""
    with started(redis_url, tmp_path) as (_, _process, port), ExitStack() as open_ones:

        def one(text: bytes) -> socket.socket:
            made = open_ones.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))
            made.sendall(text)
            return made

        large = one(b"GET /healthz HTTP/1.1\r\nX-Large: " + b"x" * 200_000)
        head = one(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        body = one(b"POST /webhooks/runpod/a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        half = one(HALF)
        eventually(lambda: closed(large), timeout=10)
        eventually(lambda: closed(head, b"x"), timeout=30, every=0.5)
        eventually(lambda: closed(body, b"x"), timeout=60, every=0.5)
        half.settimeout(COMMAND_S)
        head_of_it, _, answer = b"".join(iter(lambda: half.recv(65_536), b"")).partition(b"\r\n\r\n")
        assert head_of_it.startswith(b"HTTP/1.1 408 ")
        assert b"content-type: application/problem+json" in head_of_it
        assert json.loads(answer)["reason"] == "timeout"
        assert ask(port, "/healthz")[0] == 200


def test_a_request_whose_end_could_be_read_in_two_ways_is_refused_and_the_last_on_its_connection(
    redis_url: str, tmp_path: Path
) -> None:
    """Two lengths: what a proxy before the bridge takes for a body could be a request. One too large is not begun."""
    head = b"POST /v1/requests HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    two = head + b"6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with started(redis_url, tmp_path) as (_, _process, port):
        for text, status in ((two, b"400"), (head + b"1000000000000\r\nExpect: 100-continue\r\n\r\n", b"413")):
            with socket.create_connection(("127.0.0.1", port), timeout=COMMAND_S) as one:
                one.sendall(text)
                answer = b"".join(iter(lambda one=one: one.recv(65_536), b""))  # type: ignore[misc]
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert answer.count(b"HTTP/1.1 ") == 1


def test_what_is_no_http_and_a_head_over_16_kib_are_answered_as_problems(redis_url: str, tmp_path: Path) -> None:
    """Whether the head comes at once, and is whole, or has no end; nothing that was sent is repeated."""
    start = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: "
    room = 16 * 1024 - len(start) - len(b"\r\n\r\n")
    cases = (
        (b"a secret\r\n\r\n", 400, "malformed"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\na secret\r\n\r\n", 400, "malformed"),
        (HALF.replace(b"Content-Length: 17", b"Transfer-Encoding: chunked") + b"\r\n", 400, "malformed"),
        (start + b"x" * (room + 1) + b"\r\n\r\n", 431, "head_too_large"),
        (start + b"x" * 2_000_000 + b"\r\n\r\n", 431, "head_too_large"),
        (start + b"x" * 2_000_000, 431, "head_too_large"),
    )
    with started(redis_url, tmp_path) as (_, _process, port):
        for text, status, reason in cases:
            with socket.create_connection(("127.0.0.1", port), timeout=COMMAND_S) as one:
                one.sendall(text)
                head, _, body = b"".join(iter(lambda one=one: one.recv(65_536), b"")).partition(b"\r\n\r\n")  # type: ignore[misc]
            assert head.startswith(f"HTTP/1.1 {status} ".encode()), text[:80]
            assert b"content-type: application/problem+json" in head
            assert b"connection: close" in head.lower()
            told = json.loads(body)
            assert (told["status"], told["reason"]) == (status, reason)
            assert "secret" not in told["detail"]
        with socket.create_connection(("127.0.0.1", port), timeout=COMMAND_S) as one:
            one.sendall(start + b"x" * room + b"\r\n\r\n")
            assert one.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_target_that_is_a_whole_url_is_answered_as_its_path(redis_url: str, tmp_path: Path) -> None:
    """As clients behind a proxy send it (RFC 9112 3.2.2). Its authority stands for Host, also for who may ask."""
    cases = (
        (b"http://127.0.0.1/healthz", b"x", b"200"),
        (b"HTTP://127.0.0.1:1/v1/requests/no%20ne?refresh=true", b"x", b"404"),
        (b"http://127.0.0.1", b"x", b"404"),
        (b"http://elsewhere.example/v1/requests/none", b"127.0.0.1", b"403"),
        (b"http://127.0.0.1@elsewhere.example/v1/requests/none", b"127.0.0.1", b"403"),
    )
    with started(redis_url, tmp_path) as (_, _process, port):
        for target, host, status in cases:
            with socket.create_connection(("127.0.0.1", port), timeout=COMMAND_S) as one:
                one.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda one=one: one.recv(65_536), b""))  # type: ignore[misc]
            assert answer.startswith(b"HTTP/1.1 " + status), (target, answer[:400])


def closed(connection: socket.socket, drip: bytes = b"") -> bool:
    """Whether the other side has closed; until then another byte."""
    connection.settimeout(0.05)
    try:
        if drip:
            connection.sendall(drip)
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
