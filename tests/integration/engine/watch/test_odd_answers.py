"""What RunPod answers about one job and cannot be ends with that job: told, bounded, and nobody else waits (I12)."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.engine.calls.write_queue import WriteQueue
from bridge.job.change import Change
from bridge.job.document import Held
from bridge.job.enums import Wish
from bridge.job.record import Long
from bridge.ledger.endpoints import gpu_time
from tests.support.helpers import eventually
from tests.support.house import House, born
from tests.support.odd_runpod import Answer, OddRunPod
from tests.support.servers import RedisServer

NAMES = (f"odd{n}" for n in itertools.count())
MINUTE = 60_000


@pytest.fixture(scope="module")
def runpod() -> Iterator[OddRunPod]:
    """The other side."""
    with OddRunPod() as made:
        yield made


@pytest.fixture(scope="module")
def house(runpod: OddRunPod, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("odd"), broker=url, redis_url=url) as made:
        made.environment["RUNPOD_ENDPOINT_BASE_URL"] = runpod.base_url
        made.worker()
        yield made


def send(house: House, runpod: OddRunPod, answer: Answer, **more: Any) -> str:
    """A request whose job's status is that answer, for ever."""
    name = next(NAMES)
    runpod.odd[name] = answer
    return str(house.send({"odd": name}, task_id=name, **more).id)


def ended(house: House, request_id: str) -> dict[str, Any]:
    """The document of a request, once it has an end."""

    def document() -> Any:
        told = house.ask("status", id=request_id)
        return told if told["completed"] else None

    return dict(eventually(document, timeout=60))


def others_go_on(house: House) -> None:
    """The rule of all of these tests."""
    assert house.send({"good": True}).get(timeout=60) == {"good": True}


def made_older(house: House, request_id: str, ms: int) -> None:
    """As if the job had been submitted, last seen and first not understood so much earlier."""
    key = house.ledger.names.row(request_id)
    for field in ("un", "tb", "to", "ts", "ta"):
        was = house.client.hget(key, field)
        if was is not None:
            house.client.hset(key, field, str(int(str(was)) - ms))


def unread(house: House, request_id: str) -> int:
    """Since when its answers cannot be read."""
    held = house.ledger.load(request_id)
    return held.record.unread_since if held else 0


def told_unreadable(house: House, request_id: str) -> dict[str, Any]:
    """The document, once it says that."""
    told = house.ask("status", id=request_id, refresh=True)
    return dict(told) if told.get("waiting_for") == "unreadable" else {}


UNREADABLE = {
    "no UTF-8": Answer(b'{"id":"{id}","status":"COMPLETED","output":"\xff\xfe"}'),
    "5,000 levels": Answer('{"id":"{id}","status":"COMPLETED","output":' + "[" * 5000 + "]" * 5000 + "}"),
    "301 levels": Answer('{"id":"{id}","status":"COMPLETED","output":' + "[" * 300 + "]" * 300 + "}"),
    "cut": Answer('{"id":"{id}","status":"COMPLETED","outp'),
    "nothing": Answer(""),
    "HTML": Answer("<html>hello</html>", headers={"Content-Type": "text/html"}),
    "a list": Answer("[]"),
    "no status": Answer('{"id":"{id}"}'),
    "another job": Answer('{"id":"somebody-else","status":"COMPLETED","output":1}'),
    "no gzip": Answer('{"id":"{id}","status":"COMPLETED"}', headers={"Content-Encoding": "gzip"}),
    "502": Answer("<html>bad gateway</html>", 502, {"Content-Type": "text/html"}),
    "500": Answer('{"error":"{id}"}', 500),
    "410": Answer('{"error":"gone"}', 410),
}


def test_a_job_whose_answers_cannot_be_read_says_so_and_is_given_up_before_its_result_is_forgotten(
    house: House, runpod: OddRunPod
) -> None:
    """Status, log and `waiting_for` first; then LOST (`unreadable`); other requests end all the while."""
    sent = {what: send(house, runpod, answer) for what, answer in UNREADABLE.items()}
    for request_id in sent.values():
        eventually(partial(unread, house, request_id), timeout=60)
    others_go_on(house)
    for request_id in sent.values():
        made_older(house, request_id, MINUTE)
    for what, request_id in sent.items():
        told = eventually(partial(told_unreadable, house, request_id), timeout=60)
        assert told["status"] == "IN_QUEUE", what
        assert told["unreadable"]["error"], what
        result = house.app.AsyncResult(request_id)
        eventually(lambda result=result: result.info["waiting_for"] == "unreadable", timeout=60)  # type: ignore[misc]
    others_go_on(house)
    for request_id in sent.values():
        made_older(house, request_id, 25 * MINUTE)
        house.ask("status", id=request_id, refresh=True)
    for what, request_id in sent.items():
        told = ended(house, request_id)
        assert (told["status"], told["reason"], told["may_run"]) == ("LOST", "unreadable", True), what
        assert told["error"] == told["unreadable"]["error"], what
    others_go_on(house)


