"""`/v1` of a real worker over real sockets: submit, status, output, events, cancel, retry, endpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.api import all_events, api_house, events, submit
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer

Api = tuple[House, httpx.Client]


@pytest.fixture(scope="module")
def api(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One worker for all of them, on loopback and without tokens."""
    url = redis_server.start().fresh_url()
    with api_house(tmp_path_factory.mktemp("api"), url, inline_limit="2048", chunk_events_max="5") as found:
        yield found


def ended(client: httpx.Client, request_id: str) -> dict[str, object]:
    """The document, once it tells the end."""
    eventually(lambda: client.get(f"/v1/requests/{request_id}").json()["completed"])
    told: dict[str, object] = client.get(f"/v1/requests/{request_id}").json()
    return told


def problem(response: httpx.Response, status: int, reason: str) -> dict[str, object]:
    """What an error says."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    told: dict[str, object] = response.json()
    assert (told["status"], told["reason"], told["type"]) == (status, reason, f"urn:bridge:problem:{reason}")
    return told


# Submit


def test_a_request_is_held_once_202_is_answered_and_runs_to_its_output(api: Api) -> None:
    """The ledger has it, the address is told, and the output comes back whole."""
    house, client = api
    told = submit(client, {"prompt": "a heron"}, id="first", correlation_id="cart 7")
    assert (told["id"], told["correlation_id"]) == ("first", "cart 7")
    held = house.ledger.load("first")
    assert held is not None
    assert held.record.door == "http"
    assert ended(client, "first")["output"] == {"prompt": "a heron"}
    assert client.get("/v1/requests/first/output").json() == {"prompt": "a heron"}
    assert house.events("first")[0]["data"]["door"] == "http"


def test_the_same_id_again_is_the_same_request(api: Api) -> None:
    """However it is named; one job is submitted, and an end is answered at once."""
    house, client = api
    before = house.submits()
    headers = {"idempotency-key": '"twice"'}
    first = submit(client, {"a": 1}, headers=headers)
    assert first["id"] == "twice"
    ended(client, "twice")
    again = client.post("/v1/requests", json={"id": "twice", "input": {"a": 1}}, headers={"idempotency-key": "twice"})
    assert (again.status_code, again.json()["output"]) == (200, {"a": 1})
    other = client.post("/v1/requests", json={"id": "twice", "input": {"a": 2}})
    assert problem(other, 409, "id_conflict")["field"] == "id"
    differs = client.post("/v1/requests", json={"id": "twice", "input": {"a": 1}}, headers={"idempotency-key": "no"})
    assert problem(differs, 422, "rejected")["field"] == "id"
    assert house.submits() == before + 1


@pytest.mark.parametrize(
    ("body", "status", "reason", "field", "says"),
    [
        (b'{"input": {"a": 1}, "priority": 12}', 422, "rejected", "priority", "0 to 9"),
        (b'{"input": {}}', 422, "rejected", "input", "must not be empty"),
        (b'{"input": {"a": 1}, "timeout": 604800001}', 422, "rejected", "timeout", "at most 604800000"),
        (
            b'{"input": {"a": 1}, "queue_timeout": 604795001, "policy": {"executionTimeout": 5000}}',
            422,
            "rejected",
            "queue_timeout",
            "together with policy.executionTimeout",
        ),
        (
            b'{"input": {"a": 1}, "correlation_id": "' + "é".encode() * 128 + b'"}',
            422,
            "rejected",
            "correlation_id",
            "255 bytes",
        ),
        (b'{"input": {"a": 1}, "id": "with space"}', 422, "rejected", "id", "1 to 200"),
        (b'{"input": {"a": 1}, "endpoint": "nobody here"}', 422, "rejected", "endpoint", "1 to 64"),
        (b'{"input": {"a": 1}, "nonsense": 1}', 422, "rejected", "nonsense", "unknown argument"),
        (b'{"input": {"a": 1}, "reply_to": "bridge.run"}', 422, "rejected", "reply_to", "not begin with bridge"),
        (b'{"input": {"a": 1}, "input": {"a": 2}}', 400, "malformed", "body", "stands twice"),
        (b'{"input": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}", 400, "malformed", "body", "nested deeper"),
        (b'{"input": {"a": 18446744073709551616}}', 400, "malformed", "body", "64 bits"),
        (b'{"input": {"a": "\\ud800"}}', 400, "malformed", "body", "surrogate"),
        (b"\xff", 400, "malformed", "body", "not UTF-8"),
        (b"[1]", 400, "malformed", "body", "one JSON object"),
        (b'{"op": "cancel", "id": "x"}', 400, "unknown_kind", "op", "/cancel"),
        (b'{"input": {"a": "' + b"x" * (11 << 20) + b'"}}', 422, "rejected", "input", "RunPod takes at most"),
        (b'{"input": {"a": "' + b"x" * (22 << 20) + b'"}}', 413, "too_large", "body", "at most"),
    ],
)
def test_what_cannot_be_taken_is_told_with_field_and_rule(
    api: Api, body: bytes, status: int, reason: str, field: str, says: str
) -> None:
    """In the words of the other doors; nothing is kept of it."""
    told = problem(
        api[1].post("/v1/requests", content=body, headers={"content-type": "application/json"}), status, reason
    )
    assert told["field"] == field
    assert says in str(told["detail"])


def test_the_longest_timeouts_and_correlation_id_that_the_pages_name_are_taken(api: Api) -> None:
    """Seven days, which the ttl does not exceed; 255 bytes."""
    said = "é" * 127 + "e"
    for given in ({"timeout": 604_800_000}, {"policy": {"executionTimeout": 604_800_000}}):
        told = submit(api[1], {"a": 1}, correlation_id=said, **given)
        assert (told["correlation_id"], told["policy"]["ttl"]) == (said, 604_800_000)


def test_who_has_heard_the_end_is_told_204_and_comes_no_more(api: Api) -> None:
    """At the end and beyond it, also where only the end is remembered; a browser would ask each second for ever."""
    house, client = api
    submit(client, {"mock_stream": ["a", "b", "c"]}, id="heard", stream=True)
    last = all_events(client, "heard")[-1]
    eventually(lambda: house.phase("heard") == "CLOSED")

    def code(place: str) -> int:
        return client.get("/v1/requests/heard/events", headers={"last-event-id": place}).status_code

    assert [code(last.id), code("99"), code("99.9"), code("1")] == [204, 204, 204, 200]
    # Chunks that never were are not taken for told.
    told = all_events(client, "heard", "1.9")
    assert [event.data["data"]["output"] for event in told if event.name == "chunk"] == []
    assert told[-1].name == "completed"
    names = house.ledger.names
    house.client.delete(names.row("heard"), names.long("heard"), names.output("heard"))
    assert [code(last.id), code("99"), code("1")] == [204, 204, 200]


def test_a_place_beyond_what_has_been_is_put_back_to_that(api: Api) -> None:
    """What comes is told, chunks and end."""
    client = api[1]
    submit(client, {"mock_stream": ["a", "b"], "mock_delay": 1.0}, id="beyond", stream=True)
    told = all_events(client, "beyond", "3.9")
    assert [event.data["data"]["output"] for event in told if event.name == "chunk"] == ["a", "b"]
    assert told[-1].name == "completed"


def test_only_json_is_taken(api: Api) -> None:
    """What a form of any web page can send without asking first is refused."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"content-type": kind} if kind else {}
        told = api[1].post("/v1/requests", content=b'{"input": {"a": 1}}', headers=headers)
        problem(told, 415, "unsupported_media_type")
    told = api[1].post(
        "/v1/requests",
        content=b'{"input": {"a": 1}}',
        headers={"content-type": "application/json", "content-encoding": "gzip"},
    )
    problem(told, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind",
    ["application/vnd.api+json", "application/cloudevents-batch+json", "application/problem+json", "application/jsonx"],
)
def test_another_kind_of_json_is_refused_with_those_that_are_taken(api: Api, kind: str) -> None:
    """It would mean something else than a request: a batch, for one."""
    told = api[1].post("/v1/requests", content=b'{"input": {"a": 1}}', headers={"content-type": kind})
    detail = str(problem(told, 415, "unsupported_media_type")["detail"])
    assert "application/json or application/cloudevents+json" in detail
    assert told.headers["accept-post"] == "application/json, application/cloudevents+json"
    taken = api[1].post(
        "/v1/requests", content=b'{"input": {"a": 1}}', headers={"content-type": "Application/JSON ; a=b"}
    )
    assert taken.status_code == 202


