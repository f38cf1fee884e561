"""Control beyond the single cancel: many at once, groups, purge, pause, health, retry, deadlines, and bad input."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from celery import chain, chord, group
from celery.canvas import Signature
from celery.exceptions import TaskRevokedError

from bridge.client import Client
from bridge.emulator import Emulator
from bridge.errors import JobFailed, JobRejected, JobTimedOut
from bridge.job.contract.events import EndpointEvent
from bridge.job.enums import Step
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House
from tests.support.servers import RedisServer

LONG = {"mock_delay": 120}
ENDPOINTS = ("demo", "held", "full", "crowd", "quiet", "sick", "poor", "many", "meets", "sought", "claimed")


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A bridge worker and another team's, which hears each broadcast and runs what follows."""
    url = redis_server.start().fresh_url()
    with (
        Emulator(endpoints=list(ENDPOINTS), api_keys=[API_KEY]) as emulator,
        House(
            tmp_path_factory.mktemp("control"),
            broker=url,
            redis_url=url,
            emulator=emulator,
            endpoints=",".join(ENDPOINTS),
            chord_abort="on",
            cancel_is_failure="on",
        ) as made,
    ):
        made.worker()
        made.foreign_worker()
        yield made


def job(house: House, given: dict[str, Any] | None = None, **kwargs: Any) -> Signature:
    """A request as a signature."""
    return house.app.signature("bridge.run", kwargs={"input": given or LONG, **kwargs}, queue="bridge.run")


def running(house: House, *request_ids: str) -> None:
    """Wait until all of them run."""
    for request_id in request_ids:
        eventually(lambda one=request_id: "started" in house.names_of(one), timeout=30)  # type: ignore[misc]


def ops(house: House, endpoint: str, op: str) -> list[dict[str, Any]]:
    """Calls of one operation that the emulator has got."""
    return [call for call in house.emulator.calls(endpoint) if call["op"] == op]


# Many at once


@pytest.mark.slow
def test_five_thousand_are_cancelled_inside_runpods_limit(house: House) -> None:
    """Those that nobody has sent are free and come first; the others leave at 100 in 10 s, and none is refused."""
    house.ask("pause", endpoint="held")
    with house.client.pipeline(transaction=False) as pipe:
        for n in range(5000):
            endpoint = "many" if n < 120 else "held"
            request = {"id": f"mass-{n}", "input": LONG, "endpoint": endpoint, "metadata": {"campaign": "mass"}}
            pipe.xadd("bridge:requests", {"data": json.dumps(request)})
        pipe.execute()
    eventually(lambda: house.ledger.counts("held").get("ACCEPTED", 0) >= 4880, timeout=60)
    eventually(lambda: len(ops(house, "many", "run")) == 120, timeout=30)
    running(house, "mass-0", "mass-119")
    done = house.bridge("cancel", "--where", "campaign=mass", "--wait", "--json")
    answers = json.loads(done.stdout)
    assert [answer["outcome"] for answer in answers] == ["cancelled"] * 4880 + ["requested"] * 120
    assert {answer["status"] for answer in answers} == {"CANCELLED"}
    calls = ops(house, "many", "cancel")
    assert {call["code"] for call in calls} == {200}
    assert len(calls) == 120
    times = sorted(call["time"] for call in calls)
    assert all(later - earlier >= 10 for earlier, later in zip(times, times[100:], strict=False))
    assert not ops(house, "held", "run")
    assert house.bridge("cancel", "--where", "campaign=mass").returncode == 8


def test_a_group_is_cancelled_by_its_id(house: House) -> None:
    """Celery's group id; what belongs to no group goes on."""
    sent = group(job(house) for _ in range(3)).apply_async()
    alone = house.send(LONG)
    running(house, *[one.id for one in sent.results], alone.id)
    answer = house.ask("cancel", group=sent.id, by="ann")
    assert (answer["found"], answer["requested"]) == (3, 3)
    eventually(lambda: all(one.state == "REVOKED" for one in sent.results), timeout=20)
    assert house.phase(alone.id) == "TRACKED"
    assert house.ask("cancel", where={"nobody": "has this"})["found"] == 0
    house.ask("cancel", id=alone.id)


