"""Celery's canvas with the bridge in every place of it: members of the bridge and of a foreign app, on every broker.

One suite for Redis and RabbitMQ; the bridge worker and the foreign worker are real processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import chain, chord, group
from celery.canvas import Signature
from celery.exceptions import ChordError

from bridge.errors import JobFailed, JobRejected
from tests.foreign import Point
from tests.support.helpers import eventually
from tests.support.house import House


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A bridge worker and a foreign worker on each broker; results on Redis."""
    url = request.getfixturevalue("redis_server").start().fresh_url()
    broker = url if request.param == "redis" else request.getfixturevalue("rabbitmq_server").start().fresh_url()
    with House(tmp_path_factory.mktemp("canvas"), broker=broker, redis_url=url) as made:
        made.worker()
        made.foreign_worker()
        yield made


def run(house: House, value: Any = None, **kwargs: Any) -> Signature:
    """A job as a signature; without a value its input is the previous result."""
    if value is not None:
        kwargs["input"] = {"value": value}
    return house.app.signature("bridge.run", kwargs=kwargs, queue="bridge.run")


def task(house: House, name: str, *args: Any, **kwargs: Any) -> Signature:
    """A task of the foreign app as a signature."""
    return house.app.signature(f"tests.foreign.{name}", args=args, kwargs=kwargs)


def noted(house: House, key: str) -> list[Any]:
    """What the foreign worker has noted."""
    return list(house.client.lrange(f"noted:{key}", 0, -1))


def test_a_chain_goes_through_a_job(house: House) -> None:
    """Task | job | task: the previous result is the input, and the output is the next one's argument."""
    sent = chain(task(house, "make", 1), run(house), task(house, "tail")).apply_async()
    assert sent.get(timeout=20) == {"tail": {"value": 1}}
    assert sent.parent.get(timeout=5) == {"value": 1}


def test_two_jobs_in_a_row(house: House) -> None:
    """Job | job | task."""
    sent = chain(run(house, 3), run(house), task(house, "tail")).apply_async()
    assert sent.get(timeout=20) == {"tail": {"value": 3}}


def test_a_group_of_jobs(house: House) -> None:
    """Each result where it belongs."""
    sent = group(run(house, n) for n in range(5)).apply_async()
    assert sent.get(timeout=20) == [{"value": n} for n in range(5)]


@pytest.mark.parametrize("slow", [0, 1], ids=["job first", "job last"])
def test_a_chord_of_jobs_and_tasks(house: House, slow: int) -> None:
    """The body runs once, whoever of the header ends last."""
    job = run(house, input={"value": 1, "mock_delay": float(slow)})
    sent = chord([job, task(house, "make", 2)], task(house, "collect")).apply_async()
    results = sent.get(timeout=20)["collected"]
    assert [result["value"] for result in results] == [1, 2]


def test_a_chord_whose_body_is_a_job(house: House) -> None:
    """A list is no input: the body says so; a task between makes an object of it."""
    body = chain(task(house, "collect"), run(house))
    sent = chord([run(house, 1), run(house, 2)], body).apply_async()
    assert sent.get(timeout=20) == {"collected": [{"value": 1}, {"value": 2}]}


def test_a_nested_chord(house: House) -> None:
    """chain(group(chain(task, job), job), collect, tail)."""
    header = group(chain(task(house, "make", 1), run(house)), run(house, 2))
    sent = chain(header, task(house, "collect"), task(house, "tail")).apply_async()
    assert sent.get(timeout=20) == {"tail": {"collected": [{"value": 1}, {"value": 2}]}}


def test_a_chord_follows_at_once_where_a_chain_of_its_header_ends_with_a_group_of_jobs(house: House) -> None:
    """chord([chain(task, group(job, job)), task], collect): whoever tells the last job's end joins all of them."""
    members = chain(task(house, "make", 1), group(run(house), run(house)))
    sent = chord([members, task(house, "make", 2)], task(house, "collect")).apply_async()
    assert sent.get(timeout=20) == {"collected": [[{"value": 1}, {"value": 1}], {"value": 2}]}


def test_links_fire_once(house: House) -> None:
    """A link gets the output, exactly once; the errback does not fire."""
    sent = house.send(
        {"value": 7}, link=task(house, "note", "linked"), link_error=task(house, "note_error", "not-this")
    )
    sent.get(timeout=20)
    assert eventually(lambda: noted(house, "linked")) == [repr({"value": 7})]
    assert noted(house, "not-this") == []