def test_an_id_that_no_address_can_name_and_a_key_that_is_none_are_refused(api: Api) -> None:
    """A client could never ask for it again; an empty key would make two jobs of two sends."""
    client = api[1]
    for name in (".", ".."):
        told = problem(client.post("/v1/requests", json={"id": name, "input": {"a": 1}}), 422, "rejected")
        assert told["field"] == "id"
    key = "idempotency-key"
    for given in (
        [(key, "")], [(key, "a"), (key, "b")], [(key, '"a')], [(key, '""')], [(key, "a b")], [(key, '"a";b=1')],
        [(key, "a" * 201)],
    ):  # fmt: skip
        told = problem(client.post("/v1/requests", json={"input": {"a": 1}}, headers=given), 422, "rejected")
        assert told["field"] == "idempotency_key"


def test_no_address_leads_to_a_host_that_a_stranger_names(api: Api) -> None:
    """A slash at the end is another address, and nothing is there."""
    for path in ("/v1/requests/first/", "/v1/requests/%2F", "/healthz/"):
        assert api[1].get(path, headers={"host": "evil.example"}).status_code in {403, 404}


def test_a_page_from_elsewhere_may_ask_nothing(api: Api) -> None:
    """Neither by its Origin, nor by a name of its own that leads to loopback."""
    client = api[1]
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}, {"origin": "null"}):
        problem(client.post("/v1/requests", json={"input": {"a": 1}}, headers=headers), 403, "forbidden")
        problem(client.post("/v1/requests/first/cancel", headers=headers), 403, "forbidden")
    assert client.post("/v1/requests/nobody/cancel", headers={"origin": str(client.base_url)}).status_code == 202