def test_a_name_that_a_request_does_not_have_matches_no_value(house: House) -> None:
    """Not even Python's word for nothing, which a script makes of an unset variable: it cancelled all who lacked it."""
    sent = house.send(LONG, metadata={"team": "a"})
    running(house, sent.id)
    for value in ("None", "null", ""):
        assert house.ask("cancel", where={"campaign": value})["found"] == 0
    assert house.bridge("cancel", "--where", "campaign=None").returncode == 8
    assert house.phase(sent.id) == "TRACKED"
    house.ask("cancel", id=sent.id)


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        (True, True),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        (5, "5"),
        (5, 5.0),
        (5.0, 5),
        (1.5, "1.5"),
        ("x", "x"),
    ],
)
def test_metadata_is_found_by_its_value_however_json_or_a_shell_writes_it(house: House, said: Any, asked: Any) -> None:
    """`--where urgent=true` is JSON's true."""
    house.ask("pause", endpoint="sought")
    sent = house.send(LONG, endpoint="sought", metadata={"value": said})
    eventually(lambda: house.phase(sent.id) == "ACCEPTED")
    assert house.ask("cancel", where={"value": "another"})["found"] == 0
    told = house.ask("cancel", where={"value": asked})
    assert (told["found"], told["cancelled"]) == (1, 1)
    house.ask("resume", endpoint="sought")
    eventually(lambda: house.phase(sent.id) == "CLOSED")


def test_a_chord_that_cannot_be_whole_any_more_frees_its_gpus(house: House) -> None:
    """BRIDGE_CHORD_ABORT: one member fails, the header's other jobs are cancelled at RunPod, the body fails."""
    others = [job(house) for _ in range(2)]
    sent = chord([*others, job(house, {"mock_error": "bad member", "mock_delay": 1})], job(house)).apply_async()
    with pytest.raises(Exception, match=r"bad member|cancelled"):  # of a header's ends `get` raises the first it finds
        sent.get(timeout=30)
    eventually(lambda: house.app.AsyncResult(sent.id).state == "FAILURE", timeout=20)
    assert "bad member" in str(house.app.AsyncResult(sent.parent.results[2].id).result)
    ids = [one.id for one in sent.parent.results[:2]]
    eventually(lambda: all(house.names_of(one)[-1] == "cancelled" for one in ids), timeout=20)
    assert {house.events(one)[-1]["data"]["by"] for one in ids} == {"chord"}


# Celery's view


def test_nobody_waits_for_what_would_have_followed_a_cancelled_request(house: House) -> None:
    """The members of the chain behind it are REVOKED too, whoever asks for them by id alone."""
    sent = chain(job(house), house.app.signature("tests.foreign.tail"), job(house)).apply_async()
    running(house, sent.parent.parent.id)
    sent.parent.parent.revoke()
    for request_id in (sent.id, sent.parent.id, sent.parent.parent.id):
        with pytest.raises(TaskRevokedError):
            house.app.AsyncResult(request_id).get(timeout=20)


def test_a_chord_fails_when_the_first_of_a_members_chain_is_cancelled(house: House) -> None:
    """The chord waits for the last of the chain, which will never run."""
    first = job(house).set(task_id="first-of-chain")
    header = [chain(first, house.app.signature("tests.foreign.tail")), house.app.signature("tests.foreign.make", (1,))]
    sent = chord(header, house.app.signature("tests.foreign.collect")).apply_async()
    running(house, "first-of-chain")
    house.ask("cancel", id="first-of-chain")
    with pytest.raises(Exception, match=r"[Rr]evoked|cancelled"):
        sent.get(timeout=20)


