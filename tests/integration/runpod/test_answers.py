"""What RunPod's answers mean, cell by cell of the table, from a real HTTP server; and what of a call may have left."""

from __future__ import annotations

import http.client
import inspect
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import urllib3

from bridge.errors import (
    ApiError,
    EndpointPaused,
    EndpointTrouble,
    EndpointUnknown,
    Forbidden,
    JobUnknown,
    OutOfCredit,
    Refused,
    Throttled,
    Unanswered,
    Unauthorised,
    Unreachable,
    Unreadable,
)
from bridge.runpod.client import RunPodClient
from bridge.runpod.http import exchange
from bridge.runpod.meaning import NAMES_SOMETHING, SUBMITS
from bridge.runpod.operations import Operation
from tests.integration.runpod.test_client_faults import Reply, Wire, answer, base_of, serving
from tests.support.helpers import free_port

HTML = b"<!DOCTYPE html><html><body>Blocked</body></html>"
#: Most bytes that the client of these tests reads.
MOST = 2_000
BODIES: dict[str, bytes] = {
    "answer": b'{"id":"j-1","status":"IN_QUEUE"}',
    "json": b'{"detail":"no such luck"}',
    "endpoint": b'{"detail":"endpoint not found"}',
    "html": HTML,
    "text": b"no such luck",
    "empty": b"",
    "too_large": b'{"id":"j-1","status":"' + b"x" * MOST + b'"}',
    "cut": b'{"id":"j-1","sta',
}
CALLS: dict[Operation, Callable[[RunPodClient], object]] = {
    Operation.RUN: lambda client: client.run("ep", b"{}"),
    Operation.RUNSYNC: lambda client: client.runsync("ep", b"{}", 1_000),
    Operation.STATUS: lambda client: client.status("ep", "j-1"),
    Operation.STREAM: lambda client: client.stream("ep", "j-1"),
    Operation.CANCEL: lambda client: client.cancel("ep", "j-1"),
    Operation.RETRY: lambda client: client.retry("ep", "j-1"),
    Operation.PURGE: lambda client: client.purge_queue("ep"),
    Operation.HEALTH: lambda client: client.health("ep"),
    Operation.BATCH: lambda client: client.batch("ep", "/b-1/finalize", b"{}"),
}
SUCCESSES = (200, 201, 202, 203, 206, 299)
CODES = (
    *SUCCESSES, 300, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414, 415,
    418, 421, 422, 423, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 511, 520, 524,
    530, 599, 999,
)  # fmt: skip
TROUBLES = {401: Unauthorised, 402: OutOfCredit, 403: Forbidden}


def expected(op: Operation, code: int, body: str) -> type[ApiError] | None:  # noqa: PLR0911  (a table)
    """The right meaning of each cell, written down a second time; None is an answer."""
    if code in SUCCESSES:
        loose = op in {Operation.STREAM, Operation.PURGE, Operation.HEALTH, Operation.BATCH} and body in {
            "json",
            "endpoint",
        }
        if body == "answer" or loose:
            return None
        return Unanswered if body in {"cut", "too_large", "dripping"} else Unreadable
    if code in {301, 302, 307, 308}:
        return EndpointTrouble
    if code in TROUBLES:
        return TROUBLES[code]
    if code == 404:
        if body == "endpoint" or op not in NAMES_SOMETHING:
            return EndpointUnknown
        return Unanswered if body == "html" else JobUnknown
    if code == 429:
        return Throttled
    if code == 409 and op in SUBMITS:
        return EndpointPaused
    if code == 408 or not 400 <= code < 500:
        return Unanswered
    return Unanswered if body == "html" and op not in SUBMITS else Refused


def is_foreign(code: int, body: str) -> bool:
    """Whether RunPod itself does not refuse a submit so."""
    if code in SUCCESSES or code in {408, 429} or (code not in {301, 302, 307, 308} and not 400 <= code < 500):
        return False
    return body == "html" or (code not in {400, 401, 402, 403, 409, 422} and body != "endpoint")


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """A server whose next answer a test sets."""
    with serving(answer()) as made:
        yield made


