"""Callbacks, driven by hand against a real receiver: order, repeats, retries, what is given up, who waits for whom."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from bridge.callbacks.addresses import Addresses
from bridge.callbacks.post import Poster
from bridge.callbacks.signer import Signer
from bridge.engine.accept.accept import Accept, Origin
from bridge.engine.accept.repeated import call_again
from bridge.engine.calls.threads import Callers
from bridge.engine.tell.callbacks import Callbacks
from bridge.job.callback import Callback
from bridge.job.document import Held
from bridge.job.enums import Phase, Wish
from bridge.job.record import Long, Record, dumps
from bridge.ledger import Ledger
from bridge.ledger.stores.callbacks import Lane
from bridge.settings import load
from bridge.settings.callbacks import allowed_of
from bridge.settings.config_file import EndpointBook
from bridge.telemetry.metrics import REGISTRY
from tests.support.helpers import eventually, free_port
from tests.support.proxy import FaultProxy
from tests.support.receiver import SECRET, Receiver


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A service that is called back."""
    with Receiver(tmp_path, "localhost", "shop.example.com", "other.example.com") as made:
        yield made


@pytest.fixture
def caller(ledger: Ledger, receiver: Receiver, tmp_path: Path) -> Iterator[Callbacks]:
    """What one process has, turned by the test."""
    made = caller_of(ledger, receiver, tmp_path)
    yield made
    made.callers.close()


def caller_of(ledger: Ledger, receiver: Receiver, directory: Path, **more: Any) -> Callbacks:
    """One process' callbacks; all that `more` says is otherwise than here."""
    secret_file = directory / "secret"
    secret_file.write_text(SECRET)
    lookup: Callable[[str, int], Sequence[str]] = more.pop("lookup", lambda *_: ["127.0.0.1"])
    allow = more.pop("allow", "127.0.0.0/8")
    timeout_s = more.pop("timeout_s", 10.0)
    poster = Poster(
        Addresses(allowed_of(allow), lookup), timeout_s=timeout_s, ca_file=receiver.ca_file, agent="runpod-bridge/test"
    )
    uses: dict[str, Any] = {"of_host": 4, "lease_ms": 60_000, "retry_s": 0.02, "patience_ms": 86_400_000}
    callers = Callers("callback", more.pop("threads", 8))
    return Callbacks(ledger, lambda _: None, Signer(secret_file), poster, callers, **(uses | more))


def asked(ledger: Ledger, request_id: str, url: str, *events: str) -> Held:
    """A request that was accepted, and wants to be told of these."""
    kept = Callback.model_validate({"url": url, "events": list(events) or None}).kept()
    record = Record(
        id=request_id, endpoint="demo", endpoint_id="demo", door="stream", sinks="callback", fingerprint="f"
    )
    held = Held(record, {Long.INPUT: '{"a":1}', Long.CALLBACK: dumps([kept])})
    found = ledger.accept(request_id, lambda now, wish: ledger.table.accept(held, now, wish)).held
    assert found is not None
    return found


def ended(ledger: Ledger, request_id: str, url: str, *events: str) -> None:
    """The same, and cancelled before it was sent."""
    cancelled(ledger, asked(ledger, request_id, url, *events))


def cancelled(ledger: Ledger, held: Held) -> None:
    """Its end."""
    ledger.change(held, lambda fresh, now: ledger.table.wish(fresh, now, Wish.CANCEL))


def phase(ledger: Ledger, request_id: str) -> Phase | None:
    """Where the record stands."""
    held = ledger.load(request_id)
    return held.record.phase if held else None


def turned(caller: Callbacks, until: Callable[[], Any], timeout: float = 10.0) -> None:
    """Turn the loop until something is so."""

    def turn() -> Any:
        caller.once()
        return until()

    eventually(turn, timeout=timeout)


def closed(ledger: Ledger, *ids: str) -> bool:
    """Whether all of them are."""
    return all(phase(ledger, one) is Phase.CLOSED for one in ids)