def test_a_cancel_fires_link_error_when_it_counts_as_failure(house: House) -> None:
    """BRIDGE_CANCEL_IS_FAILURE; the state stays REVOKED."""
    errback = house.app.signature("tests.foreign.note_error", kwargs={"key": "cancelled"})
    sent = house.send(LONG, link_error=errback)
    running(house, sent.id)
    sent.revoke()
    assert eventually(lambda: house.client.lrange("noted:cancelled", 0, -1), timeout=20) == [sent.id]
    assert sent.state == "REVOKED"


# Deadlines


@pytest.mark.parametrize(
    ("options", "arguments", "reason"),
    [
        ({"soft_time_limit": 1.5}, {}, "timeout"),
        ({"time_limit": 1.5}, {}, "timeout"),
        ({"expires": 1.5}, {"endpoint": "full"}, "queue_timeout"),
        ({}, {"endpoint": "full", "queue_timeout": 1500}, "queue_timeout"),
        ({}, {"timeout": 1500}, "timeout"),
        ({"time_limit": 60, "soft_time_limit": 50}, {"timeout": 1500}, "timeout"),
    ],
)
def test_every_clock_cancels_at_runpod(
    house: House, options: dict[str, Any], arguments: dict[str, Any], reason: str
) -> None:
    """Celery's own clocks and the request's: TIMED_OUT with its reason, the shortest counts, and the GPU is free."""
    house.emulator.fault("paused", endpoint="full", times=None)
    sent = house.app.send_task("bridge.run", kwargs={"input": LONG, **arguments}, queue="bridge.run", **options)
    with pytest.raises(JobTimedOut) as caught:
        sent.get(timeout=30)
    document = caught.value.document
    assert (document["status"], document["reason"]) == ("TIMED_OUT", reason)
    cancels = ops(house, document["endpoint"], "cancel")
    assert [call["code"] for call in cancels if call["job_id"] == document["job_id"]] == [200]


# Endpoints


def test_pause_and_resume_are_events_of_the_endpoint(house: House) -> None:
    """Numbered for the endpoint itself; who, why and by which door; a repeated pause tells nothing."""
    house.ask("pause", endpoint="quiet", reason="new image", by="ann")

    def since() -> str | None:
        told: dict[str, Any] = json.loads(house.bridge("health", "quiet", "--json").stdout)["bridge"]
        return told["paused_since"]  # type: ignore[no-any-return]

    first_pause = since()
    assert first_pause
    house.ask("pause", endpoint="quiet", reason="new image", by="ann")
    assert since() == first_pause
    assert house.bridge("resume", "quiet", "--reason", "done").returncode == 0
    assert since() is None
    told = house.events("quiet")
    assert all(EndpointEvent.model_validate(event) for event in told)
    assert [event["type"] for event in told] == ["bridge.job.paused", "bridge.job.resumed"]
    assert [event["sequence"] for event in told] == ["0000000001", "0000000002"]
    assert [event["id"] for event in told] == ["quiet:1", "quiet:2"]
    assert {event["source"] for event in told} == {"/bridge/quiet"}
    first, second = (event["data"] for event in told)
    assert (first["endpoint"], first["by"], first["door"], first["reason"]) == ("quiet", "ann", "celery", "new image")
    assert (second["door"], second["reason"]) == ("cli", "done")


