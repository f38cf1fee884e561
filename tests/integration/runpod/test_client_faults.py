"""The client against a server that misbehaves byte by byte: each fault has its one meaning, nothing is sent twice."""

from __future__ import annotations

import multiprocessing
import os
import queue
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from certifi import where

from bridge.errors import EndpointTrouble, Refused, Unanswered, Unauthorised, Unreachable
from bridge.runpod.answers import JobState
from bridge.runpod.client import RunPodClient, Told
from bridge.runpod.http import pools
from tests.support.helpers import COMMAND_S, eventually, free_port

KEY = "rpa_0123456789"
QUEUED = b'{"id":"j-1","status":"IN_QUEUE"}'
Reply = Callable[[socket.socket], bool]


class Wire:
    """A loopback server that reads a request and lets a script of replies answer, the last one for ever."""

    def __init__(self, *replies: Reply, tls: ssl.SSLContext | None = None) -> None:
        """A reply returns whether the connection goes on."""
        self._replies = list(replies)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            connection: socket.socket = self._tls.wrap_socket(raw, server_side=True) if self._tls else raw
            with connection:
                while request := _request_of(connection):
                    with self._lock:
                        self.requests.append(request)
                        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                    if not reply(connection):
                        return
        except OSError:
            pass
        finally:
            raw.close()
            self.ended += 1

    def close(self) -> None:
        """End every connection and thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join(5)


def _request_of(connection: socket.socket) -> bytes:
    """One request, head and body; empty when the client has closed."""
    text = b""
    while b"\r\n\r\n" not in text:
        piece = connection.recv(65536)
        if not piece:
            return b""
        text += piece
    head, _, body = text.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answer(body: bytes = QUEUED, code: str = "200 OK", headers: Sequence[str] = (), length: int | None = None) -> Reply:
    """A whole answer on a connection that stays open; `length` may lie."""

    def reply(connection: socket.socket) -> bool:
        lines = [f"HTTP/1.1 {code}", f"Content-Length: {len(body) if length is None else length}", *headers]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return length is None

    return reply


def reset(connection: socket.socket) -> bool:
    """Close with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def close(_: socket.socket) -> bool:
    """Close without a word."""
    return False


def silence(connection: socket.socket) -> bool:
    """Say nothing until the client leaves."""
    connection.recv(1)
    return False