ODD_TIMES = (1e17, 1e300, -1, -0.5, "7 ms", "7", True, [7], {"ms": 7}, 1_700_000_000_000, 3_600_000, math.nan, math.inf)


def test_an_odd_time_loses_no_output_and_is_not_booked(house: House, runpod: OddRunPod) -> None:
    """It is left out, the document names it, and nobody's GPU time has grown by it."""
    sent = {}
    for text in (*map(json.dumps, ODD_TIMES), "9" * 5000):
        said = f'"status":"COMPLETED","delayTime":{text},"executionTime":{text},"output":"kept"'
        sent[text[:20]] = send(house, runpod, Answer("{" + said + "}"))
    for text, request_id in sent.items():
        told = ended(house, request_id)
        assert (told["status"], told["output"]) == ("COMPLETED", "kept"), text
        assert (told["executionTime"], told["delayTime"]) == (None, None), text
        assert told["left_out"] == ["delayTime", "executionTime"], text
    assert gpu_time.read(house.ledger, "demo").ms < MINUTE
    others_go_on(house)


def test_nan_and_infinity_in_an_output_are_told(house: House, runpod: OddRunPod) -> None:
    """JSON has none of them: null stands in their place, and the document says how many."""
    said = '{"id":"{id}","status":"COMPLETED","output":{"a":[NaN,1,-Infinity],"b":1e999,"c":' + "9" * 5000 + "}}"
    told = ended(house, send(house, runpod, Answer(said)))
    assert told["output"] == {"a": [None, 1, None], "b": None, "c": None}
    assert told["nonfinite"] == 4
    assert "nonfinite" not in ended(house, send(house, runpod, Answer('{"status":"COMPLETED","output":"NaN"}')))


def test_half_surrogates_lose_nothing(house: House, runpod: OddRunPod) -> None:
    """Kept in an output as JSON's own escapes; in a word of a row as text."""
    said = r'{"id":"{id}","status":"COMPLETED","workerId":"w\ud800","output":{"\udfff":"\ud800"}}'
    told = ended(house, send(house, runpod, Answer(said)))
    assert told["workerId"] == r"w\ud800"
    assert told["output"] == {"\udfff": "\ud800"}
    odd = send(house, runpod, Answer(r'{"id":"{id}","status":"PAUSED\ud800"}'))
    eventually(lambda: house.ask("status", id=odd)["status"] == r"PAUSED\ud800", timeout=60)


@pytest.mark.parametrize(
    "error",
    [
        '{"error_message":' + "[" * 5000,
        '{"error_message":' + "[" * 900 + "]" * 900 + "}",
        '{"error_message":NaN,"error_type":Infinity}',
        '{"error_message":' + "9" * 5000 + "}",
        '{"error_message":"\\ud800"}',
        "\ud800",
    ],
    ids=["deep", "rather deep", "NaN", "long", "half in half", "half"],
)
def test_an_odd_error_is_told_and_stops_nobody(house: House, runpod: OddRunPod, error: str) -> None:
    """RunPod's JSON-in-a-string of a handler's exception is a handler's words, too."""
    request_id = send(house, runpod, Answer(json.dumps({"status": "FAILED", "error": error})))
    assert ended(house, request_id)["status"] == "FAILED"
    others_go_on(house)


def test_odd_chunks_are_kept(house: House, runpod: OddRunPod) -> None:
    """NaN in a chunk or its metrics: null, and the chunk says so."""
    name = next(NAMES)
    page = '{"status":"IN_PROGRESS","stream":[{"output":[NaN,"x"],"metrics":{"t":Infinity}},{"output":1}]}'
    runpod.streams[name] = Answer(page)
    runpod.odd[name] = Answer('{"status":"IN_PROGRESS"}')
    house.send({"odd": name}, task_id=name, stream=True)
    eventually(lambda: len(house.ledger.chunks(name)) > 1, timeout=60)
    first, second = house.ledger.chunks(name)[:2]
    assert first == {"index": 0, "output": [None, "x"], "metrics": {"t": None}, "nonfinite": 2}
    assert second == {"index": 1, "output": 1}
    told = [event["data"] for event in house.events(name) if event["type"] == "bridge.job.chunk"]
    assert told[0]["nonfinite"] == 2
    house.ask("cancel", id=name)
    runpod.streams[name] = Answer('{"status":"CANCELLED","stream":[]}')
    runpod.odd[name] = Answer('{"status":"CANCELLED"}')