def test_a_purge_settles_what_was_removed_and_nothing_else(house: House) -> None:
    """Running ones go on, strangers' are counted by RunPod alone, pending ones end when asked; who did it is told."""
    on = house.send(LONG, endpoint="crowd")
    running(house, on.id)
    house.emulator.fault("paused", endpoint="crowd", times=None)
    queued = [house.send(LONG, endpoint="crowd") for _ in range(3)]
    eventually(lambda: all("queued" in house.names_of(one.id) for one in queued), timeout=20)
    stranger = requests.post(
        f"{house.emulator.base_url}/crowd/run",
        json={"input": LONG},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=5,
    )
    assert stranger.ok
    house.ask("pause", endpoint="crowd")
    pending = [house.send(LONG, endpoint="crowd") for _ in range(2)]
    eventually(lambda: all(house.phase(one.id) == "ACCEPTED" for one in pending))
    answer = house.ask("purge", endpoint="crowd", pending=True, by="ann", timeout=20)
    assert answer == {
        "endpoint": "crowd",
        "status": answer["status"],
        "removed": 4,
        "settled": 5,
        "checked": 3,
        "unread": 0,
    }
    for one in queued + pending:
        eventually(lambda one=one: one.state == "REVOKED", timeout=20)  # type: ignore[misc]
        end = house.events(one.id)[-1]["data"]
        assert (end["status"], end["reason"], end["by"], end["door"]) == ("CANCELLED", "purged", "ann", "celery")
    assert house.phase(on.id) == "TRACKED"
    event = house.events("crowd")[-1]
    assert (event["type"], event["data"]["removed"], event["data"]["by"]) == ("bridge.job.purged", 4, "ann")
    house.ask("cancel", id=on.id)


def test_a_purge_ends_what_an_engine_has_claimed_and_not_sent(house: House) -> None:
    """Held under a lease for a moment, or at rest under one: it counts among the pending ones, and is not sent."""
    house.ask("pause", endpoint="claimed")
    sent = house.send(LONG, endpoint="claimed")
    eventually(lambda: house.phase(sent.id) == "ACCEPTED")
    eventually(lambda: house.ledger.claim(Step.SUBMIT, {"claimed": 1}, lease_ms=60_000).records)
    assert house.ask("purge", endpoint="claimed", pending=True, timeout=20)["settled"] == 1
    eventually(lambda: sent.state == "REVOKED", timeout=20)
    house.ask("resume", endpoint="claimed")
    assert not house.emulator.jobs("claimed")


def test_a_purge_that_meets_a_submit_settles_it_too(house: House) -> None:
    """RunPod has the job and its answer is under way: it is looked at as soon as it comes, and counted."""
    house.emulator.fault("paused", endpoint="meets", times=None)
    house.emulator.fault("slow", op="run", endpoint="meets", seconds=1.5, times=None)
    sent = house.send(LONG, endpoint="meets")
    eventually(lambda: house.emulator.jobs("meets"), timeout=20)
    assert house.phase(sent.id) == "SUBMITTING"
    answer = house.ask("purge", endpoint="meets", by="ann", timeout=30)
    assert {name: answer[name] for name in ("removed", "settled", "checked", "unread")} == {
        "removed": 1, "settled": 1, "checked": 1, "unread": 0
    }  # fmt: skip
    end = house.events(sent.id)[-1]["data"]
    assert (end["status"], end["reason"], end["by"]) == ("CANCELLED", "purged", "ann")


def test_a_third_purge_within_ten_seconds_is_refused_with_the_time_to_wait(house: House) -> None:
    """RunPod allows two."""
    began = time.monotonic()
    asked = [
        house.app.send_task("bridge.purge", kwargs={"endpoint": "quiet"}, queue="bridge.control") for _ in range(3)
    ]
    told = [one.get(timeout=30, propagate=False) for one in asked]
    refused = [one for one in told if isinstance(one, Exception)]
    code = house.bridge("purge", "quiet", "--yes").returncode
    if time.monotonic() - began < 10:  # a slow machine has asked for no third within them
        assert len(refused) == 1
        assert code == 9  # as of what does not answer: try again
    for error in refused:
        assert "busy; try again in" in str(error)
        assert (error.args[1]["reason"], error.args[1]["field"]) == ("busy", "endpoint")
    assert {call["code"] for call in ops(house, "quiet", "purge-queue")} == {200}