def left(ledger: Ledger) -> list[str]:
    """Keys of callbacks that nothing is owed by any more, and that stand there all the same."""
    found: list[str] = []
    for pattern in ("cb:*", "cbs:*", "cb_due:*", "cb_out:*", "cb_since"):
        found += [str(key) for key in ledger.client.scan_iter(ledger.names.key(pattern))]
    return found


# What comes


def test_an_end_comes_once_signed_and_as_the_event_stream_has_it(
    ledger: Ledger, receiver: Receiver, caller: Callbacks
) -> None:
    """The record closes when it was taken, and nothing is left behind."""
    ended(ledger, "order-1.a", receiver.url("/hooks/T0/x?token=t&n=1"))
    assert phase(ledger, "order-1.a") is Phase.SETTLED
    turned(caller, lambda: closed(ledger, "order-1.a") and not left(ledger))
    (call,) = receiver.calls
    entries: Any = ledger.client.xrange(ledger.names.events)
    assert call.body.decode() == entries[-1][1]["data"]
    event = call.verified()
    assert (event["type"], event["id"], event["subject"]) == ("bridge.job.cancelled", "order-1.a:2", "order-1.a")
    assert (call.id, call.path) == ("order-1%2Ea:2", "/hooks/T0/x?token=t&n=1")
    assert call.headers["content-type"] == "application/cloudevents+json"
    assert call.headers["host"] == f"localhost:{receiver.port}"
    assert (ledger.callbacks.count(), ledger.callbacks.oldest_ms()) == (0, 0)


def test_events_are_chosen_and_come_in_their_order(ledger: Ledger, receiver: Receiver, caller: Callbacks) -> None:
    """A receiver that is slow, or fails in between, changes nothing of it."""
    fails = iter([204, 503, 204, 500, 204])
    receiver.answer = lambda _: next(fails, 204)
    for n in range(3):
        ended(ledger, f"r{n}", receiver.url(f"/{n}"), "accepted", "submitted", "started", "end")
    turned(caller, lambda: closed(ledger, "r0", "r1", "r2"))
    for n in range(3):
        told = [event["type"].rpartition(".")[2] for event in receiver.events(f"r{n}")]
        assert list(dict.fromkeys(told)) == ["accepted", "cancelled"], told


def test_who_wants_only_what_comes_before_the_end_is_told_no_end_and_keeps_no_record_open(
    ledger: Ledger, receiver: Receiver, caller: Callbacks
) -> None:
    """And one that wants what never comes is told nothing."""
    ended(ledger, "a", receiver.url(), "accepted")
    ended(ledger, "b", receiver.url(), "started", "completed")
    ended(ledger, "c", receiver.url(), "cancelled")
    turned(caller, lambda: closed(ledger, "a", "b", "c") and not left(ledger))
    assert sorted(call.id for call in receiver.calls) == ["a:1", "c:2"]


def test_a_request_that_is_sent_again_with_another_address_calls_both(
    ledger: Ledger, receiver: Receiver, caller: Callbacks
) -> None:
    """Under way it joins, with the same address nothing changes; after the end it is told the end, once."""
    held = asked(ledger, "a", receiver.url("/first"))
    for path in ("/first", "/second", "/second"):
        call_again(ledger, "a", Callback(url=receiver.url(path)).kept(), inline_limit=1 << 18)
    cancelled(ledger, held)
    turned(caller, lambda: closed(ledger, "a"))
    for _ in range(2):
        call_again(ledger, "a", Callback(url=receiver.url("/third")).kept(), inline_limit=1 << 18)
    call_again(ledger, "a", Callback(url=receiver.url("/first")).kept(), inline_limit=1 << 18)
    turned(caller, lambda: not left(ledger))
    assert sorted(call.path for call in receiver.calls) == ["/first", "/second", "/third"]
    assert {call.id for call in receiver.calls} == {"a:2"}
    assert {call.verified()["data"]["status"] for call in receiver.calls} == {"CANCELLED"}


