"""Large outputs: whole to whoever asked, by reference elsewhere, in an object store that may be away."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.engine.large_outputs import LargeOutputs
from bridge.errors import OutputUnavailable, SettingsError
from bridge.job.change import Rules
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.observation import Observation
from bridge.job.record import Long, Record
from bridge.ledger import Ledger, Names, connect
from bridge.object_store import Blobs
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.moto import S3Server
from tests.support.proxy import FaultProxy
from tests.support.servers import RedisServer

LARGE = {"text": "ü" * 20_000}
TEXT = json.dumps(LARGE, separators=(",", ":"), ensure_ascii=False)
DIGEST = hashlib.sha256(TEXT.encode()).hexdigest()
LIMITS: dict[str, Any] = {"inline_limit": "4096", "message_limit": "200000"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the object store."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[House]:
    """A worker with a store of files."""
    url = redis_server.start().fresh_url()
    with House(
        tmp_path_factory.mktemp("outputs"), broker=url, redis_url=url, blob_url=f"file://{place}", **LIMITS
    ) as made:
        made.worker()
        yield made


def end_of(house: House, request_id: str) -> dict[str, Any]:
    """The data of the last event."""
    told: dict[str, Any] = eventually(
        lambda: [e["data"] for e in house.events(request_id) if e["data"].get("completed")]
    )[0]
    return told


def replies(house: House, name: str) -> list[dict[str, Any]]:
    """What a reply stream holds."""
    entries: Any = house.client.xrange(house.ledger.names.reply(name))
    return [json.loads(entry["data"]) for _, entry in entries]


def closed(house: House, request_id: str) -> None:
    """Everybody was told."""
    eventually(lambda: house.phase(request_id) == "CLOSED")


def test_events_carry_a_reference_and_callers_the_whole(house: House, place: Path) -> None:
    """get() and the reply have it; the event says size, SHA-256 and URL; the ledger keeps no copy."""
    sent = house.send(LARGE, reply_to="caller")
    assert sent.get(timeout=20) == LARGE
    closed(house, sent.id)
    ref = end_of(house, sent.id)["output_ref"]
    assert (ref["size"], ref["sha256"]) == (len(TEXT.encode()), DIGEST)
    path = Path(ref["url"].removeprefix("file://"))
    assert path.is_relative_to(place)
    assert path.read_text() == TEXT
    reply = replies(house, "caller")[-1]
    assert reply["data"]["output"] == LARGE
    assert "output_ref" not in reply["data"]
    assert reply["id"] == house.events(sent.id)[-1]["id"]
    assert not house.client.exists(house.ledger.names.output(sent.id))
    assert list(place.rglob("*.part")) == []


def test_status_gives_the_reference_and_the_content_when_asked(house: House) -> None:
    """By task and by command, after the ledger has let it go."""
    sent = house.send(LARGE)
    sent.get(timeout=20)
    closed(house, sent.id)
    assert house.ask("status", id=sent.id)["output_ref"]["sha256"] == DIGEST
    assert house.ask("status", id=sent.id, content=True)["output"] == LARGE
    done = house.bridge("run", "--input", json.dumps(LARGE), "--id", "by-command")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == LARGE


def test_what_is_over_the_message_limit_is_a_reference_for_everybody(house: House) -> None:
    """Also for get() and for the reply that asked for it."""
    huge = {"text": "x" * 300_000}
    sent = house.send(huge, reply_to="huge")
    told = sent.get(timeout=20)
    assert list(told) == ["output_ref"]
    closed(house, sent.id)
    assert replies(house, "huge")[-1]["data"]["output_ref"] == told["output_ref"]
    assert json.loads(Path(told["output_ref"]["url"].removeprefix("file://")).read_text()) == huge


def test_small_outputs_never_leave_the_ledger(house: House, place: Path) -> None:
    """The store sees nothing of them."""
    before = len(list(place.rglob("*.json")))
    sent = house.send({"a": 1})
    assert sent.get(timeout=20) == {"a": 1}
    assert end_of(house, sent.id)["output"] == {"a": 1}
    assert len(list(place.rglob("*.json"))) == before


def test_an_id_that_is_no_file_name_gets_one(house: House, place: Path) -> None:
    """Nothing is written outside of the store's place."""
    sent = house.send(LARGE, task_id="..")
    assert sent.get(timeout=20) == LARGE
    path = Path(end_of(house, "..")["output_ref"]["url"].removeprefix("file://"))
    assert path.resolve().is_relative_to(place)


