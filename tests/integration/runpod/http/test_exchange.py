"""An answer's bytes, as servers and what stands before them send them: read whole, or refused whole."""

from __future__ import annotations

import gzip
import socket
import time
import zlib
from collections.abc import Iterator

import pytest

from bridge.errors import EndpointTrouble, Throttled, Unanswered, Unreadable
from bridge.runpod.client import RunPodClient
from bridge.runpod.http.exchange import ERROR_BYTES, HEAD_BYTES
from tests.integration.runpod.test_client_faults import QUEUED, Begun, Reply, Wire, answer, base_of, calling, serving
from tests.support.helpers import eventually

OTHER = b'{"id":"j-666","status":"IN_QUEUE"}'
LENGTH = b"Content-Length: %d\r\n" % len(QUEUED)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (QUEUED[:5], len(QUEUED) - 5, QUEUED[5:])
OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + LENGTH + b"\r\n" + QUEUED


def raw(data: bytes, *, closes: bool = False, at_once: int = 1 << 20) -> Reply:
    """These bytes, so many at once."""

    def reply(connection: socket.socket) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), at_once):
            connection.sendall(data[start : start + at_once])
        return not closes

    return reply


def packed(body: bytes, coding: str) -> bytes:
    """An answer in a content coding."""
    return OK + b"Content-Length: %d\r\nContent-Encoding: %b\r\n\r\n" % (len(body), coding.encode()) + body


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """A server whose next answers a test sets."""
    with serving(answer()) as made:
        yield made


@pytest.fixture(params=[RunPodClient, Begun], ids=["waits", "begins"])
def client(wire: Wire, request: pytest.FixtureRequest) -> Iterator[RunPodClient]:
    """Bodies of at most 100,000 bytes. Each call waits by itself, or lets one thread wait for all."""
    wire.requests.clear()
    wire.connections = 0
    with calling(base_of(wire), kind=request.param, max_answer_bytes=100_000) as made:
        yield made


@pytest.mark.parametrize("at_once", [1 << 20, 1], ids=["in_one_piece", "byte_by_byte"])
@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        OK + CHUNKED + b"\r\n" + CHUNKS,
        OK + CHUNKED + b"\r\n" + CHUNKS[:-2] + b"Checksum: 1\r\nRetry-After: 7\r\n\r\n",
        OK + CHUNKED + b"\r\n" + b"%x;name=value\r\n%b\r\n0\r\n\r\n" % (len(QUEUED), QUEUED),
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Encoding: gzip\r\n\r\n" + WHOLE,
        b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + QUEUED,
        OK + LENGTH.upper() + b"X-Odd: caf\xe9 \xff\r\n\r\n" + QUEUED,
    ],
    ids=["length", "chunks", "trailers", "extensions", "continue", "hints", "no_reason", "odd_headers"],
)
def test_every_lawful_form_of_an_answer_is_read_and_its_connection_kept(
    wire: Wire, client: RunPodClient, data: bytes, at_once: int
) -> None:
    """Also when the connection is an old one: three calls of each kind, one connection for each kind."""
    wire._replies = [raw(data, at_once=at_once)]
    for _ in range(3):
        assert client.run("ep", b"{}").job_id == "j-1"
        assert client.status("ep", "j-1").status == "IN_QUEUE"
    assert wire.connections == 2
    assert len(wire.requests) == 6


@pytest.mark.parametrize(
    "data",
    [
        OK + b"\r\n" + QUEUED,
        b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + QUEUED,
        OK + b"Connection: close\r\n" + LENGTH + b"\r\n" + QUEUED,
    ],
    ids=["no_length", "http_1_0", "close"],
)
def test_an_answer_that_ends_with_its_connection_is_read_and_the_next_call_connects_anew(
    wire: Wire, client: RunPodClient, data: bytes
) -> None:
    """The end of the connection is the end of the body, where nothing else says where that is."""
    wire._replies = [raw(data, closes=True)]
    for calls in (1, 2):
        assert client.run("ep", b"{}").job_id == "j-1"
        assert wire.connections == calls