def test_errbacks_fire_once(house: House) -> None:
    """An errback gets the id; the link does not fire."""
    sent = house.send(
        {"mock_error": "x"}, link=task(house, "note", "no-link"), link_error=task(house, "note_error", "erred")
    )
    with pytest.raises(JobFailed):
        sent.get(timeout=20)
    assert eventually(lambda: noted(house, "erred")) == [sent.id]
    assert noted(house, "no-link") == []


def test_an_errback_that_is_a_chain_begins_with_the_id_of_what_failed(house: House) -> None:
    """As any other errback does."""
    errback = chain(task(house, "note_error", "by-chain"), task(house, "note", "behind-it"))
    sent = house.send({"mock_error": "boom"}, link_error=errback)
    assert isinstance(sent.get(timeout=20, propagate=False), Exception)
    assert eventually(lambda: noted(house, "by-chain"), timeout=20) == [sent.id]
    assert eventually(lambda: noted(house, "behind-it"), timeout=20) == [repr(None)]


def test_a_failure_fails_the_rest_of_its_chain(house: House) -> None:
    """Later members are FAILURE too, as in Celery."""
    sent = chain(run(house, input={"mock_error": "x"}), task(house, "tail")).apply_async()
    with pytest.raises(Exception, match="x"):
        sent.get(timeout=20)
    assert sent.state == "FAILURE"


def test_a_failure_in_a_header_fails_the_chord(house: House) -> None:
    """Never a hang."""
    sent = chord([run(house, 1), run(house, input={"mock_error": "bad member"})], task(house, "collect")).apply_async()
    with pytest.raises((ChordError, JobFailed), match="bad member"):
        sent.get(timeout=20)


def test_a_cancelled_member_fails_the_chord(house: House) -> None:
    """REVOKED is an end for the chord as well."""
    member = run(house, input={"mock_delay": 60})
    member.options["task_id"] = "cancel-in-chord"
    sent = chord([run(house, 1), member], task(house, "collect")).apply_async()
    eventually(lambda: "started" in house.names_of("cancel-in-chord"))
    house.ask("cancel", id="cancel-in-chord")
    with pytest.raises(Exception, match=r"cancelled|Revoked|revoked"):
        sent.get(timeout=20)


def test_ignore_result_still_fires_the_link(house: House) -> None:
    """Nothing is stored, and what follows goes on."""
    sent = house.send({"value": 9}, ignore_result=True, link=task(house, "note", "ignored"))
    assert eventually(lambda: noted(house, "ignored"), timeout=20) == [repr({"value": 9})]
    assert sent.state == "PENDING"


def test_an_old_task_replaces_itself_by_a_job(house: House) -> None:
    """`raise self.replace(signature("bridge.run", ...) | post.s())`: the old name, the old id, the new way."""
    sent = house.app.send_task("tests.foreign.becomes_a_job", args=[5])
    assert sent.get(timeout=20) == {"tail": {"value": 5}}


def test_a_replaced_task_shows_its_job_and_is_cancelled_by_its_own_id(house: House) -> None:
    """Nothing more is asked of the producer: progress, status and cancel by the id that its callers have."""
    slow = {"mock_progress": [{"step": n} for n in range(3000)], "mock_delay": 300}
    old = house.app.send_task("tests.foreign.becomes_a_job", args=[5], kwargs=slow)
    eventually(lambda: house.ask("status", id=old.id, refresh=True)["progress"])
    eventually(lambda: old.state == "IN_PROGRESS" and old.info["progress"]["step"] >= 0)
    told = house.ask("status", id=old.id)
    assert (told["status"], told["job_id"]) == ("IN_PROGRESS", old.info["job_id"])
    assert told["id"] != old.id
    answer = house.ask("cancel", id=old.id)
    assert (answer["id"], answer["job_id"], answer["outcome"]) == (old.id, told["job_id"], "requested")
    assert type(old.get(timeout=20, propagate=False)).__name__ == "TaskRevokedError"
    assert house.ask("status", id=old.id)["status"] == "CANCELLED"
    assert house.ask("cancel", id=old.id)["outcome"] == "already_ended"
    with pytest.raises(JobRejected, match=f"retry the job alone, by its own id: {told['id']}"):
        house.ask("retry", id=old.id)