def test_a_large_chunk_is_a_reference_in_its_event_and_whole_in_its_reply(house: House) -> None:
    """Chunks are outputs too."""
    sent = house.send({"mock_stream": [LARGE, "small"]}, stream=True, reply_to="chunks")
    sent.get(timeout=20)
    closed(house, sent.id)
    told = [e["data"] for e in house.events(sent.id) if e["type"].endswith(".chunk")]
    assert told[0]["output_ref"]["sha256"] == DIGEST
    assert "output" not in told[0]
    assert told[1]["output"] == "small"
    heard = [r["data"]["output"] for r in replies(house, "chunks") if r["type"].endswith(".chunk")]
    assert heard == [LARGE, "small"]


def test_s3_keeps_outputs_and_get_may_give_the_reference(redis_url: str, tmp_path: Path) -> None:
    """A server that speaks S3; and while it is dead, the ledger keeps what comes."""
    s3 = S3Server(tmp_path).start()
    more: dict[str, Any] = {
        "blob_url": "s3://outputs/gpu",
        "blob_options": s3.options_json,
        "celery_output": "reference",
    }
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **more, **LIMITS) as house:
        worker = house.worker()
        ref = house.send(LARGE, task_id="one").get(timeout=20)["output_ref"]
        assert ref["url"] == f"s3://outputs/gpu/_/one/1-{DIGEST}.json"
        assert s3.keys() == [f"gpu/_/one/1-{DIGEST}.json"]
        assert s3.get(s3.keys()[0]).decode() == TEXT
        s3.kill()
        ref = house.send(LARGE, task_id="two").get(timeout=30)["output_ref"]
        assert (ref["sha256"], ref["url"]) == (DIGEST, None)
        assert house.ask("status", id="two", content=True)["output"] == LARGE
        eventually(lambda: "blob.unavailable" in worker.said())