@pytest.mark.parametrize(
    "extra", [WHOLE.replace(QUEUED, OTHER), b"x", b"HTTP/1.1 200 OK\r\nContent-Len", b"\0" * 300_000]
)
@pytest.mark.parametrize("head", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
def test_bytes_behind_an_answer_never_become_the_next_one(
    wire: Wire, client: RunPodClient, extra: bytes, head: bytes
) -> None:
    """The answer stands; its connection is not used again, whether the extra bytes came with it or later."""
    wire._replies = [raw(OK + head + LENGTH + b"\r\n" + QUEUED + extra), answer()]
    assert client.status("ep", "j-1").job_id == "j-1"
    assert client.status("ep", "j-1").job_id == "j-1"
    assert wire.connections == 2


@pytest.mark.parametrize(
    "data",
    [
        OK[:9],
        OK + LENGTH,
        OK + LENGTH + b"\r\n" + QUEUED[:-1],
        OK + CHUNKED + b"\r\n" + CHUNKS[:-2],
        OK + CHUNKED + b"\r\n" + CHUNKS[:9],
        OK + CHUNKED + b"\r\n" + b"zz\r\n" + QUEUED,
        OK + CHUNKED + b"\r\n" + b"ffffffffffffffffff\r\n" + QUEUED,
        OK + CHUNKED + LENGTH + b"\r\n" + CHUNKS,
        OK + LENGTH + CHUNKED + b"\r\n" + CHUNKS,
        OK + LENGTH + b"Content-Length: 5\r\n\r\n" + QUEUED,
        OK + b"Content-Length: -1\r\n\r\n" + QUEUED,
        OK + b"Content-Length: 99999999999999999999999\r\n\r\n" + QUEUED,
        OK + b"Content-Length : 5\r\n\r\n" + QUEUED,
        OK + b"X: a\0b\r\n" + LENGTH + b"\r\n" + QUEUED,
        OK + b"no colon\r\n" + LENGTH + b"\r\n" + QUEUED,
        OK + b"X: " + b"aaa" * HEAD_BYTES + b"\r\n" + LENGTH + b"\r\n" + QUEUED,
        OK + b"X: a\r\n" * HEAD_BYTES + LENGTH + b"\r\n" + QUEUED,
        b"HTTP/1.1 100 Continue\r\n\r\n" * HEAD_BYTES + WHOLE,
        OK + CHUNKED + b"\r\n" + CHUNKS[:-2] + b"X: a\r\n" * HEAD_BYTES + b"\r\n",
        OK + CHUNKED + b"\r\n5;" + b"x" * 300_000 + b"\r\n",
        b"HTTP/3.0 200 OK\r\n" + LENGTH + b"\r\n" + QUEUED,
        b"HTTP/1.1 2000 OK\r\n" + LENGTH + b"\r\n" + QUEUED,
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + QUEUED,
        b"<html>" * 1000,
        packed(b"no gzip at all", "gzip"),
        packed(gzip.compress(b'{"id":"j-1","status":"' + b"x" * 10_000_000 + b'"}'), "gzip"),
    ],
    ids=[
        "cut_line", "cut_head", "cut_body", "cut_chunks", "cut_chunk", "odd_chunk", "endless_chunk",
        "chunks_and_length", "length_and_chunks", "two_lengths",
        "negative", "overflow", "space_before_colon", "nul", "no_colon",
        "long_header", "many_headers", "many_continues", "many_trailers", "long_extension", "http_3", "code_2000",
        "upgrade", "no_http", "no_gzip", "bomb",
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_trusted_is_none_and_the_submit_is_not_sent_again(
    wire: Wire, client: RunPodClient, data: bytes
) -> None:
    """On a new connection and on a kept one; the connection is not used again."""
    wire._replies = [raw(data, closes=True), answer(), raw(data, closes=True), answer()]
    for calls in (1, 3):
        with pytest.raises(Unanswered):
            client.run("ep", b"{}")
        assert len(wire.requests) == calls
        assert client.run("ep", b"{}").job_id == "j-1"  # and leaves a connection that is kept


@pytest.mark.parametrize("data", [OK + b"X: ", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["header", "continues"])
def test_a_head_that_drips_ends_at_the_calls_deadline(wire: Wire, client: RunPodClient, data: bytes) -> None:
    """Bytes that each come in time do not keep a call for ever (half a second here)."""

    def drip(connection: socket.socket) -> bool:
        for _ in range(600):
            connection.sendall(data if data.endswith(b"\n") else b"a")
            time.sleep(0.1)
        return False

    def dripping(connection: socket.socket) -> bool:
        connection.sendall(data)
        return drip(connection)

    wire._replies = [dripping, answer()]
    started = time.monotonic()
    with pytest.raises(Unanswered):
        client.status("ep", "j-1")
    assert time.monotonic() - started < 30  # of the minute that it drips


@pytest.mark.parametrize(
    "data",
    [packed(gzip.compress(QUEUED), "gzip"), packed(zlib.compress(QUEUED), "deflate"),
     packed(gzip.compress(gzip.compress(QUEUED)), "gzip, gzip")],
    ids=["gzip", "deflate", "twice"],
)  # fmt: skip
def test_an_answer_that_a_proxy_has_packed_is_unpacked(wire: Wire, client: RunPodClient, data: bytes) -> None:
    """Although the client asks for it as it is."""
    wire._replies = [raw(data)]
    assert client.run("ep", b"{}").job_id == "j-1"
    assert client.run("ep", b"{}").job_id == "j-1"
    assert wire.connections == 1
    assert b"Accept-Encoding: identity\r\n" in wire.requests[0]


def test_a_packed_answer_that_is_cut_is_unreadable(wire: Wire, client: RunPodClient) -> None:
    """Its length is right, so the connection is."""
    wire._replies = [raw(packed(gzip.compress(QUEUED)[:-9], "gzip")), answer()]
    with pytest.raises(Unreadable):
        client.run("ep", b"{}")
    assert client.run("ep", b"{}").job_id == "j-1"


def test_an_answer_without_a_body_leaves_its_connection_usable(wire: Wire, client: RunPodClient) -> None:
    """204 has none, whatever its headers say."""
    wire._replies = [raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), answer()]
    with pytest.raises(Unreadable):
        client.status("ep", "j-1")
    assert client.status("ep", "j-1").job_id == "j-1"
    assert wire.connections == 1


def test_headers_are_found_in_every_case_and_the_first_of_two_counts(wire: Wire, client: RunPodClient) -> None:
    """Retry-After and Location."""
    wire._replies = [
        answer(b"", "429 X", ["RETRY-AFTER: 7", "Retry-After: 9"]),
        answer(b"", "302 X", ["lOCATION: https://other.example/x?key=1"]),
    ]
    with pytest.raises(Throttled) as caught:
        client.status("ep", "j-1")
    assert caught.value.delay_s == 7
    with pytest.raises(EndpointTrouble, match=r"redirected to https://other\.example/x, not"):
        client.status("ep", "j-1")


def test_of_a_long_error_little_is_read(wire: Wire, client: RunPodClient) -> None:
    """Only its sentence is told."""
    wire._replies = [answer(b"no " * ERROR_BYTES, "429 X"), answer()]
    with pytest.raises(Throttled, match="no no"):
        client.status("ep", "j-1")
    assert client.status("ep", "j-1").job_id == "j-1"
    assert wire.connections == 2


def test_a_connection_that_was_closed_while_idle_is_noticed_before_a_submit_leaves() -> None:
    """A server closes what is idle: the next submit takes a new connection, and is sent once."""
    with serving(raw(WHOLE, closes=True)) as wire, calling(base_of(wire)) as client:
        for calls in (1, 2, 3):
            assert client.run("ep", b"{}").job_id == "j-1"
            eventually(lambda calls=calls: wire.ended == calls, timeout=5)  # type: ignore[misc]
            assert (wire.connections, len(wire.requests)) == (calls, calls)


def test_a_request_is_spelled_as_rfc_9112_wants_it(wire: Wire, client: RunPodClient) -> None:
    """One Host, one length where there is a body, the key in a header alone."""
    wire._replies = [answer()]
    client.run("ep", b"{}")
    client.status("ep", "j-1")
    for request, line, length in zip(
        wire.requests, (b"POST /v2/ep/run", b"GET /v2/ep/status/j-1"), ([b"2"], []), strict=True
    ):
        head, _, body = request.partition(b"\r\n\r\n")
        first, *headers = head.split(b"\r\n")
        assert first == line + b" HTTP/1.1"
        told = [(name.lower(), value) for name, _, value in (header.partition(b": ") for header in headers)]
        assert [value for name, value in told if name == b"host"] == [b"127.0.0.1:%d" % wire.port]
        assert [value for name, value in told if name == b"content-length"] == length
        assert [value for name, value in told if name == b"authorization"] == [b"Bearer rpa_0123456789"]
        assert body == (b"{}" if length else b"")