def test_revoke_of_a_replaced_task_reaches_the_job(house: House) -> None:
    """Celery's own revoke, which the other team's workers hear as well."""
    old = house.app.send_task("tests.foreign.becomes_a_job", args=[5], kwargs={"mock_delay": 300})
    eventually(lambda: house.ask("status", id=old.id)["status"] == "IN_PROGRESS")
    old.revoke()
    eventually(lambda: house.ask("status", id=old.id)["status"] == "CANCELLED")
    eventually(lambda: old.state == "REVOKED")


def test_a_cancel_that_comes_before_the_task_replaces_itself_is_carried_out(house: House) -> None:
    """The task has not run yet, so nobody knows of its job; the job is not submitted."""
    before, old_id = house.submits(), f"old-{id(house)}"
    assert house.ask("cancel", id=old_id)["outcome"] == "unknown"
    old = house.app.send_task("tests.foreign.becomes_a_job", args=[5], task_id=old_id)
    assert type(old.get(timeout=20, propagate=False)).__name__ == "TaskRevokedError"
    assert house.submits() == before


def test_a_task_that_becomes_several_jobs_is_cancelled_whole(house: House) -> None:
    """By one id; a status names the requests, of which each has its own."""
    old = house.app.send_task("tests.foreign.becomes_jobs", args=[[1, 2]], kwargs={"mock_delay": 300})
    eventually(lambda: len(house.ledger.replacing(old.id)) == 2)
    jobs = house.ledger.replacing(old.id)
    with pytest.raises(JobRejected, match="replaced itself by 2 requests"):
        house.ask("status", id=old.id)
    assert house.ask("cancel", id=old.id)["outcome"] in {"requested", "cancelled"}
    eventually(lambda: all(house.ask("status", id=job)["status"] == "CANCELLED" for job in jobs))
    eventually(lambda: house.ledger.replacing(old.id) in ([jobs[0]], [jobs[1]]))  # the last one to close is remembered
    assert type(old.get(timeout=20, propagate=False)).__name__ == "ChordError"


def test_a_job_behind_a_task_of_the_replacement_is_found(house: House) -> None:
    """`self.replace(prepare | bridge.run | tail)` of a task that begins its chain: its id is the root's."""
    old = house.app.send_task("tests.foreign.becomes_jobs", args=[[7]])
    assert old.get(timeout=20) == {"tail": {"value": 7}}
    assert house.ask("status", id=old.id)["status"] == "COMPLETED"


def test_a_job_behind_a_task_of_the_replacement_is_found_in_the_middle_of_a_chain(house: House) -> None:
    """Neither its parent nor its root is the old task then: who has frozen the steps behind it tells."""
    old_id = f"middle-{id(house)}"
    old = house.app.signature(
        "tests.foreign.becomes_jobs", args=[[7]], kwargs={"mock_delay": 300}, immutable=True, task_id=old_id
    )
    last = chain(task(house, "make", 0), old, task(house, "tail"), task(house, "tail")).apply_async()
    eventually(lambda: house.ask("status", id=old_id)["status"] == "IN_PROGRESS", timeout=20)
    assert {house.phase(step.id) for step in (last, last.parent)} == {None}
    eventually(lambda: house.app.AsyncResult(old_id).state == "IN_PROGRESS")
    assert house.ask("cancel", id=old_id)["outcome"] == "requested"
    assert type(last.get(timeout=20, propagate=False)).__name__ == "TaskRevokedError"
    assert house.ask("status", id=old_id)["status"] == "CANCELLED"


def test_a_job_that_follows_a_replaced_task_is_none_of_its_own(house: House) -> None:
    """`chain(old, bridge.run, tail)`: neither the old id nor the tail's is taken for the job's."""
    old = task(house, "becomes_jobs", [7])
    last = chain(old, task(house, "make", 8).set(immutable=True), run(house), task(house, "tail")).apply_async()
    assert last.get(timeout=20) == {"tail": {"value": 8}}
    assert house.phase(last.parent.id) is not None
    assert house.ledger.replacing(last.id) == []


def test_where_the_message_does_not_tell_a_job_is_reached_by_the_id_that_it_was_given(house: House) -> None:
    """One thread sent the chain and replaced its middle: nothing is made up, and the recipe of the docs works."""
    old_id = f"named-{id(house)}"
    house.app.send_task(
        "tests.foreign.starts", args=["tests.foreign.becomes_a_named_job", old_id, 7], kwargs={"mock_delay": 300}
    )
    eventually(lambda: house.ask("status", id=f"{old_id}-job")["status"] == "IN_PROGRESS", timeout=20)
    house.ask("cancel", id=f"{old_id}-job")
    eventually(lambda: house.app.AsyncResult(old_id).state == "REVOKED", timeout=20)