def test_a_cloud_event_is_taken_in_both_modes(api: Api) -> None:
    """As the other JSON doors take it."""
    client = api[1]
    event = {"specversion": "1.0", "id": "ce-1", "source": "/s", "type": "t", "data": {"input": {"a": 1}}}
    kind = {"content-type": "application/cloudevents+json"}
    assert client.post("/v1/requests", content=json.dumps(event), headers=kind).json()["id"] == "ce-1"
    told = client.post("/v1/requests", content=b'{"input": {"a": 1}}', headers=kind)
    assert "specversion: is required" in str(problem(told, 400, "malformed")["detail"])
    headers = {"ce-specversion": "1.0", "ce-id": "ce-2", "ce-source": "/s", "ce-type": "t"}
    assert client.post("/v1/requests", json={"input": {"a": 1}}, headers=headers).json()["id"] == "ce-2"


# Status and output


def test_what_is_not_there_is_404_and_what_is_not_taken_405(api: Api) -> None:
    """As problem documents, whatever the address is."""
    client = api[1]
    for path in ("/v1/requests/nobody", "/v1/requests/nobody/output", "/v1/requests/nobody/events", "/v1/nowhere"):
        problem(client.get(path), 404, "unknown")
    for path in ("/v1", "/v1/", "/v1x", "/nowhere", "/"):
        for method in ("GET", "POST", "DELETE", "NONSENSE"):
            problem(client.request(method, path), 404, "unknown")
    for path in ("/v1/requests", "/healthz"):
        told = client.put(path)
        assert told.headers["allow"] in str(problem(told, 405, "method_not_allowed")["detail"])
    problem(client.get("/v1/requests/a%20b"), 404, "unknown")
    problem(client.post("/v1/requests/nobody/retry"), 404, "unknown")
    told = client.delete("/v1/requests/nobody")
    problem(told, 405, "method_not_allowed")
    assert "GET" in told.headers["allow"]