@pytest.mark.locked  # clients of Celery 5.6 may not wait in several threads of one app
def test_one_call_to_health_serves_every_asker(house: House) -> None:
    """Of every process: two workers and twenty askers at once are one call, or two where the time runs over."""
    second = house.worker()
    before, began = len(ops(house, "demo", "health")), time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(lambda _: house.ask("health", endpoint="demo"), range(20)))
    assert all(one["runpod"]["workers"] for one in told)
    assert 1 <= len(ops(house, "demo", "health")) - before <= 2 + (time.monotonic() - began) / 2  # one in two seconds
    second.stop()


def test_a_dead_endpoint_makes_nobodys_health_late(house: House) -> None:
    """All endpoints are asked at once, and an answer is not waited for longer than 3 s."""
    house.emulator.fault("hang", op="health", endpoint="sick", times=None, seconds=300)
    started = time.monotonic()
    told = {one["endpoint"]: one for one in house.ask("health", timeout=20)}
    assert time.monotonic() - started < 60  # of the five minutes that it hangs
    assert told.keys() >= set(ENDPOINTS)
    assert told["sick"]["verdict"] == "unreachable"
    assert told["demo"]["verdict"] in {"ok", "cold"}
    own = told["demo"]["bridge"]
    assert own.keys() >= {
        *("phases", "oldest_waiting_s", "oldest_running_s", "results_near_expiry", "unanswered", "answers_429"),
        *("budget", "waiting_for", "paused", "engines"),
    }


@pytest.mark.parametrize("reason", ["r" * 256, "new\nimage", "\x1b[31mred"])
def test_a_reason_that_is_too_long_or_no_line_is_refused_by_every_door(house: House, reason: str) -> None:
    """It is told with every request that waits, so it is bounded everywhere as over HTTP."""
    house.client.xadd("bridge:commands", {"data": json.dumps(
        {"op": "pause", "endpoint": "demo", "reason": reason, "reply_to": "reasons"}
    )})  # fmt: skip
    for op in ("pause", "resume"):
        with pytest.raises(JobRejected, match="reason: must be at most 255 characters, without control characters"):
            house.ask(op, endpoint="demo", reason=reason)
    said = house.bridge("pause", "demo", "--reason", reason)
    assert (said.returncode, "reason: must be at most 255 characters" in said.stderr) == (3, True)
    replies: Any = eventually(lambda: house.client.xrevrange("bridge:reply:reasons", count=1))
    data = json.loads(replies[0][1]["data"])["data"]
    assert (data["reason"], data["field"]) == ("rejected", "reason")
    assert not house.ask("health", endpoint="demo")["bridge"]["paused"]


@pytest.mark.parametrize("op", ["cancel", "status", "retry"])
@pytest.mark.parametrize("job_id", ["../../x", "a b", "\u00e9", "x" * 201])
def test_a_job_id_that_runpod_could_not_have_made_is_refused_by_its_field(house: House, op: str, job_id: str) -> None:
    """As a broken rule, and no fault of the bridge's."""
    with pytest.raises(JobRejected, match="job_id: must be 1 to 200 of") as refused:
        house.ask(op, job_id=job_id, endpoint="demo")
    assert refused.value.args[1]["field"] == "job_id"


def test_health_tells_how_old_the_oldest_are(house: House) -> None:
    """Waiting from acceptance, running from RunPod's taking the job."""
    house.ask("pause", endpoint="quiet")
    on, waiting = house.send(LONG), house.send(LONG, endpoint="quiet")
    running(house, on.id)
    eventually(lambda: house.phase(waiting.id) == "ACCEPTED")
    assert house.ask("health", endpoint="demo")["bridge"]["oldest_running_s"] >= 0
    eventually(lambda: house.ask("health", endpoint="quiet")["bridge"]["oldest_waiting_s"] > 0)
    assert house.ask("health", endpoint="quiet")["verdict"] == "paused"
    house.ask("cancel", id=on.id)
    house.ask("cancel", id=waiting.id)
    house.ask("resume", endpoint="quiet")
    eventually(lambda: house.ask("health", endpoint="quiet")["bridge"]["oldest_waiting_s"] is None)


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [("unauthorised", "unauthorised"), ("forbidden", "unauthorised"), ("out_of_credit", "out_of_credit")],
)
def test_our_accounts_trouble_is_the_verdict(house: House, fault: str, verdict: str) -> None:
    """401, 403 and 402, with a sentence that says what to do."""
    house.client.delete("bridge:_:gate:sick", "bridge:_:health:sick")
    house.emulator.clear_faults()
    house.emulator.fault(fault, endpoint="sick", times=None)
    told = eventually(lambda: (t := house.ask("health", endpoint="sick"))["verdict"] == verdict and t, timeout=20)
    assert "RunPod answers 40" in told["reasons"][0]
    house.emulator.clear_faults()
    house.client.delete("bridge:_:gate:sick", "bridge:_:health:sick")