def test_expires_ends_only_what_has_not_started(house: House) -> None:
    """`expires` becomes the queue's clock; a running job goes on."""
    sent = house.send({"value": 1, "mock_delay": 2.0}, expires=1.5)
    assert sent.get(timeout=20)["value"] == 1


def test_expires_that_passes_before_the_job_runs_is_a_queue_timeout_once_the_message_is_taken(house: House) -> None:
    """Before that it is Celery's own: REVOKED, and no record. As docs/migrate-from-celery.md says."""
    house.ask("pause", endpoint="demo", reason="nothing starts")
    try:
        taken = house.send({"value": 1}, expires=1.5)
        told = taken.get(timeout=20, propagate=False)
    finally:
        house.ask("resume", endpoint="demo")
    assert (taken.state, type(told).__name__, told.args[1]["reason"]) == ("FAILURE", "JobTimedOut", "queue_timeout")
    passed = house.send({"value": 1}, expires=-10)
    assert type(passed.get(timeout=20, propagate=False)).__name__ == "TaskRevokedError"
    assert (passed.state, house.phase(passed.id)) == ("REVOKED", None)


def test_headers_and_ids_are_kept(house: House) -> None:
    """The request's own id is the result's id, and its parent stays its parent."""
    sent = chain(task(house, "make", 1), run(house)).apply_async()
    sent.get(timeout=20)
    assert house.ask("status", id=sent.id)["status"] == "COMPLETED"


#: What Celery's JSON carries beside JSON's own, and a type that the other team alone knows.
TYPES: dict[str, Any] = {
    "datetime": datetime(2026, 12, 24, 18, tzinfo=UTC),
    "date": date(2026, 12, 24),
    "time": clock_time(18, 30),
    "UUID": UUID(int=7),
    "Decimal": Decimal("1.50"),
    "bytes": b"\xff\x00",
    "Point": Point(1, 2),
}


@pytest.mark.parametrize("place", ["args", "kwargs", "link", "link_error", "chord body"])
def test_every_type_that_celerys_json_carries_may_follow_a_job(house: House, place: str) -> None:
    """The canvas is kept as it came: each value reaches whoever it was meant for as what it was."""
    key = f"types-{place.replace(' ', '-')}"
    values, kwargs = list(TYPES.values()), {f"k{n}": value for n, value in enumerate(TYPES.values())}
    told = task(house, "what_came", *(values if place != "kwargs" else []), key=key)
    if place == "kwargs":
        told.kwargs.update(kwargs)
    match place:
        case "link":
            run(house, 1).apply_async(link=told)
        case "link_error":
            told.immutable = True
            house.app.signature(
                "bridge.run", kwargs={"input": {"mock_error": "on purpose"}}, queue="bridge.run"
            ).apply_async(link_error=told)
        case "chord body":
            chord([run(house, 1)], told).apply_async()
        case _:
            chain(run(house, 1), told).apply_async()
    came = eventually(lambda: noted(house, key), timeout=20)[0].split()
    assert came[-len(TYPES) :] == list(TYPES)


@pytest.mark.parametrize("name", ["datetime", "date", "Decimal", "UUID", "bytes", "Point"])
def test_what_only_celerys_json_carries_is_refused_in_an_input_and_the_sender_hears_what_to_do(
    house: House, name: str
) -> None:
    """Sent directly, and as the result of the task before; a tail hears of it too."""
    there = "UnregisteredType" if name == "Point" else name
    said = (
        f"input: cannot be sent as JSON: Object of type {there} is not JSON serializable; send it as text or a number"
    )
    made = chain(task(house, "make", TYPES[name]), run(house), task(house, "tail"))
    for sent in (house.send({"at": TYPES[name]}), made.apply_async()):
        told = sent.get(timeout=20, propagate=False)
        assert (type(told).__name__, told.args[0]) == ("JobRejected", said)


#: Of a handler, they are plain JSON; kombu would make a value of the first, and fail at the others.
SPELLED = [
    ("uuid", {"hex": "0" * 32}),
    ("uuid", 7),
    ("datetime", "never"),
    ("decimal", "x"),
    (["a"], 1),
    ("no.Such", 1),
]