def test_an_address_beyond_the_eight_that_may_be_added_is_refused_by_its_field(
    ledger: Ledger, receiver: Receiver, redis_url: str, tmp_path: Path
) -> None:
    """Under way and after the end: its sender hears that nobody will call it; a known one is still known."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    settings = load(
        celery_broker_url=redis_url, bridge_redis_url=redis_url, celery_result_backend=redis_url, runpod_api_key="k",
        runpod_endpoint_id="demo", bridge_callback_secret_file=secret, bridge_callback_allow="localhost, 127.0.0.1",
    )  # fmt: skip
    accept = Accept(ledger, EndpointBook(settings), settings)

    def sent(path: str) -> Any:
        return accept("a", {"input": {"n": 1}, "callback": {"url": receiver.url(path)}}, Origin(door="http"))

    assert [sent(f"/{n}").kind for n in range(9)] == ["accepted"] + ["repeat"] * 8
    for ends in (False, True):
        if ends:
            held = ledger.load("a")
            assert held is not None
            cancelled(ledger, held)
        refused = sent("/9")
        assert refused.fault is not None
        assert refused.fault.document["field"] == "callback"
        assert "at most 8" in refused.fault.message
        assert sent("/8").fault is None


# What goes wrong


def test_a_receiver_that_fails_for_a_while_gets_the_same_id_again_with_the_time_of_each_try(
    ledger: Ledger, receiver: Receiver, caller: Callbacks
) -> None:
    """So that it can tell a repetition, and an old recording from a new try; Retry-After is kept to."""
    answers: Iterator[Any] = iter([500, (429, {"Retry-After": "1"}), (302, {"Location": "https://localhost/"}), 200])
    receiver.answer = lambda _: next(answers)
    ended(ledger, "a", receiver.url())
    turned(caller, lambda: closed(ledger, "a"))
    assert [call.id for call in receiver.calls] == ["a:2"] * 4
    assert receiver.calls[2].at - receiver.calls[1].at >= 1.0
    assert {call.path for call in receiver.calls} == {"/hook"}, "a redirect was followed"
    assert all(call.verified() for call in receiver.calls)


def test_what_was_not_taken_for_a_day_is_a_dead_letter_and_the_record_closes(
    ledger: Ledger, receiver: Receiver, tmp_path: Path
) -> None:
    """It names request, host and the last answer, and holds the event; no secret of the address stands there."""
    receiver.answer = lambda _: 500
    caller = caller_of(ledger, receiver, tmp_path, patience_ms=300)
    url = receiver.url("/hooks/T0/pathsecret?token=querysecret").replace("https://", "https://me:wordsecret@")
    ended(ledger, "a", url, "accepted", "end")
    turned(caller, lambda: closed(ledger, "a") and not left(ledger))
    letters = ledger.dead.newest()
    assert [letter["reason"] for letter in letters] == ["undeliverable"] * 2
    assert {letter["request_id"] for letter in letters} == {"a"}
    assert {letter["source"] for letter in letters} == {f"https://localhost:{receiver.port}"}
    assert "500" in letters[0]["detail"]
    assert '"id":"a:2"' in letters[0]["original"]
    assert "secret" not in repr(letters)
    assert len(receiver.calls) >= 3
    assert receiver.calls[0].headers["authorization"].startswith("Basic ")
    caller.callers.close()


def test_a_receiver_that_is_gone_is_asked_no_more(ledger: Ledger, receiver: Receiver, caller: Callbacks) -> None:
    """410 ends what is owed there of this request, once and for all; others go on."""
    receiver.answer = lambda call: 410 if call.path == "/gone" else 204
    held = asked(ledger, "a", receiver.url("/gone"), "accepted", "end")
    ended(ledger, "b", receiver.url("/stays"))
    turned(caller, lambda: closed(ledger, "b") and not ledger.callbacks.count())
    cancelled(ledger, held)
    turned(caller, lambda: closed(ledger, "a") and not left(ledger))
    assert [call.id for call in receiver.calls if call.path == "/gone"] == ["a:1"]
    assert "410" in ledger.dead.newest()[0]["detail"]


def test_one_that_hangs_and_one_that_is_away_delay_nobody_else(
    ledger: Ledger, receiver: Receiver, tmp_path: Path
) -> None:
    """A hundred requests each wait for them; those of others are told at once, by the few threads there are."""
    release = threading.Event()
    receiver.answer = lambda call: (release.wait(60), 204)[1] if call.path == "/hangs" else 204
    caller = caller_of(ledger, receiver, tmp_path, threads=4, of_host=2, timeout_s=20.0)
    away = free_port()
    for n in range(100):
        ended(ledger, f"hangs{n}", receiver.url("/hangs", "shop.example.com"))
        ended(ledger, f"away{n}", f"https://localhost:{away}/")
    turned(caller, lambda: sum(call.path == "/hangs" for call in receiver.calls) == 2)
    began = time.monotonic()
    for n in range(20):
        ended(ledger, f"well{n}", receiver.url("/well", "other.example.com"))
    turned(caller, lambda: closed(ledger, *(f"well{n}" for n in range(20))))
    assert time.monotonic() - began < 15, "they waited for a receiver that hangs until its deadline"
    assert sum(call.path == "/hangs" for call in receiver.calls) == 2, "one host has more than its share"
    release.set()
    caller.callers.close()


def test_a_host_that_is_away_rests_and_then_all_of_it_goes_on(
    ledger: Ledger, receiver: Receiver, caller: Callbacks
) -> None:
    """While it is away one try is made for all of its callbacks; once it is there, they all come."""
    with FaultProxy("127.0.0.1", receiver.port) as proxy:
        proxy.refuse()
        for n in range(50):
            ended(ledger, f"r{n}", f"https://shop.example.com:{proxy.port}/")
        before = tries("away")
        turned(caller, lambda: tries("away") >= before + 3)
        assert tries("away") - before < 20, "each of the fifty was tried"
        ((host, fails, since),) = ledger.callbacks.failing()
        assert (host, fails >= 1, since <= ledger.now()) == (f"shop.example.com:{proxy.port}", True, True)
        proxy.restore()
        turned(caller, lambda: closed(ledger, *(f"r{n}" for n in range(50))), timeout=30)
    assert len(receiver.calls) == 50
    assert ledger.callbacks.failing() == []


def test_what_a_dead_host_is_owed_for_too_long_is_given_up_without_a_try_for_each(
    ledger: Ledger, receiver: Receiver, tmp_path: Path
) -> None:
    """One try at a time would keep records open for weeks; those of others go on as ever."""
    caller = caller_of(ledger, receiver, tmp_path, patience_ms=500, retry_s=1.0)
    ids, before = [f"r{n}" for n in range(60)], tries("away")
    for one in ids:
        ended(ledger, one, f"https://localhost:{free_port()}/", "end")
    port = free_port()
    for one in ids:
        ended(ledger, f"{one}-one-host", f"https://shop.example.com:{port}/", "accepted", "end")
    turned(caller, lambda: closed(ledger, *(f"{one}-one-host" for one in ids)))
    turned(caller, lambda: closed(ledger, *ids) and not left(ledger))
    letters = [letter for letter in ledger.dead.newest() if "shop.example.com" in letter["source"]]
    assert len({(letter["request_id"], letter["sha256"]) for letter in letters}) == 120
    assert sum("(tried 0 times)" in letter["detail"] for letter in letters) > 60
    assert ledger.callbacks.count() == 0
    assert tries("given_up") >= 180
    assert tries("away") - before < 60 * 3 + 30
    caller.callers.close()


def test_a_try_is_over_at_its_deadline_whatever_the_receiver_does(receiver: Receiver) -> None:
    """Without a beginning, byte by byte, or without an end; a good status counts, however long the body is."""
    addresses = Addresses(allowed_of("127.0.0.0/8"), lambda *_: ["127.0.0.1"])
    poster = Poster(addresses, timeout_s=1.5, ca_file=receiver.ca_file, agent="test")
    for path, kind in {
        "/drip-head": "slow",
        "/never": "slow",
        "/drip-body": "delivered",
        "/endless": "delivered",
    }.items():
        began = time.monotonic()
        assert poster.post(receiver.url(path), b"{}", {}).kind == kind, path
        assert time.monotonic() - began < 6, path
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing: no TLS begins
        began = time.monotonic()
        outcome = poster.post(f"https://localhost:{silent.getsockname()[1]}/", b"{}", {})
    assert outcome.kind == "away"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("answer", "kind"), [(204, "delivered"), (500, "refused"), (410, "gone")])
def test_what_a_server_says_before_its_answer_is_no_answer(receiver: Receiver, answer: int, kind: str) -> None:
    """102 and 103 come of proxies and frameworks; what follows them counts."""
    poster = Poster(
        Addresses(allowed_of("127.0.0.0/8"), lambda *_: ["127.0.0.1"]),
        timeout_s=9.0,
        ca_file=receiver.ca_file,
        agent="test",
    )
    receiver.answer = lambda _: answer
    assert poster.post(receiver.url("/early"), b"{}", {}).kind == kind


# Where it may go


def test_a_name_that_leads_to_a_private_address_is_not_called(
    ledger: Ledger, receiver: Receiver, tmp_path: Path
) -> None:
    """Not even connected to; it is tried again, for names change, and then a dead letter says why."""
    caller = caller_of(ledger, receiver, tmp_path, allow="", patience_ms=200)
    ended(ledger, "a", receiver.url("/", "shop.example.com"))
    turned(caller, lambda: closed(ledger, "a"))
    assert receiver.calls == []
    assert "which is not public" in ledger.dead.newest()[0]["detail"]
    caller.callers.close()


def test_a_name_is_looked_up_once_and_the_call_goes_to_what_was_judged(
    ledger: Ledger, receiver: Receiver, tmp_path: Path
) -> None:
    """A server of names that would say another thing to the caller than to the judge (DNS rebinding) is asked once."""
    answers = iter([["127.0.0.1"], ["127.0.0.66"], ["10.0.0.1"]])
    asks: list[str] = []

    def lookup(name: str, _port: int) -> list[str]:
        asks.append(name)
        return next(answers)

    caller = caller_of(ledger, receiver, tmp_path, lookup=lookup, allow="127.0.0.1")
    ended(ledger, "a", receiver.url("/", "shop.example.com"))
    turned(caller, lambda: closed(ledger, "a"))
    assert asks == ["shop.example.com"]
    assert len(receiver.calls) == 1
    ended(ledger, "b", receiver.url("/", "shop.example.com"))
    turned(caller, lambda: len(asks) == 2)
    assert len(receiver.calls) == 1, "an address that is not listed was called"
    caller.callers.close()


def test_a_certificate_of_another_name_or_of_nobody_is_refused(
    ledger: Ledger, receiver: Receiver, tmp_path: Path
) -> None:
    """Whoever sits on the way gets no event; it counts as away."""
    addresses = Addresses(allowed_of("127.0.0.0/8"), lambda *_: ["127.0.0.1"])
    ours = Poster(addresses, timeout_s=10.0, ca_file=receiver.ca_file, agent="test")
    strangers = Poster(addresses, timeout_s=10.0, ca_file=None, agent="test")
    another = ours.post(receiver.url("/", "third.example.com"), b"{}", {})
    nobody = strangers.post(receiver.url("/", "shop.example.com"), b"{}", {})
    assert (another.kind, nobody.kind) == ("away", "away")
    assert "mismatch" in another.says.lower()
    assert "certificate" in nobody.says.lower()
    assert receiver.calls == []


# Who dies


@pytest.mark.parametrize("line", ["post", "done", "load", "change", "drop", "keep", "later"])
def test_a_kill_between_any_two_lines_loses_none_and_repeats_one_at_most(
    line: str, ledger: Ledger, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies before this call, and another dies behind it; whoever comes then goes on."""
    if line in {"keep", "later"}:
        receiver.answer = lambda _: 500
    for when in ("before", "behind"):
        name = f"{line}-{when}"
        ended(ledger, name, receiver.url(f"/{when}"), "accepted", "end")
        dying = caller_of(ledger, receiver, tmp_path, lease_ms=200, patience_ms=0 if line == "keep" else 86_400_000)
        place = {"post": dying.poster, "keep": type(ledger.dead), "load": ledger, "change": ledger}.get(
            line, ledger.callbacks
        )
        with monkeypatch.context() as patch:
            patch.setattr(place, line, deadly(getattr(place, line), when))
            died_within(dying)
        if line == "later":
            receiver.answer = lambda _: 204
        survivor = caller_of(ledger, receiver, tmp_path, lease_ms=60_000, patience_ms=dying.patience_ms)
        turned(survivor, partial(closed, ledger, name))
        survivor.callers.close()
        if line == "later":
            receiver.answer = lambda _: 500
        told = [call.id for call in receiver.calls if call.path == f"/{when}"]
        assert list(dict.fromkeys(told)) == [f"{name}:1", f"{name}:2"], "lost, or out of its order"
        assert len(told) <= 3 + (line == "later"), told
        if line == "keep":
            originals = [letter["original"] for letter in ledger.dead.newest() if letter["request_id"] == name]
            assert len({*originals}) == 2