@pytest.mark.slow
def test_a_thousand_wait_for_the_balance_and_none_is_rejected(house: House) -> None:
    """The balance goes and comes back: the verdict says so, it is told once, and all of them end well."""
    house.send({"warm": 1}, endpoint="poor").get(timeout=20)
    house.emulator.fault("out_of_credit", endpoint="poor", times=None)
    with house.client.pipeline(transaction=False) as pipe:
        for n in range(1000):
            request = {"id": f"poor-{n}", "input": {"n": n}, "endpoint": "poor"}
            pipe.xadd("bridge:requests", {"data": json.dumps(request)})
        pipe.execute()
    eventually(lambda: house.ledger.counts("poor").get("ACCEPTED", 0) == 1000, timeout=60)
    eventually(lambda: house.ask("health", endpoint="poor")["verdict"] == "out_of_credit", timeout=20)
    assert house.ask("status", id="poor-500")["waiting_for"] == "out_of_credit"
    assert "".join(path.read_text() for path in house.directory.glob("worker-*.log")).count("gate.closed") <= 4
    house.emulator.clear_faults()
    eventually(lambda: house.ledger.counts("poor").get("CLOSED", 0) == 1001, timeout=90, every=0.2)
    names = [event["type"] for event in house.events() if event["data"].get("endpoint") == "poor"]
    assert names.count("bridge.job.completed") == 1001
    assert "bridge.job.rejected" not in names


# Retry


def test_an_asked_retry_replaces_the_result(house: House) -> None:
    """FAILED, retried at RunPod under the same job id, and the stored result is the new end's."""
    sent = house.send({"mock_error": 1, "n": 1})
    with pytest.raises(JobFailed) as caught:
        sent.get(timeout=20)
    told = house.ask("retry", id=sent.id, by="ann")
    assert (told["round"], told["job_id"]) == (2, caught.value.document["job_id"])
    eventually(lambda: house.app.AsyncResult(sent.id).state == "SUCCESS", timeout=20)
    retried = next(event for event in house.events(sent.id) if event["type"] == "bridge.job.retried")
    assert (retried["data"]["by"], retried["data"]["door"]) == ("ann", "celery")
    assert house.ask("status", id=sent.id)["attempt"] == 2
    with pytest.raises(JobRejected, match="only FAILED and TIMED_OUT"):
        house.ask("retry", id=sent.id)


def test_a_job_that_the_bridge_holds_is_its_request_also_by_runpods_id(house: House) -> None:
    """Status, cancel and retry go through the record, with who asked; the retry's end reaches the caller."""
    sent = house.send({"mock_error": "once", "mock_return": 1})
    eventually(lambda: house.phase(sent.id) == "CLOSED")
    bare = {"job_id": house.ask("status", id=sent.id)["job_id"], "endpoint": "demo"}
    assert house.ask("status", **bare)["id"] == sent.id
    assert house.ask("retry", **bare, by="ann")["id"] == sent.id
    eventually(lambda: house.names_of(sent.id).count("failed") == 2)
    running = house.send({"mock_delay": 60})
    job_id = eventually(lambda: house.ask("status", id=running.id)["job_id"])
    assert house.ask("cancel", job_id=job_id, endpoint="demo", by="ann")["id"] == running.id
    eventually(lambda: house.phase(running.id) == "CLOSED")
    assert house.ask("status", id=running.id)["wish"]["by"] == "ann"