def test_an_output_spelled_as_one_of_kombus_types_reaches_whoever_waits_or_follows(house: House) -> None:
    """It stays plain JSON by a third name, which the bridge takes off again: a job gets what the one before it gave."""
    told = [{"__type__": kind, "__value__": value, "__plain__": True} for kind, value in SPELLED]
    plain = [{name: value for name, value in one.items() if name != "__plain__"} for one in told]
    done = run(house, told).apply_async()
    assert done.get(timeout=20) == {"value": told}
    assert house.ask("status", id=done.id)["output"] == {"value": told}
    tailed = chain(run(house, told), run(house), task(house, "tail")).apply_async()
    assert tailed.get(timeout=20) == {"tail": {"value": told}}
    joined = chord([run(house, told), run(house, 1)], task(house, "collect")).apply_async()
    assert joined.get(timeout=20) == {"collected": [{"value": told}, {"value": 1}]}
    for id_ in (done.id, tailed.parent.id):
        read = house.bridge("status", id_, "--content", "--json")
        assert json.loads(read.stdout)["output"] == {"value": plain}, read.stderr


def test_a_later_members_eta_and_stamps_are_kept(house: House) -> None:
    """Options of a follow-up are Celery's: a datetime among them stays one."""
    later = task(house, "what_came", key="options").set(eta=datetime.now(UTC) + timedelta(seconds=1))
    chain(run(house, 1), later).apply_async()
    assert eventually(lambda: noted(house, "options"), timeout=20) == ["dict"]


def test_an_input_that_is_no_json_is_refused_by_name(house: House) -> None:
    """RunPod gets JSON: a datetime inside the input has no one form there."""
    with pytest.raises(JobRejected) as fault:
        run(house, {"when": TYPES["datetime"]}).apply_async().get(timeout=20)
    assert fault.value.document["field"] == "input"


@pytest.mark.parametrize("when", ["in flight", "after the end"])
def test_an_id_sent_again_with_another_canvas_is_refused_where_its_caller_sees_it(house: House, when: str) -> None:
    """The first send's chain goes on, once; who waits for the second's tail hears at once that nobody follows it."""
    delay, name = (1.0, "twice-in-flight") if when == "in flight" else (0.0, "twice-ended")
    job = run(house, input={"value": 1, "mock_delay": delay}).set(task_id=name)
    first = chain(job.clone(), task(house, "tail")).apply_async()
    if when == "after the end":
        first.get(timeout=20)
    second = chain(job.clone(), task(house, "tail"), task(house, "tail")).apply_async()
    body = chord([job.clone(), task(house, "make", 1)], task(house, "collect")).apply_async()
    for refused in (second, second.parent):
        with pytest.raises(JobRejected, match="with an id of its own"):
            refused.get(timeout=20)
    with pytest.raises(ChordError):
        body.get(timeout=20)
    assert first.get(timeout=20)["tail"]["value"] == 1
    assert first.parent.get(timeout=5)["value"] == 1
    assert house.names_of(job.options["task_id"]).count("completed") == 1


@pytest.mark.parametrize("delay", [1.0, 0.0], ids=["in flight", "ended"])
@pytest.mark.parametrize("first", ["by another door", "with its result ignored", "and its result forgotten"])
def test_who_sends_a_known_request_by_celery_gets_its_end_however_it_came_first(
    house: House, first: str, delay: float
) -> None:
    """The id is the idempotency key of all doors: the sender waited for a result that nobody would store."""
    request_id, given = f"first-{first}-{delay}".replace(" ", "-"), {"value": 1, "mock_delay": delay}
    job = run(house, input=given).set(task_id=request_id)
    if first == "by another door":
        house.client.xadd("bridge:requests", {"data": json.dumps({"id": request_id, "input": given})})
    else:
        job.clone().apply_async(ignore_result=first == "with its result ignored")
    wanted = {"TRACKED"} if delay else {"CLOSED"}
    eventually(lambda: house.phase(request_id) in wanted, timeout=20)
    if first == "and its result forgotten":
        house.app.AsyncResult(request_id).forget()
    assert job.clone().apply_async().get(timeout=20) == given
    eventually(lambda: house.phase(request_id) == "CLOSED", timeout=20)
    assert house.names_of(request_id).count("completed") == 1


def test_another_input_under_the_id_of_another_doors_request_is_refused_where_its_caller_sees_it(house: House) -> None:
    """No result of Celery's is under that id, so the refusal may be."""
    house.client.xadd("bridge:requests", {"data": json.dumps({"id": "anothers", "input": {"value": 1}})})
    eventually(lambda: house.phase("anothers") == "CLOSED", timeout=20)
    with pytest.raises(JobRejected, match="another request"):
        run(house, 2).set(task_id="anothers").apply_async().get(timeout=20)