@pytest.mark.parametrize("op", list(Operation))
def test_every_cell_of_the_table_means_what_it_should(wire: Wire, op: Operation) -> None:
    """Operation by code by kind of body: the error, or the answer; and whose refusal it is."""
    client = RunPodClient(base_of(wire), lambda: "rpa_0123456789", max_answer_bytes=MOST, read_timeout_s=5.0)
    wrong: list[object] = []
    try:
        for code in CODES:
            for body, text in BODIES.items():
                length = len(text) + 100 if body == "cut" else None
                wire._replies = [answer(text, f"{code} X", length=length)]
                caught: ApiError | None = None
                try:
                    CALLS[op](client)
                except ApiError as error:
                    caught = error
                found = type(caught) if caught else None
                if found is not expected(op, code, body):
                    wrong.append((op.value, code, body, found))
                if caught is not None:
                    assert caught.code == code
                    if op in SUBMITS and caught.foreign is not is_foreign(code, body):
                        wrong.append((op.value, code, body, "foreign"))
    finally:
        client.close()
    assert wrong == []


@pytest.mark.parametrize("code", [200, 201, 202])
def test_a_submit_that_names_an_id_is_answered(wire: Wire, code: int) -> None:
    """Whatever else it says, or does not say."""
    client = RunPodClient(base_of(wire), lambda: "rpa_0123456789")
    for text in (b'{"id":"j-9","status":"IN_QUEUE"}', b'{"id":"j-9"}', b'{"id":"j-9","status":7}'):
        wire._replies = [answer(text, f"{code} X")]
        taken = client.run("ep", b"{}")
        assert (taken.job_id, taken.status) == ("j-9", "IN_QUEUE")
    client.close()


def test_what_was_answered_is_told_in_words_without_our_key(wire: Wire) -> None:
    """A page without its markup, bounded; no key, no secret of the input (I11)."""
    key = "rpa_0123456789"
    page = f'<html><script>x()</script><h1>Denied</h1> Bearer {key} "accessSecret": "hush" {"long " * 500}</html>'
    wire._replies = [answer(page.encode(), "403 X")]
    client = RunPodClient(base_of(wire), lambda: key)
    with pytest.raises(Forbidden) as caught:
        client.run("ep", b"{}")
    client.close()
    said = caught.value.answered
    assert said.startswith("HTTP 403 and a page of HTML: Denied")
    assert len(said) < 400
    assert not any(word in said for word in (key, "hush", "x()", "<"))


# What may have left


def _exceptions() -> list[Exception]:
    """One of each that building a call, connecting, sending and reading may raise."""
    found: list[Exception] = [MemoryError(), RuntimeError("x"), RecursionError(), EOFError(), AttributeError("x")]
    found += [UnicodeError("label too long"), ValueError("x"), TypeError("x"), AssertionError("x"), KeyError("x")]
    found += [kind("x") for kind in (OSError, BrokenPipeError, ConnectionResetError, TimeoutError, PermissionError)]
    found += [socket.gaierror(-2, "x"), socket.herror(1, "x"), OSError(24, "too many open files")]
    for module in (requests.exceptions, urllib3.exceptions, ssl, http.client):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and not issubclass(kind, Warning):
                made = kind.__new__(kind)
                made.args = ("x",)
                found.append(made)
    return found


EXCEPTIONS = _exceptions()


@pytest.fixture
def calls(wire: Wire) -> Iterator[tuple[Wire, RunPodClient]]:
    """A client and its server, with one good answer waiting."""
    wire._replies = [answer()]
    wire.requests.clear()
    client = RunPodClient(base_of(wire), lambda: "rpa_0123456789", connect_timeout_s=1.0, read_timeout_s=1.0)
    yield wire, client
    client.close()


def _outcomes(
    client: RunPodClient, monkeypatch: pytest.MonkeyPatch, owner: type, place: str, *, kept: bool = False
) -> set[type[Exception]]:
    """What a submit raises where `owner.place` raises each of them, on a new connection or on one that was kept."""
    found = set()
    for error in EXCEPTIONS:

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        client.close()  # a new connection for each
        if kept:
            client.run("ep", b"{}")
        with monkeypatch.context() as patched:
            patched.setattr(owner, place, fail)
            try:
                client.run("ep", b"{}")
            except Exception as raised:  # noqa: BLE001  (which one is the question)
                found.add(type(raised))
    return found