class Killed(BaseException):
    """The process is no more: nothing of what would follow is done."""


def deadly(call: Callable[..., Any], when: str) -> Callable[..., Any]:
    """The call, in a process that dies beside it."""

    def called(*args: Any, **kwargs: Any) -> Any:
        if when == "behind":
            call(*args, **kwargs)
        raise Killed

    return called


def died_within(dying: Callbacks) -> None:
    """Work lanes in this thread until it dies."""

    def work(_call: object, lane: Lane, **_: object) -> None:
        dying.work(lane)

    dying.callers.start = work  # type: ignore[method-assign,assignment]

    def turn() -> bool:
        try:
            dying.once()
        except Killed:
            return True
        return False

    eventually(turn)


def test_two_processes_call_each_lane_in_turn_and_once(ledger: Ledger, receiver: Receiver, tmp_path: Path) -> None:
    """Leases keep them apart."""
    both = [caller_of(ledger, receiver, tmp_path) for _ in range(2)]
    ids = [f"r{n}" for n in range(40)]
    for one in ids:
        ended(ledger, one, receiver.url(), "accepted", "end")

    def turn() -> bool:
        for caller in both:
            caller.once()
        return closed(ledger, *ids)

    eventually(turn)
    assert sorted(call.id for call in receiver.calls) == sorted(f"{one}:{n}" for one in ids for n in (1, 2))
    for caller in both:
        caller.callers.close()


def test_a_receiver_that_takes_nothing_is_owed_no_more_than_a_bound_and_its_end(
    ledger: Ledger, receiver: Receiver, caller: Callbacks
) -> None:
    """A request with endless progress fills no ledger: what found no room is told, and the end always has some."""
    lane = f"{Callback(url=receiver.url()).kept()['lane']}:a"
    ledger.client.hset(ledger.names.key(f"cbs:{lane}"), "bytes", str(1 << 24))
    before = tries("skipped")
    ended(ledger, "a", receiver.url(), "accepted", "end")
    turned(caller, lambda: closed(ledger, "a") and not left(ledger))
    assert [call.id for call in receiver.calls] == ["a:2"]
    assert tries("skipped") - before == 1


def tries(result: str) -> float:
    """What the metrics of this process have counted."""
    for line in generate_latest(REGISTRY).decode().splitlines():
        if line.startswith(f'bridge_callbacks_total{{result="{result}"}}'):
            return float(line.rpartition(" ")[2])
    return 0.0