def test_a_bare_job_is_asked_about_and_controlled(house: House) -> None:
    """`job_id` and `endpoint`, for a job that the bridge has no record of; inside the shared budget."""
    answer = requests.post(
        f"{house.emulator.base_url}/demo/run",
        json={"input": {"mock_error": 1, "mock_delay": 0.1}},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=5,
    )
    bare = {"job_id": answer.json()["id"], "endpoint": "demo"}
    eventually(lambda: house.ask("status", **bare)["status"] == "FAILED")
    assert house.ask("retry", **bare)["status"] == "IN_QUEUE"
    eventually(lambda: house.ask("status", **bare)["status"] == "COMPLETED")
    assert house.ask("cancel", **bare)["outcome"] == "already_ended"
    with pytest.raises(JobRejected, match="job_id"):
        house.ask("retry", **bare)
    assert house.ask("cancel", job_id="nobody", endpoint="demo")["outcome"] == "unknown"
    assert house.client.hlen("bridge:_:budget:demo:retry") > 0


# Bad input


def test_an_endpoint_that_is_not_allowed_is_refused_at_every_door(house: House) -> None:
    """BRIDGE_ENDPOINTS is the list: as a task, on a stream, from the client, from the command; nothing leaves."""
    before = house.submits()
    with pytest.raises(JobRejected, match=r"^endpoint: 'stranger' is not allowed") as caught:
        house.send({"a": 1}, endpoint="stranger").get(timeout=15)
    assert caught.value.document["field"] == "endpoint"
    with Client(house.environment["BRIDGE_REDIS_URL"]) as client, pytest.raises(JobRejected, match="not allowed"):
        client.result(client.submit({"a": 1}, endpoint="stranger"), timeout=15)
    for more in ((), ("--no-wait",)):
        done = house.bridge("run", "--input", '{"a": 1}', "--endpoint", "stranger", *more)
        assert (done.returncode, "'stranger' is not allowed" in done.stderr) == (3, True)
    assert house.submits() == before


def test_what_is_too_large_for_runpod_is_refused_before_it_is_sent(house: House) -> None:
    """By the client and the command at once: nothing comes to the doors."""
    large = {"a": "a" * 10 * 1024 * 1024}
    before = int(house.client.info("stats")["total_net_input_bytes"])
    with Client(house.environment["BRIDGE_REDIS_URL"]) as client, pytest.raises(JobRejected, match=r"^input: "):
        client.submit(large)
    done = house.bridge("run", "--input", "-", "--no-wait", given=json.dumps(large))
    assert (done.returncode, "RunPod takes at most 10485760" in done.stderr) == (3, True)
    assert int(house.client.info("stats")["total_net_input_bytes"]) - before < 5 * 1024 * 1024


@pytest.mark.parametrize(
    ("task", "arguments", "field"),
    [
        ("cancel", {}, "id"),
        ("cancel", {"id": "no spaces"}, "id"),
        ("cancel", {"id": 5}, "id"),
        ("cancel", {"job_id": "j1"}, "id"),
        ("cancel", {"job_id": "j1", "endpoint": "stranger"}, "endpoint"),
        ("cancel", {"id": "a", "group": "b"}, "id"),
        ("cancel", {"where": {}}, "where"),
        ("cancel", {"where": "campaign=1"}, "where"),
        ("cancel", {"id": "a", "colour": "red"}, "colour"),
        ("status", {}, "id"),
        ("status", {"id": "nobody-knows"}, "id"),
        ("status", {"id": "a", "refresh": "yes"}, "refresh"),
        ("stream", {}, "id"),
        ("retry", {}, "id"),
        ("retry", {"id": "nobody-knows"}, "id"),
        ("health", {"endpoint": "stranger"}, "endpoint"),
        ("purge", {}, "endpoint"),
        ("purge", {"endpoint": "stranger"}, "endpoint"),
        ("purge", {"endpoint": "demo", "pending": 1}, "pending"),
        ("pause", {}, "endpoint"),
        ("pause", {"endpoint": "stranger"}, "endpoint"),
        ("resume", {}, "endpoint"),
    ],
)
def test_a_bad_command_names_field_and_rule(house: House, task: str, arguments: dict[str, Any], field: str) -> None:
    """A typed error to whoever asked."""
    with pytest.raises(JobRejected, match=field) as caught:
        house.ask(task, **arguments)
    assert caught.value.document["field"] == field