def test_an_id_sent_again_with_another_input_fails_what_would_have_followed(house: House) -> None:
    """It is refused as it was; its tail waited for ever."""
    run(house, 1).set(task_id="taken").apply_async().get(timeout=20)
    sent = chain(run(house, 2).set(task_id="taken"), task(house, "tail")).apply_async()
    with pytest.raises(JobRejected, match="another request"):
        sent.get(timeout=20)


def test_a_canvas_for_an_id_that_was_sent_without_one_is_refused_where_its_caller_sees_it(house: House) -> None:
    """It was dropped without a word: its tail, its link and its chord waited for ever."""
    run(house, 1).set(task_id="was-plain").apply_async().get(timeout=20)
    job = run(house, 1).set(task_id="was-plain")
    tailed = chain(job.clone(), task(house, "tail")).apply_async()
    joined = chord([job.clone(), task(house, "make", 1)], task(house, "collect")).apply_async()
    job.clone().apply_async(link=task(house, "tail").set(task_id="linked-to-plain"))
    for refused in (tailed, house.app.AsyncResult("linked-to-plain")):
        with pytest.raises(JobRejected, match="with an id of its own"):
            refused.get(timeout=20)
    with pytest.raises(ChordError):
        joined.get(timeout=20)
    assert house.app.AsyncResult("was-plain").state == "SUCCESS"


@pytest.mark.parametrize("end", ["task", "chord"])
def test_a_chain_sent_again_by_another_process_is_the_same_if_its_callers_wait_for_the_same_id(
    house: House, end: str
) -> None:
    """A task that replaces itself runs again, and brings new ids of the steps between: its caller heard JobRejected."""
    name, key = f"same-end-{end}", f"same-end-{end}"
    for process in ("one", "two"):
        job = run(house, input={"value": 1, "mock_delay": 1.0}).set(task_id=name)
        last = task(house, "mark", key=key).set(task_id=f"{name}-end")
        step = task(house, "tail").set(reply_to=f"of {process}")
        if end == "chord":
            last = chord([task(house, "tail"), task(house, "tail")], last)
        sent = chain(job, step, last)
        sent.apply_async()
        if process == "one":
            eventually(lambda: house.phase(name) == "TRACKED")
    assert house.app.AsyncResult(f"{name}-end").get(timeout=20) is not None
    run(house, 1).set(task_id=f"after-{name}").apply_async().get(timeout=20)
    assert noted(house, key) == [f"{name}-end"]
    assert not [letter for letter in house.ledger.dead.newest() if letter["request_id"] == name]


def test_what_follows_the_first_send_is_not_failed_by_another_canvas_that_names_it_too(house: House) -> None:
    """The order was changed between two sends, and the id of the last step was not."""
    job, last = run(house, input={"value": 1, "mock_delay": 1.0}).set(task_id="changed"), task(house, "tail")
    sent = chain(job.clone(), last.clone().set(task_id="changed-end")).apply_async()
    eventually(lambda: house.phase("changed") == "TRACKED")
    other = chain(job.clone(), task(house, "tail").set(task_id="changed-step"), last.clone().set(task_id="changed-end"))
    other.apply_async()
    with pytest.raises(JobRejected, match="with an id of its own"):
        house.app.AsyncResult("changed-step").get(timeout=20)
    assert sent.get(timeout=20)["tail"]["value"] == 1


def test_the_same_message_again_is_followed_once(house: House) -> None:
    """A redelivery brings the same canvas: its tail runs once, and is not refused."""
    sent = chain(run(house, 1).set(task_id="redelivered"), task(house, "mark", key="redelivered").set(task_id="tail"))
    sent.apply_async()
    eventually(lambda: noted(house, "redelivered"), timeout=20)
    sent.apply_async()
    run(house, 1).set(task_id="after").apply_async().get(timeout=20)
    assert noted(house, "redelivered") == ["tail"]
    assert house.app.AsyncResult("tail").state == "SUCCESS"


def test_whose_result_is_ignored_its_sender_says_not_the_workers_setting(redis_url: str, tmp_path: Path) -> None:
    """A team that lays its settings over the bridge's still gets commands' answers, and jobs' behind other jobs."""
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"task_ignore_result": true}')
    with House(tmp_path, broker=redis_url, redis_url=redis_url, celery_config=str(overlay)) as house:
        house.worker()
        assert house.ask("health", timeout=15)
        assert (run(house, input={"n": 1}) | run(house)).apply_async().get(timeout=15) == {"n": 1}