# The parts, turned by hand


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A ledger that keeps outputs for a second."""
    client = connect(redis_url)
    yield Ledger(client, Names(), Rules(inline_limit=4096, output_retention_ms=1_000))
    client.close()


def tracked(ledger: Ledger, request_id: str, sinks: str = "") -> Held:
    """A request whose job runs."""
    table = ledger.table
    held = Held(Record(id=request_id, endpoint="demo", door="cli", sinks=sinks, fingerprint="f"), {Long.INPUT: "{}"})
    ledger.accept(request_id, lambda now, wish: table.accept(held, now, wish))
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    sent = ledger.change(
        claimed.records[0], lambda h, now: table.sending(h, now, claimed.token, endpoint_id="demo", base_url="http://x")
    )
    return ledger.change(sent.after, lambda h, now: table.submitted(h, now, "j1", "IN_QUEUE", poll_ms=0)).after


def completed(output: str = TEXT) -> Observation:
    """The end of its job."""
    return Observation("j1", "COMPLETED", 1, output=output)


def settle(ledger: Ledger, held: Held, heard: Observation) -> Held:
    """Write the end."""
    return ledger.change(held, lambda h, now: ledger.table.observed(h, now, heard, poll_ms=0)).after


def outputs(ledger: Ledger, blobs: Blobs, timeout_s: float = 5.0) -> LargeOutputs:
    """As the wiring makes it."""
    return LargeOutputs(ledger, blobs, 4096, timeout_s)


def test_the_blob_stands_before_the_end_that_refers_to_it(ledger: Ledger, tmp_path: Path) -> None:
    """A kill in between leaves a blob without a reference: noted, found, and deleted once its request has ended."""
    parts, held = outputs(ledger, Blobs(f"file://{tmp_path}")), tracked(ledger, "r1")
    told: list[Observation] = []
    parts.later(held.record, completed(), told.append)
    ref = json.loads(eventually(lambda: told[0].ref) or "")
    assert Path(ref["url"].removeprefix("file://")).read_text() == TEXT
    # The process dies here; another engine reads the job again and finds that it failed meanwhile.
    failed = Observation("j1", "FAILED", 1, error="no")
    ledger.client.zadd(ledger.names.key("blobs"), {json.dumps(["r1", ref["url"]]): 0})
    assert parts.sweep() == 0, "the end may still be on its way"
    settle(ledger, held, failed)
    ledger.client.zadd(ledger.names.key("blobs"), {json.dumps(["r1", ref["url"]]): 0})
    assert parts.sweep() == 1
    assert list(tmp_path.rglob("*.json")) == []
    assert ledger.client.zcard(ledger.names.key("blobs")) == 0


def test_a_blob_goes_when_its_retention_is_over_and_its_record_says_so_first(ledger: Ledger, tmp_path: Path) -> None:
    """No reference leads nowhere; size and SHA-256 stay."""
    parts, held = outputs(ledger, Blobs(f"file://{tmp_path}")), tracked(ledger, "r1")
    told: list[Observation] = []
    parts.later(held.record, completed(), told.append)
    eventually(lambda: told)
    settle(ledger, held, told[0])

    def due() -> int:
        noted: Any = ledger.client.zrange(ledger.names.key("blobs"), 0, -1)
        ledger.client.zadd(ledger.names.key("blobs"), dict.fromkeys(noted, 0))
        return parts.sweep()

    assert due() == 0, "it is not over yet"
    eventually(lambda: due() == 1)
    kept = ledger.load("r1")
    assert kept is not None
    assert kept.json(Long.OUTPUT_REF) == {"size": len(TEXT.encode()), "sha256": DIGEST, "url": None}
    assert list(tmp_path.rglob("*.json")) == []


def test_a_store_that_hangs_costs_its_limit_once(ledger: Ledger, tmp_path: Path) -> None:
    """Then outputs go to the ledger at once, with their ends, until it has rested."""
    s3 = S3Server(tmp_path)
    with s3, FaultProxy("127.0.0.1", s3.port) as proxy:
        parts = outputs(ledger, Blobs("s3://outputs", s3.options_at(proxy.port)), timeout_s=1.0)
        proxy.hang()
        held = [tracked(ledger, f"r{n}") for n in range(400)]
        told: dict[str, Observation] = {}
        started = time.monotonic()
        for one in held:
            parts.later(one.record, completed(), lambda heard, one=one: told.update({one.record.id: heard}))  # type: ignore[misc]
        eventually(lambda: parts.once() and len(told) == 400)
        assert time.monotonic() - started < 25.0  # by eight threads, a second for each would be fifty
        assert all(heard.ref is None and heard.output == TEXT for heard in told.values())
        at_once: list[Observation] = []
        parts.later(held[0].record, completed(), at_once.append)
        assert at_once, "a store that rests is not asked"
        proxy.restore()


def test_stopping_leaves_no_end_behind(ledger: Ledger, tmp_path: Path) -> None:
    """What is on its way at the stop is written with its output in it."""
    blobs, parts = Blobs(f"file://{tmp_path}"), None
    gate = threading.Event()
    blobs.put = lambda *_: gate.wait(10)  # type: ignore[method-assign,assignment]  # a slow store
    parts = outputs(ledger, blobs)
    told: list[Observation] = []
    parts.later(tracked(ledger, "r1").record, completed(), told.append)
    assert parts.busy == 1
    parts.close()
    assert (told[0].output, told[0].ref, parts.busy) == (TEXT, None, 0)
    gate.set()
    eventually(lambda: parts.callers.busy == 0)
    assert len(told) == 1, "told once"


def test_a_store_that_cannot_be_opened_here_is_a_fault_of_the_settings() -> None:
    """With the way to mend it."""
    with pytest.raises(SettingsError, match="gcsfs"):
        Blobs("gs://bucket")
    with pytest.raises(SettingsError, match="nonsense"):
        Blobs("nonsense://bucket")


def test_bytes_come_back_as_they_went(tmp_path: Path) -> None:
    """And what is not there is told as that."""
    blobs = Blobs(f"file://{tmp_path}/deep/er")
    blobs.probe()
    key = blobs.key("_", "a:b", 1, "f" * 64)
    assert blobs.key_of(blobs.url(key)) == key
    with pytest.raises(OutputUnavailable, match="read"):
        blobs.get(key)
    blobs.delete(key)
