"""Calls that no thread waits for: one thread reads the answers of all, and each call ends as it would alone."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import Unanswered
from bridge.runpod.client import RunPodClient, Told
from bridge.runpod.http import answer_reader, pools
from bridge.runpod.http.pools import BODY_AT_ONCE
from tests.integration.runpod.test_client_faults import (
    QUEUED,
    Begun,
    Reply,
    answer,
    base_of,
    beginning,
    calling,
    certificate,
    close,
    drip,
    reset,
    serving,
    silence,
)
from tests.support.helpers import COMMAND_S, eventually

__all__ = ["certificate"]


def files() -> int:
    """How many are open in this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


#: Threads of clients that other tests of this process have left open.
others: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def own_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients of a test share a thread with each other alone."""
    monkeypatch.setattr(answer_reader, "_shared", None)
    others.update(threading.enumerate())


def threads() -> list[str]:
    """Those that read answers."""
    return [one.name for one in threading.enumerate() if one.name == "bridge-answers" and one not in others]


def late(after_s: float) -> Reply:
    """The answer, so much later."""

    def reply(connection: socket.socket) -> bool:
        time.sleep(after_s)
        return answer()(connection)

    return reply


def opened(client: RunPodClient, count: int) -> None:
    """Leave so many connections open for reads: as many calls at once as that."""
    calls = [threading.Thread(target=client.status, args=("ep", "j-1")) for _ in range(count)]
    for call in calls:
        call.start()
    for call in calls:
        call.join(COMMAND_S)


@pytest.mark.parametrize("fault", [reset, close, silence], ids=["reset", "closed", "silent"])
def test_a_begun_submit_whose_answer_is_lost_is_unanswered_and_sent_once(fault: Reply) -> None:
    """What has left may have taken effect: it is told so once, and its connection is not used again."""
    with serving(answer(), fault, answer()) as wire, beginning(base_of(wire)) as client:
        client.run("ep", b"{}")
        with pytest.raises(Unanswered):
            client.run("ep", b"{}")
        assert len(wire.requests) == 2
        assert client.run("ep", b"{}").job_id == "j-1"
        assert (client.begun, wire.connections) == (1, 2)


def test_the_deadlines_of_head_and_body_hold_where_nothing_comes() -> None:
    """Half a second each here; the body's begins when the head is there."""
    with serving(answer(), silence, answer(), drip, answer()) as wire, beginning(base_of(wire)) as client:
        for _ in range(2):
            client.run("ep", b"{}")
            began = time.monotonic()
            with pytest.raises(Unanswered):
                client.run("ep", b"{}")
            assert 0.4 < time.monotonic() - began < COMMAND_S / 2
        assert client.begun == 2


def test_answers_of_many_calls_are_read_by_one_thread_as_they_come() -> None:
    """A late answer delays nobody else's."""
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    with serving(late(0.1)) as wire, calling(base_of(wire), read_timeout_s=COMMAND_S) as client:
        opened(client, 9)
        wire._replies = [late(3.0), answer()]
        began = time.monotonic()
        assert client.begin_status("ep", "j-1", told.put)
        eventually(lambda: len(wire.requests) == 10, timeout=COMMAND_S)
        for _ in range(8):
            assert client.begin_status("ep", "j-1", told.put)
        assert [told.get(timeout=COMMAND_S).answer().job_id for _ in range(8)] == ["j-1"] * 8
        assert time.monotonic() - began < 3.0
        assert told.get(timeout=COMMAND_S).answer().job_id == "j-1"
        assert wire.connections <= 9
        assert len(threads()) == 1
    eventually(lambda: threads() == [], timeout=COMMAND_S)