def test_an_output_of_any_size_comes_whole_and_in_ranges(api: Api) -> None:
    """9 MB, over every limit of a message: the document says where it is."""
    client = api[1]
    text = "äß€" * (9 * 1024 * 1024 // 7)
    submit(client, {"text": text, "mock_delay": 0.1}, id="large")
    reference = ended(client, "large")["output_ref"]
    assert isinstance(reference, dict)
    assert reference["href"] == "/v1/requests/large/output"
    whole = client.get("/v1/requests/large/output")
    assert (whole.status_code, whole.headers["content-type"]) == (200, "application/json")
    assert whole.json() == {"text": text, "mock_delay": 0.1}
    assert (len(whole.content), hashlib.sha256(whole.content).hexdigest()) == (reference["size"], reference["sha256"])
    size, tag = len(whole.content), whole.headers["etag"]

    def part(asked: str, **more: str) -> httpx.Response:
        return client.get("/v1/requests/large/output", headers={"range": asked, **more})

    for asked, start, stop in (
        ("bytes=0-0", 0, 1),
        (f"bytes=5-{2 << 20}", 5, (2 << 20) + 1),
        (f"bytes={size - 3}-", size - 3, size),
        ("bytes=-7", size - 7, size),
        ("Bytes=-7", size - 7, size),
        (f"bytes=7-{'9' * 30}", 7, size),
        (f"bytes=7-{size * 9}", 7, size),
    ):
        got = part(asked)
        assert (got.status_code, got.content) == (206, whole.content[start:stop]), asked
        assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    assert problem(part(f"bytes={size}-"), 416, "range")
    assert part(f"bytes={size}-").headers["content-range"] == f"bytes */{size}"
    for ignored in ("bytes=0-1,5-6", "bytes=9-3", "lines=1-2", "bytes=x-"):
        assert part(ignored).status_code == 200
    assert part("bytes=0-0", **{"if-range": '"another"'}).status_code == 200
    assert part("bytes=0-0", **{"if-range": tag}).status_code == 206
    for said in (tag, "*", f"W/{tag}", f'"a, b", W/{tag}', f'"another",{tag}'):
        assert client.get("/v1/requests/large/output", headers={"if-none-match": said}).status_code == 304, said
    two = client.get("/v1/requests/large/output", headers=[("if-none-match", '"another"'), ("if-none-match", tag)])
    assert two.status_code == 304
    for said, code in ((tag, 200), ("*", 200), (f'"another", {tag}', 200), (f"W/{tag}", 412), ('"another"', 412)):
        told = client.get("/v1/requests/large/output", headers={"if-match": said})
        assert told.status_code == code, said
    assert problem(told, 412, "changed")["field"] == "if_match"
    for said in ('"another"', tag.strip('"'), f'"*", W/"x{tag[1:]}'):
        assert client.head("/v1/requests/large/output", headers={"if-none-match": said}).status_code == 200, said
    head = client.head("/v1/requests/large/output")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")


def test_where_there_is_no_output_the_problem_says_why(api: Api) -> None:
    """Not yet, never, or no longer."""
    house, client = api
    submit(client, {"mock_delay": 60.0}, id="slow")
    told = client.get("/v1/requests/slow/output")
    problem(told, 409, "not_ended")
    assert int(told.headers["retry-after"]) >= 1
    client.post("/v1/requests/slow/cancel")
    ended(client, "slow")
    assert "CANCELLED" in str(problem(client.get("/v1/requests/slow/output"), 404, "no_output")["detail"])
    submit(client, {"a": "gone"}, id="gone")
    ended(client, "gone")
    house.client.delete(house.ledger.names.output("gone"))
    problem(client.get("/v1/requests/gone/output"), 410, "not_retained")


# Events


def test_events_come_in_order_to_the_end_and_are_those_of_the_stream(api: Api) -> None:
    """One who follows from the beginning and one who comes when all is over are told the same."""
    house, client = api
    submit(client, {"mock_delay": 0.5}, id="followed")
    live = all_events(client, "followed")
    assert [event.data["sequence"] for event in live] == [f"{n:010d}" for n in range(1, len(live) + 1)]
    assert (live[0].name, live[-1].name) == ("accepted", "completed")
    assert [event.data for event in live] == house.events("followed")
    assert all_events(client, "followed") == live
    assert all_events(client, "followed", live[1].id) == live[2:]
    assert all_events(client, "followed", live[-1].id) == []
    problem(client.get("/v1/requests/followed/events", headers={"last-event-id": "x"}), 422, "rejected")


def test_chunks_come_as_they_are_made_and_none_is_missed(api: Api) -> None:
    """Also those that no event tells (BRIDGE_CHUNK_EVENTS_MAX), and for who comes back in between."""
    client = api[1]
    submit(client, {"mock_stream": 12, "mock_delay": 0.05}, id="chunks", stream=True)
    with events(client, "chunks") as following:
        begun = [event for _, event in zip(range(6), following, strict=False)]
    rest = all_events(client, "chunks", begun[-1].id)
    told = [*begun, *rest]
    assert [event.data["data"]["index"] for event in told if event.name == "chunk"] == list(range(12))
    assert told[-1].name == "completed"
    numbered = [event.data["sequence"] for event in told if event.data["sequence"] != "0" * 10]
    assert numbered == sorted(set(numbered))


def test_who_comes_when_the_stream_is_trimmed_is_told_how_it_stands_and_the_end(api: Api) -> None:
    """The document takes the place of what is gone; chunks and end are told all the same."""
    house, client = api
    submit(client, {"mock_stream": 3}, id="trimmed", stream=True)
    ended(client, "trimmed")
    house.client.xtrim(house.ledger.names.events, maxlen=0)
    told = all_events(client, "trimmed")
    assert [event.name for event in told] == ["document", "chunk", "chunk", "chunk", "completed"]
    assert [event.data["data"]["index"] for event in told[1:4]] == [0, 1, 2]
    assert (told[0].id, told[0].data["id"], told[-1].data["data"]["status"]) == ("", "trimmed", "COMPLETED")
    assert all_events(client, "trimmed", told[-1].id) == []


def test_a_large_end_is_told_with_the_address_of_its_output(api: Api) -> None:
    """Over BRIDGE_INLINE_LIMIT: a reference, and where it is whole."""
    client = api[1]
    submit(client, {"text": "x" * 5_000}, id="referred")
    end = all_events(client, "referred")[-1].data["data"]
    assert client.get(end["output_ref"]["href"]).json() == {"text": "x" * 5_000}


# Cancel, retry, endpoints


def test_a_cancel_reaches_the_job_and_a_follower_hears_of_it(api: Api) -> None:
    """And says who asked."""
    house, client = api
    submit(client, {"mock_delay": 60.0}, id="cancelled")
    with events(client, "cancelled") as following:
        assert "started" in (event.name for event in following)
        told = client.post("/v1/requests/cancelled/cancel", json={"by": "anna"})
        assert (told.status_code, told.json()["outcome"]) == (202, "requested")
        assert list(following)[-1].name == "cancelled"
    assert client.post("/v1/requests/cancelled/cancel").json()["outcome"] == "already_ended"
    assert [job["status"] for job in house.emulator.jobs("demo") if job["input"] == {"mock_delay": 60.0}][-1] == (
        "CANCELLED"
    )
    problem(client.post("/v1/requests/cancelled/cancel", json={"reason": "no"}), 422, "rejected")
    for headers in (
        {}, {"content-type": "text/plain"}, {"content-type": "application/json; charset=latin1"},
        {"content-type": "application/json", "content-encoding": "gzip"}, {"content-type": "application/jsonx"},
    ):  # fmt: skip
        told = client.post("/v1/requests/cancelled/cancel", content=b"{}", headers=headers)
        problem(told, 415, "unsupported_media_type")
    for kind in ("application/json", "Application/JSON;charset=UTF-8", 'application/json; a=b; charset="utf-8"'):
        told = client.post("/v1/requests/cancelled/cancel", content=b"{}", headers={"content-type": kind})
        assert told.status_code == 200


def test_a_failed_request_is_retried_and_another_is_not(api: Api) -> None:
    """A new round begins; one that was good has none."""
    client = api[1]
    submit(client, {"mock_error": "no"}, id="failed")
    assert ended(client, "failed")["status"] == "FAILED"
    told = client.post("/v1/requests/failed/retry")
    assert (told.status_code, told.json()["round"], told.headers["location"]) == (202, 2, "/v1/requests/failed")
    assert ended(client, "failed")["round"] == 2
    names = [event.name for event in all_events(client, "failed")]
    assert (names.count("failed"), names[-1]) == (2, "failed")
    submit(client, {"a": 1}, id="good")
    ended(client, "good")
    assert "COMPLETED" in str(problem(client.post("/v1/requests/good/retry"), 409, "not_retryable")["detail"])


def test_an_endpoint_is_paused_resumed_purged_and_asked_how_it_is(api: Api) -> None:
    """What operators do; an endpoint that nobody knows is not there. A reason may be in any script."""
    client = api[1]
    path = "/v1/endpoints/demo"
    assert client.get(f"{path}/health").json()["endpoint"] == "demo"
    problem(client.post(f"{path}/pause", json={"reason": "new\x00image"}), 422, "rejected")
    assert client.post(
        f"{path}/pause", json={"reason": "new\u00a0image \U0001f468\u200d\U0001f680", "by": "anna"}
    ).json()["paused"]
    submit(client, {"a": "paused"}, id="paused")
    eventually(lambda: client.get("/v1/requests/paused").json().get("waiting_for") == "paused")
    assert client.get(f"{path}/health").json()["verdict"] == "paused"
    assert not client.post(f"{path}/resume").json()["paused"]
    ended(client, "paused")
    assert client.post(f"{path}/purge", json={"pending": False}).json()["endpoint"] == "demo"
    for verb in ("pause", "resume"):
        problem(client.post(f"/v1/endpoints/nobody/{verb}"), 404, "unknown")
    problem(client.get("/v1/endpoints/nobody/health"), 404, "unknown")
    problem(client.post(f"{path}/purge", json={"pending": "yes"}), 422, "rejected")


def test_who_is_told_to_come_again_reads_the_same_time_in_header_and_text(api: Api) -> None:
    """RunPod allows two purges in 10 s; the next one is told how long it has to wait, rounded up."""
    told = [api[1].post("/v1/endpoints/demo/purge") for _ in range(3)][-1]
    said, after_s = str(problem(told, 503, "busy")["detail"]), int(told.headers["retry-after"])
    assert said.endswith(f"try again in {after_s} s")
    assert 3 <= after_s <= 12


def test_the_door_is_counted(api: Api) -> None:
    """By route, never by id."""
    text = api[1].get("/metrics").text
    assert 'bridge_http_requests_total{code="202",method="POST",route="/v1/requests"}' in text
    assert 'route="/v1/requests/{id}"' in text
    assert "followed" not in text