@pytest.mark.slow
def test_a_page_of_60000_chunks_delays_nobody_and_comes_once_and_in_order(house: House, runpod: OddRunPod) -> None:
    """It is written in parts: others' job ids are written meanwhile, so that nothing is sent, and paid, twice."""
    name, most, sent, ended_meanwhile = next(NAMES), 60_000, 0, 0
    page = '{"status":"IN_PROGRESS","stream":[' + '{"output":1},' * (most - 1) + '{"output":2}]}'
    runpod.streams[name] = [Answer(page)]
    house.send({"odd": name}, task_id=name, stream=True)
    client: Any = house.client
    kept = partial(client.xlen, house.ledger.names.chunks(name))
    waiting: list[Any] = []
    while house.phase(name) not in {"SETTLED", "CLOSED"}:  # eight are always on their way
        before = kept()
        still = [one for one in waiting if not one.ready()]
        ended_meanwhile += (len(waiting) - len(still)) * (before > 0 and kept() < most)
        waiting = still
        for n in range(sent, sent + 8 - len(waiting)):
            waiting.append(house.send({"good": f"{name}-{n}"}, task_id=f"{name}-{n}", endpoint="other"))
            sent += 1
    for one in waiting:
        one.get(timeout=60)
    assert ended_meanwhile > 0
    posted = [given["good"] for given in runpod.inputs.values() if str(given.get("good")).startswith(f"{name}-")]
    assert sorted(posted) == sorted(f"{name}-{n}" for n in range(sent))
    told = ended(house, name)
    assert (told["status"], told["chunks_untold"]) == ("COMPLETED", most - 10_000)
    assert "stream_incomplete" not in told
    entries = [json.loads(fields["data"]) for _, fields in client.xrange(house.ledger.names.chunks(name))]
    assert [entry.get("index") for entry in entries] == [*range(most), None]
    assert [entry["output"] for entry in entries[-3:-1]] == [1, 2]
    assert house.ledger.chunks(name) == entries[:-1]
    events = [event["data"]["index"] for event in house.events(name) if event["type"] == "bridge.job.chunk"]
    assert events == list(range(10_000))  # the rest would push others' events out of everybody's stream


def test_a_write_that_is_waited_for_ends_also_where_nothing_can_be_written(house: House) -> None:
    """A thread with a page in its hands never waits for ever."""
    ledger = house.ledger
    ledger.accept_many([("waits", born("waits", ledger))])
    held = ledger.load("waits")
    assert held is not None
    writes = WriteQueue(ledger, lambda _: None)

    def cannot(_held: Held, _now: int) -> Change:
        raise RecursionError("as deep as it gets")

    assert writes.write(held, cannot) is None  # nobody writes
    writes.start()
    assert writes.write(held, cannot) is None
    assert writes.stop(60)
    house.client.delete(ledger.names.key("unreadable"))
    house.ask("cancel", id="waits")


def test_a_change_that_cannot_be_made_ends_no_thread(house: House) -> None:
    """It is told and noted; the changes beside it and behind it are written."""
    ledger, told = house.ledger, threading.Event()
    writes = WriteQueue(ledger, lambda _: None)
    ledger.accept_many([(name, born(name, ledger)) for name in ("bad", "beside", "behind")])
    held = ledger.load_many(["bad", "beside", "behind"])

    def cannot(_held: Held, _now: int) -> Change:
        raise RecursionError("as deep as it gets")

    cancel = partial(ledger.table.wish, cause=Wish.CANCEL)
    writes.put(held["bad"], cannot)
    writes.put(held["beside"], cancel)
    writes.start()
    eventually(lambda: ledger.phases(["beside"]) == ["CLOSED"])
    writes.put(held["behind"], cancel, lambda _: told.set())
    eventually(told.is_set)
    assert "as deep as it gets" in ledger.unreadable()["bad"]
    assert writes.stop(60)
    house.client.delete(ledger.names.key("unreadable"))
    house.ask("cancel", id="bad")


# Anything at all

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(st.characters(exclude_categories=())),  # half surrogates, too
)
VALUES = st.recursive(SCALARS, lambda kind: st.lists(kind, max_size=3) | st.dictionaries(st.text(), kind, max_size=3))
WORDS = st.sampled_from(["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT", "COMPLETED", "IN_PROGRESS", "IN_QUEUE"])
MEMBERS = ("delayTime", "executionTime", "retries", "workerId", "output", "error", "id")
DOCUMENTS = st.fixed_dictionaries({"status": st.one_of(WORDS, WORDS, SCALARS)}, optional=dict.fromkeys(MEMBERS, VALUES))
BODIES = st.one_of(
    DOCUMENTS.map(lambda value: json.dumps(value).encode()),
    DOCUMENTS.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    st.tuples(DOCUMENTS, st.integers(0, 40)).map(lambda pair: json.dumps(pair[0]).encode()[: -pair[1] or None]),
)


@settings(max_examples=30, deadline=None)
@given(body=BODIES, code=st.sampled_from([200, 200, 200, 200, 500, 502, 418]))
def test_whatever_is_answered_about_a_job_it_ends_or_is_seen_and_others_go_on(
    house: House, runpod: OddRunPod, body: bytes, code: int
) -> None:
    """No record fails, no thread dies: each answer is an end, news, or counted as one that cannot be read."""
    request_id = send(house, runpod, Answer(body, code))

    def settled() -> bool:
        held = house.ledger.load(request_id, wanted=(Long.PROGRESS,))
        assert held is not None
        record = held.record
        return record.phase.ended or bool(record.unread_since) or record.observed_at > record.submitted_at > 0

    eventually(settled, timeout=60)
    assert house.ledger.unreadable() == {}
    house.ask("cancel", id=request_id)
    runpod.odd[request_id] = Answer('{"status":"CANCELLED"}')
    others_go_on(house)