def test_a_begun_call_over_tls_is_read_whole(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of several records, whose rest TLS has unpacked before anybody asks for it."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    large = b'{"id":"j-1","status":"COMPLETED","output":"' + b"x" * 200_000 + b'"}'
    with serving(answer(large), tls=tls) as wire, beginning(base_of(wire, "https")) as client:
        for _ in range(3):
            assert client.status("ep", "j-1").output == "x" * 200_000
        assert (client.begun, wire.connections) == (2, 1)


@pytest.fixture
def open_client() -> Iterator[Begun]:
    """With a connection of each kind open."""
    with serving(answer()) as wire, beginning(base_of(wire)) as client:
        client.run("ep", b"{}")
        client.status("ep", "j-1")
        yield client


def test_what_would_hold_its_sender_up_has_a_thread(open_client: Begun) -> None:
    """A large body may not fit into the socket; everything else is begun."""
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    assert not open_client.begin_run("ep", b"x" * (BODY_AT_ONCE + 1), told.put)
    assert open_client.begin_run("ep", b"x" * BODY_AT_ONCE, told.put)
    assert told.get(timeout=COMMAND_S).answer().job_id == "j-1"


def test_a_submit_never_begins_on_a_connection_idle_for_too_long(
    open_client: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 6: a server may have closed it meanwhile; a read that is lost is only read again."""
    monkeypatch.setattr(pools, "FRESH_S", 0.05)
    time.sleep(0.1)
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    assert not open_client.begin_run("ep", b"{}", told.put)
    assert open_client.begin_status("ep", "j-1", told.put)
    assert told.get(timeout=COMMAND_S).answer().job_id == "j-1"


@pytest.mark.parametrize(("endpoint", "key"), [("e/p", "rpa_1"), ("ep", "rpa_\n")], ids=["endpoint", "key"])
def test_what_cannot_be_sent_is_not_begun(endpoint: str, key: str) -> None:
    """The call that has a thread of its own says why."""
    keys = ["rpa_1"]
    with serving(answer()) as wire:
        client = RunPodClient(base_of(wire), lambda: keys[0])
        client.status("ep", "j-1")
        keys[0] = key
        assert not client.begin_status(endpoint, "j-1", lambda _: None)
        assert len(wire.requests) == 1
        client.close()


def test_a_fault_of_who_is_told_ends_nobody_elses_call(open_client: Begun) -> None:
    """The thread reads on."""
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()

    def fails(_: Told) -> None:
        raise RuntimeError("of whoever asked")

    assert open_client.begin_status("ep", "j-1", fails)
    eventually(lambda: open_client.begin_status("ep", "j-1", told.put), timeout=COMMAND_S)
    assert told.get(timeout=COMMAND_S).answer().job_id == "j-1"


def test_an_answer_that_came_in_time_is_no_lost_one_though_it_was_read_late() -> None:
    """The thread was kept by what another answer led to (a ledger that hangs, a process that was frozen)."""
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    with serving(late(0.1)) as wire, calling(base_of(wire), read_timeout_s=1.0) as client:
        opened(client, 2)
        assert client._waiting is not None
        waiting = client._waiting._waiting
        wire._replies = [answer(), late(0.2)]
        second = threading.Event()

        def kept(first: Told) -> None:
            told.put(first)
            assert second.wait(COMMAND_S)
            (other,) = waiting.values()
            eventually(lambda: time.monotonic() > other.reading.deadline, timeout=COMMAND_S)

        assert client.begin_status("ep", "j-1", kept)
        assert told.get(timeout=COMMAND_S).answer().job_id == "j-1"
        assert client.begin_status("ep", "j-1", told.put)
        second.set()
        assert told.get(timeout=COMMAND_S).answer().job_id == "j-1"


def test_a_call_does_not_begin_while_no_thread_can_read_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has left, the connection is there for others, and once there are threads again answers are read."""
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with serving(answer()) as wire, calling(base_of(wire), read_timeout_s=COMMAND_S) as client:
        client.status("ep", "j-1")
        with monkeypatch.context() as none:
            none.setattr(threading.Thread, "start", start)
            assert not client.begin_status("ep", "j-1", told.put)
            assert client.status("ep", "j-1").job_id == "j-1"
        assert client.begin_status("ep", "j-1", told.put)
        assert told.get(timeout=COMMAND_S).answer().job_id == "j-1"
        assert (len(wire.requests), wire.connections) == (3, 1)


def test_a_client_closed_as_the_thread_goes_to_rest_ends_it() -> None:
    """The thread has seen that a client is left; nobody would wake it again."""
    with serving(answer()) as wire, calling(base_of(wire), read_timeout_s=COMMAND_S) as client:

        class ClosedMeanwhile(threading.Event):
            """Cleared by a thread that is about to rest."""

            def clear(self) -> None:
                closing = threading.Thread(target=client.close)
                closing.start()
                closing.join(0.2)
                super().clear()

        client.status("ep", "j-1")
        assert client._waiting is not None
        client._waiting._some = ClosedMeanwhile()
        told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        assert client.begin_status("ep", "j-1", told.put)
        assert told.get(timeout=COMMAND_S).answer().job_id == "j-1"
        eventually(lambda: threads() == [], timeout=5)


def test_a_closed_client_leaves_no_thread_and_no_file_behind() -> None:
    """What waits for answers ends with the last of them."""
    before = files()
    with serving(answer(QUEUED)) as wire:
        for _ in range(3):
            with beginning(base_of(wire)) as client:
                for _ in range(3):
                    client.status("ep", "j-1")
                assert client.begun == 2
    eventually(lambda: files() <= before and threads() == [], timeout=COMMAND_S)