def drip(connection: socket.socket) -> bool:
    """An answer that comes a byte at a time, each within the read timeout, for a minute."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
    for _ in range(600):
        connection.sendall(b" ")
        time.sleep(0.1)
    return False


@contextmanager
def serving(*replies: Reply, tls: ssl.SSLContext | None = None) -> Iterator[Wire]:
    """A server for the time of a test."""
    wire = Wire(*replies, tls=tls)
    try:
        yield wire
    finally:
        wire.close()


class Begun(RunPodClient):
    """Begins a call where it may, and waits for what is told of it."""

    begun = 0

    def run(self, endpoint_id: str, body: bytes) -> JobState:
        """As the submits do it."""
        return self._ended(partial(self.begin_run, endpoint_id, body), partial(super().run, endpoint_id, body))

    def status(self, endpoint_id: str, job_id: str) -> JobState:
        """As the tracker does it."""
        return self._ended(
            partial(self.begin_status, endpoint_id, job_id), partial(super().status, endpoint_id, job_id)
        )

    def _ended(self, begin: Callable[[Callable[[Told], None]], bool], call: Callable[[], JobState]) -> JobState:
        told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        if not begin(told.put):
            return call()
        self.begun += 1
        return told.get(timeout=COMMAND_S).answer()


@contextmanager
def calling(
    base: str, key: str = KEY, kind: type[RunPodClient] = RunPodClient, **options: float
) -> Iterator[RunPodClient]:
    """A client with short timeouts."""
    limits = {"connect_timeout_s": 1.0, "read_timeout_s": 0.5, **options}
    client = kind(base, lambda: key, **limits)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        client.close()


@contextmanager
def beginning(base: str) -> Iterator[Begun]:
    """The same, which begins calls where it may."""
    with calling(base, kind=Begun) as client:
        assert isinstance(client, Begun)
        yield client


def base_of(wire: Wire, scheme: str = "http") -> str:
    """The base URL of a server."""
    return f"{scheme}://127.0.0.1:{wire.port}/v2"


@pytest.mark.parametrize(
    "fault",
    [
        reset,
        close,
        silence,
        answer(b'{"id":"j', length=100),
        answer(b"<html>Bad gateway</html>", "502 Bad Gateway"),
        answer(b"", "504 Gateway Timeout"),
        answer(b""),
        answer(b"<html>captive</html>"),
        answer(b"[1, 2]"),
        answer(b"[" * 100_000),
        answer(b'{"status":"IN_QUEUE"}'),
        answer(b'{"id":"../../x","status":"IN_QUEUE"}'),
        answer(b'{"error":"worker said no"}'),
        lambda connection: bool(connection.sendall(b"no http at all\r\n\r\n")),
    ],
    ids=[
        "reset", "closed", "silent", "cut_body", "html_502", "empty_504", "empty_200", "html_200", "no_object",
        "deep_json", "no_id", "unusable_id", "bare_error", "no_http",
    ],
)  # fmt: skip
def test_a_submit_that_may_have_taken_effect_is_unanswered_and_sent_once(fault: Reply) -> None:
    """Every way to lose an answer after the request left says Unanswered; the client never tries again by itself."""
    with serving(fault) as wire, calling(base_of(wire)) as client:
        with pytest.raises(Unanswered):
            client.run("ep", b'{"input":{"a":1}}')
        assert len(wire.requests) == 1


def test_a_refused_connection_is_unreachable() -> None:
    """Nobody listens: nothing was sent."""
    with calling(f"http://127.0.0.1:{free_port()}/v2") as client, pytest.raises(Unreachable):
        client.run("ep", b"{}")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example"])
def test_a_name_that_cannot_be_resolved_is_unreachable(host: str) -> None:
    """DNS fails, or the name cannot even be asked for: nothing was sent."""
    with calling(f"http://{host}:9/v2") as client, pytest.raises(Unreachable):
        client.run("ep", b"{}")


@pytest.mark.parametrize("greeting", [b"", b"220 this is no TLS\r\n", None], ids=["closed", "plain_text", "silent"])
def test_a_broken_tls_handshake_is_unreachable(greeting: bytes | None) -> None:
    """However the handshake fails (closed, other protocol, no answer in time), the request has not left."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        connection, _ = listener.accept()
        held.append(connection)
        connection.recv(65536)
        if greeting is not None:
            connection.sendall(greeting)
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        base = f"https://127.0.0.1:{listener.getsockname()[1]}/v2"
        with calling(base, connect_timeout_s=0.5) as client, pytest.raises(Unreachable):
            client.run("ep", b"{}")
    finally:
        thread.join(5)
        for connection in held:
            connection.close()
        listener.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in one file."""
    pem, key, crt = tmp_path / "both.pem", tmp_path / "key.pem", tmp_path / "crt.pem"
    openssl = shutil.which("openssl")
    assert openssl, "this test needs the openssl command"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(crt), "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    pem.write_bytes(key.read_bytes() + crt.read_bytes())
    return pem


def test_an_untrusted_certificate_is_unreachable_and_a_named_bundle_is_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is checked always; REQUESTS_CA_BUNDLE names a private authority."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with serving(answer(), tls=tls) as wire:
        with calling(base_of(wire, "https")) as client, pytest.raises(Unreachable):
            client.run("ep", b"{}")
        assert wire.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with calling(base_of(wire, "https")) as client:
            assert client.run("ep", b"{}").job_id == "j-1"


def test_without_a_named_bundle_the_authorities_are_those_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slim container has no system store: the bundle that `requests` brings must be in use."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with calling("https://127.0.0.1:9/v2") as client:
        assert {pool.ca_certs for pool in (client._pool_for(fresh=True), client._pool_for(fresh=False))} == {where()}


def test_a_proxy_that_will_not_tunnel_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONNECT refused: the request has not left."""
    with serving(answer(b"", "407 Proxy Authentication Required")) as wire:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{wire.port}")
        with calling("https://runpod.invalid/v2") as client, pytest.raises(Unreachable):
            client.run("ep", b"{}")
        assert all(request.startswith(b"CONNECT ") for request in wire.requests)


def test_a_dripping_answer_ends_at_the_calls_deadline() -> None:
    """Bytes that each come in time do not keep a call for ever: the read timeout bounds the whole body too."""
    with serving(drip) as wire, calling(base_of(wire)) as client:
        started = time.monotonic()
        with pytest.raises(Unanswered):
            client.status("ep", "j-1")
        assert time.monotonic() - started < 30  # of the minute that it drips