def test_a_bad_command_that_nobody_waits_for_is_kept(house: House) -> None:
    """`ignore_result`: there is nobody to answer, so it stands in the dead letters with its reason."""
    house.app.send_task("bridge.purge", kwargs={"by": "ann"}, queue="bridge.control", ignore_result=True)
    kept: Any = eventually(lambda: [one for one in house.client.xrange("bridge:dead") or () if "purge" in str(one)])
    letter = json.loads(kept[-1][1]["data"])["data"]
    assert (letter["reason"], letter["source"]) == ("rejected", "bridge.purge")
    assert letter["detail"].startswith("endpoint: is required")


def test_an_unknown_command_changes_nothing(house: House) -> None:
    """Celery itself answers for a task that does not exist; the worker goes on."""
    house.app.send_task("bridge.explode", queue="bridge.control")
    assert house.ask("health", endpoint="demo")["endpoint"] == "demo"


# Pause in every process


def test_a_pause_holds_every_process_and_outlives_them(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A second after the pause nothing leaves from either of two workers, nor after a restart; running jobs end."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("pause"), broker=url, redis_url=url) as house:
        workers = [house.worker(), house.worker()]
        on = house.send({"mock_delay": 4})
        running(house, on.id)
        paused_at = time.monotonic()
        house.ask("pause", endpoint="demo", reason="new image")
        eventually(lambda: time.monotonic() - paused_at > 1.0)
        before = house.submits()
        sent = [house.send({"n": n}) for n in range(20)]
        eventually(lambda: all(house.phase(one.id) == "ACCEPTED" for one in sent))
        eventually(lambda: sent[0].info["waiting_for"] == "paused")
        assert on.get(timeout=20)
        for worker in workers:
            worker.stop()
        house.worker()
        assert house.ask("status", id=sent[0].id)["waiting_for"] == "paused"
        assert house.submits() == before
        house.ask("resume", endpoint="demo")
        assert [one.get(timeout=20)["n"] for one in sent] == list(range(20))


def test_a_command_that_bears_the_id_of_a_request_leaves_its_result_alone(house: House) -> None:
    """Stored under that id, its answer or its failure would be what the request's caller gets."""
    running, ended = house.send(LONG), house.send({"n": 1})
    assert ended.get(timeout=20)["n"] == 1
    for one in (running, ended):
        for name, arguments in (("bridge.status", {"id": one.id}), ("bridge.cancel", {"nonsense": 1})):
            house.app.send_task(name, kwargs=arguments, task_id=one.id, queue="bridge.control")

    def conflicts() -> list[str]:
        entries: Any = house.client.xrange(house.ledger.names.dead)
        return [
            letter["request_id"]
            for _, entry in entries
            if (letter := json.loads(entry["data"])["data"])["reason"] == "id_conflict"
        ]

    eventually(lambda: sorted(conflicts()) == sorted([running.id, running.id, ended.id, ended.id]))
    assert house.app.AsyncResult(ended.id).get(timeout=5)["n"] == 1
    assert house.app.AsyncResult(running.id).state in {"ACCEPTED", "IN_QUEUE", "IN_PROGRESS"}
    house.ask("cancel", id=running.id)