@pytest.mark.parametrize("place", ["_new_conn", "connect"])
def test_whatever_fails_before_the_first_byte_has_sent_nothing(
    calls: tuple[Wire, RunPodClient], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Every exception there is, at every place before it: Unreachable, and the server saw nothing."""
    wire, client = calls
    assert _outcomes(client, monkeypatch, urllib3.connection.HTTPConnection, place) == {Unreachable}
    assert wire.requests == []


@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize(("owner", "place"), [(http.client.HTTPConnection, "send"), (exchange.Reading, "take")])
def test_whatever_fails_after_it_may_have_left(
    calls: tuple[Wire, RunPodClient], monkeypatch: pytest.MonkeyPatch, owner: type, place: str, *, kept: bool
) -> None:
    """Every exception there is, while the request is sent or its answer read: Unanswered."""
    _, client = calls
    assert _outcomes(client, monkeypatch, owner, place, kept=kept) == {Unanswered}


@pytest.mark.parametrize("place", ["_pool_for", "_build"])
def test_whatever_fails_while_a_call_is_built_has_sent_nothing(
    calls: tuple[Wire, RunPodClient], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A proxy, a bundle, an address."""
    wire, client = calls
    assert _outcomes(client, monkeypatch, RunPodClient, place) == {Unreachable}
    assert wire.requests == []


@pytest.mark.parametrize(
    ("variable", "value", "reason", "words"),
    [
        ("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem", "tls", "there is no file or folder /no/such/bundle.pem"),
        ("REQUESTS_CA_BUNDLE", __file__, "tls", "holds no certificate"),
        ("HTTPS_PROXY", "gopher://user:pa55word@proxy:70", "proxy", "gopher:// is none of"),
        ("HTTPS_PROXY", "socks5://user:pa55word@proxy:1080", "proxy", "pip install"),
        ("HTTPS_PROXY", "http://[::1", "proxy", "is no URL like"),
        ("HTTPS_PROXY", "http://user:pa55word@:x", "proxy", "is no URL like"),
        ("ALL_PROXY", "http://", "proxy", "is no URL like"),
    ],
)
def test_a_way_that_cannot_work_is_told_in_words_and_puts_nothing_in_doubt(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str, words: str
) -> None:
    """CA bundle and proxy: nothing was sent, the sentence says what to mend, and no password is in it."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    client = RunPodClient("https://runpod.invalid/v2", lambda: "rpa_0123456789")
    with pytest.raises(Unreachable, match=words) as caught:
        client.run("ep", b"{}")
    assert caught.value.reason == reason
    assert variable in caught.value.message
    assert "pa55word" not in f"{caught.value!r}"
    assert words in (client.fault() or "")
    client.close()


def test_a_proxy_that_refuses_us_is_told_as_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there, or it will not tunnel."""
    monkeypatch.setenv("https_proxy", f"http://user:pa55word@127.0.0.1:{free_port()}")
    client = RunPodClient("https://runpod.invalid/v2", lambda: "rpa_0123456789")
    with pytest.raises(Unreachable, match="through the proxy") as caught:
        client.run("ep", b"{}")
    assert caught.value.reason == "proxy"
    assert "pa55word" not in f"{caught.value!r}"
    client.close()


def test_a_handshake_that_fails_is_told_as_tls(tmp_path: Path) -> None:
    """A server that speaks no TLS."""

    def plain(connection: socket.socket) -> bool:
        connection.sendall(b"220 this is no TLS\r\n")
        return False

    hello: Reply = plain
    with serving(hello) as wire:
        client = RunPodClient(base_of(wire, "https"), lambda: "rpa_0123456789", connect_timeout_s=1.0)
        with pytest.raises(Unreachable) as caught:
            client.run("ep", b"{}")
        client.close()
    assert caught.value.reason in {"tls", "unreachable"}  # the server may close before the handshake is read