def test_an_oversized_answer_is_cut_off() -> None:
    """Bytes are capped on the way in, and the connection is not used again."""
    with serving(answer(b'{"id":"j-1","status":"' + b"x" * 5_000_000 + b'"}'), answer()) as wire:
        client = RunPodClient(base_of(wire), lambda: KEY, max_answer_bytes=10_000)
        with pytest.raises(Unanswered, match="10000 bytes"):
            client.status("ep", "j-1")
        assert client.status("ep", "j-1").status == "IN_QUEUE"
        assert wire.connections == 2
        client.close()


@pytest.mark.parametrize("code", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_is_not_followed_and_names_the_setting(code: str) -> None:
    """The key goes nowhere else; a base URL that redirects is the endpoint's trouble, no request is lost by it."""
    with serving(answer()) as other:
        hop = answer(b"", code, [f"Location: http://127.0.0.1:{other.port}/v2/ep/run"])
        with (
            serving(hop) as wire,
            calling(base_of(wire)) as client,
            pytest.raises(EndpointTrouble, match="RUNPOD_ENDPOINT_BASE_URL"),
        ):
            client.run("ep", b"{}")
        assert other.connections == 0


@pytest.mark.parametrize("key", ["rpa_secret\n", "rpa secret\u20ac", ""])
def test_a_key_no_header_can_carry_is_unauthorised_before_anything_is_sent(key: str) -> None:
    """A key read from a file with its line's end: told without the key, and no submit is in doubt."""
    with serving(answer()) as wire, calling(base_of(wire), key=key) as client:
        with pytest.raises(Unauthorised) as caught:
            client.run("ep", b"{}")
        assert "secret" not in str(caught.value)
        assert wire.requests == []


@pytest.mark.parametrize("code", ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "500 Oops"])
def test_a_key_that_is_echoed_never_enters_a_message(code: str) -> None:
    """I11: what RunPod or an edge says is told without our key."""
    body = b'{"detail":"bad key ' + KEY.encode() + b'"}'
    with serving(answer(body, code)) as wire, calling(base_of(wire)) as client:
        with pytest.raises((Refused, EndpointTrouble, Unanswered)) as caught:
            client.run("ep", b"{}")
        assert KEY not in f"{caught.value}{caught.value!r}"


def test_connections_are_kept_for_reads_and_submits() -> None:
    """Ten calls of a kind share one connection."""
    with serving(answer()) as wire, calling(base_of(wire)) as client:
        for _ in range(10):
            client.status("ep", "j-1")
            client.run("ep", b"{}")
        assert wire.connections == 2


@pytest.mark.parametrize(("fresh_s", "connections"), [(600.0, 1), (0.05, 2)])
def test_a_submit_never_leaves_on_a_connection_idle_for_too_long(
    fresh_s: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 6: a connection idle for over FRESH_S is closed first; a fresher one is used again."""
    monkeypatch.setattr(pools, "FRESH_S", fresh_s)
    with serving(answer()) as wire, calling(base_of(wire)) as client:
        client.run("ep", b"{}")
        time.sleep(0.1)
        client.run("ep", b"{}")
        assert wire.connections == connections


def test_a_closed_client_has_given_its_connections_back() -> None:
    """`close` ends the sockets now, not when the garbage is collected; a later call connects anew."""
    with serving(answer()) as wire, calling(base_of(wire)) as client:
        client.status("ep", "j-1")
        client.run("ep", b"{}")
        client.close()
        eventually(lambda: wire.ended == 2, timeout=3)
        assert client.status("ep", "j-1").job_id == "j-1"
        assert wire.connections == 3


def _call_in_child(client: RunPodClient, told: multiprocessing.SimpleQueue[object]) -> None:
    told.put((os.getpid(), client.status("ep", "j-1").job_id))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_uses_no_connection_of_its_parent() -> None:
    """Two processes on one socket would mix their answers up: a child connects anew, the parent's stays whole."""
    with serving(answer()) as wire, calling(base_of(wire)) as client:
        client.status("ep", "j-1")
        context = multiprocessing.get_context("fork")
        told = context.SimpleQueue()
        child = context.Process(target=_call_in_child, args=(client, told))
        child.start()
        child.join(20)
        assert child.exitcode == 0
        assert wire.connections == 2
        client.status("ep", "j-1")
        assert wire.connections == 2
