"""The console of a real worker, page by page and action by action, as a browser without scripts has it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from bridge.job.document import Held
from bridge.job.record import Long, Record
from bridge.ledger.records.write import Build
from tests.support.console import console_house, do, look, token
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer

SCRIPT = "<script>alert('x')</script>"
HOSTILE = f"\"'>{SCRIPT}<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def place(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, httpx.Client]]:
    """One worker for all; inputs and outputs are shown."""
    url = redis_server.start().fresh_url()
    with console_house(tmp_path_factory.mktemp("console"), url, console_content="on") as made:
        yield made


def test_every_screen_is_there_and_lets_the_browser_load_nothing_else(place: tuple[House, httpx.Client]) -> None:
    """A strict policy, no frame, no cache, no inline script or style; each address that a page names exists."""
    house, client = place
    house.send({"a": 1}, task_id="seen-1").get(timeout=15)
    eventually(lambda: house.phase("seen-1") == "CLOSED")
    for path in ("/", "/requests", "/requests/seen-1", "/scheduled", "/dead", "/paused", "/endpoints/demo"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert " style=" not in answer.text
        assert "<script>" not in answer.text
        assert "http://" not in answer.text.replace("http://www.w3.org", "")
        assert "https://" not in answer.text
    for name in ("console.css", "console.js", "icon.svg"):
        assert client.get(f"/static/{name}").status_code == 200
    assert client.get("/static/../routes.py").status_code == 404
    assert client.get("/nothing").status_code == 404
    assert client.get("/requests/nobody").status_code == 404
    assert client.get("/endpoints/nobody").status_code == 404


def test_requests_are_found_by_id_job_state_tenant_endpoint_and_time(place: tuple[House, httpx.Client]) -> None:
    """Each filter alone; what does not match is not shown."""
    house, client = place
    house.send({"a": 1}, task_id="find-good", metadata={"tenant": "acme"}).get(timeout=15)
    house.send({"mock_error": "no"}, task_id="find-bad")
    eventually(lambda: house.ledger.phases(["find-good", "find-bad"]) == ["CLOSED", "CLOSED"])
    held = house.ledger.load("find-good")
    assert held is not None
    for query, good, bad in (
        ("q=find-", True, True),
        ("q=find-g", True, False),
        (f"q={held.record.job_id}", True, False),
        ("tenant=acme", True, False),
        ("state=FAILED", False, True),
        ("state=ended&endpoint=demo", True, True),
        ("state=in-flight", False, False),
        ("reason=handler_error", False, True),
        ("since=15m&q=find", True, True),
        ("to=2020-01-01T00:00", False, False),
        ("from=2020-01-01T00:00&q=find", True, True),
    ):
        page = look(client, f"/requests?{query}")
        assert ("/console/requests/find-good" in page, "/console/requests/find-bad" in page) == (good, bad), query
    assert client.get("/requests?state=nonsense").status_code == 400
    assert client.get("/requests?from=nonsense").status_code == 400


def test_pages_of_requests_go_on_where_they_stopped(place: tuple[House, httpx.Client]) -> None:
    """Fifty a page; the older ones behind a link."""
    house, client = place
    house.ledger.accept_many([_later(house, f"many-{n:03}") for n in range(60)])
    first = look(client, "/requests?q=many-")
    older = first.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    second = look(client, older.removeprefix("/console"))
    assert first.count('id="r-many-') == 50
    assert second.count('id="r-many-') == 10


def test_one_request_shows_where_its_time_went_and_its_events(place: tuple[House, httpx.Client]) -> None:
    """RunPod's own times, jobs, chunks; its input and output a click away, without secrets."""
    house, client = place
    house.send(
        {"mock_stream": ["one", "two"], "mock_aggregate": True, "mock_delay": 0.3, "api_key": "s3cret"},
        task_id="told-1", stream=True, metadata={"campaign": "42"},
    ).get(timeout=20)  # fmt: skip
    eventually(lambda: house.phase("told-1") == "CLOSED")
    page = look(client, "/requests/told-1")
    for said in ("accepted", "submitted", "started", "completed", "running", "delayTime", "executionTime", "campaign"):
        assert said in page, said
    held = house.ledger.load("told-1")
    assert held is not None
    assert held.record.job_id in page
    assert "&#34;one&#34;" in page
    assert "s3cret" not in page
    whole = look(client, "/requests/told-1/content")
    assert "two" in whole
    assert "s3cret" not in whole


def test_what_callers_and_handlers_write_is_text_and_nothing_else(place: tuple[House, httpx.Client]) -> None:
    """Inputs, outputs, errors, metadata, reasons, dead letters, searches: escaped wherever they stand."""
    house, client = place
    house.send({"mock_error": HOSTILE}, task_id="hostile-error", metadata={SCRIPT: HOSTILE, "tenant": "acme"})
    house.send({SCRIPT: HOSTILE}, task_id="hostile-output").get(timeout=15)
    house.send(
        {"mock_stream": [HOSTILE], "mock_progress": [HOSTILE], "mock_aggregate": True},
        task_id="hostile-chunk",
        stream=True,
    )
    house.client.xadd("bridge:requests", {"data": f'{{"endpoint": "demo", "{SCRIPT}": 1}}'})
    ids = ["hostile-error", "hostile-output", "hostile-chunk"]
    eventually(lambda: house.ledger.phases(ids) == ["CLOSED"] * 3 and house.ledger.dead.count() > 0)
    do(client, "/endpoints/demo/pause", reason=HOSTILE, by=HOSTILE)
    letter = house.ledger.dead.newest(1)[0]["id"]
    paths = [f"/requests/{one}{more}" for one in ids for more in ("", "/content")]
    paths += ["/", "/paused", "/endpoints/demo", "/dead", f"/dead/{letter}", f"/dead/{letter}/drop"]
    paths += [f"/requests?q={HOSTILE}&tenant={HOSTILE}&endpoint={HOSTILE}"]
    for path in paths:
        page = look(client, path)
        assert SCRIPT not in page, path
        assert "<img src=x" not in page, path
    do(client, "/endpoints/demo/resume")


def test_a_cancel_is_asked_about_and_names_who_asked_for_it(place: tuple[House, httpx.Client]) -> None:
    """The question changes nothing; the deed reaches RunPod, and its event says by whom, through which door."""
    house, client = place
    house.send({"mock_delay": 60}, task_id="stop-me")
    eventually(lambda: house.phase("stop-me") == "TRACKED")
    look(client, "/requests/stop-me/cancel")
    assert house.phase("stop-me") == "TRACKED"
    page = do(client, "/requests/stop-me/cancel", by="operator")
    assert "cancel" in page
    eventually(lambda: house.phase("stop-me") == "CLOSED")
    (ended,) = [event["data"] for event in house.events("stop-me") if event["type"] == "bridge.job.cancelled"]
    assert (ended["wish"]["by"], ended["wish"]["door"]) == ("operator", "console")
    assert "operator" in look(client, "/requests/stop-me")
    assert "had ended already" in do(client, "/requests/stop-me/cancel")


def test_a_retry_opens_another_round_and_what_cannot_be_retried_says_why(place: tuple[House, httpx.Client]) -> None:
    """FAILED runs again; COMPLETED does not."""
    house, client = place
    house.send({"mock_error": 1}, task_id="again-1")
    house.send({"a": 1}, task_id="good-1")
    eventually(lambda: house.ledger.phases(["again-1", "good-1"]) == ["CLOSED", "CLOSED"])
    do(client, "/requests/again-1/retry", by="operator")
    eventually(lambda: house.names_of("again-1")[-1] == "completed")
    refused = client.post("/requests/good-1/retry", data={"form": token(look(client, "/requests/good-1/retry"))})
    assert refused.status_code == 409
    assert "only FAILED and TIMED_OUT" in refused.text


def test_an_endpoint_is_paused_resumed_and_purged_with_a_name_and_a_reason(place: tuple[House, httpx.Client]) -> None:
    """Requests wait meanwhile; the events say who."""
    house, client = place
    page = do(client, "/endpoints/demo/pause", reason="new image", by="operator")
    assert "paused" in page
    paused = look(client, "/paused")
    assert "new image" in paused
    assert "operator" in paused
    assert 'data-name="Since"><time datetime="20' in paused
    house.send({"a": 1}, task_id="waits-1")
    eventually(lambda: house.phase("waits-1") == "ACCEPTED")
    assert "waiting for paused" in look(client, "/requests/waits-1")
    do(client, "/endpoints/demo/purge", pending="yes", by="operator")
    eventually(lambda: house.phase("waits-1") == "CLOSED")
    do(client, "/endpoints/demo/resume", by="operator")
    told = [event["data"] for event in house.events("demo")]
    mine = [(one["by"], one["door"]) for one in told if one.get("by") == "operator"]
    assert mine == [("operator", "console")] * 3
    house.send({"a": 2}, task_id="waits-2").get(timeout=15)


def test_a_dead_letter_is_shown_replayed_under_another_id_and_dropped(place: tuple[House, httpx.Client]) -> None:
    """One whose id was taken goes through under another; what is dropped is gone."""
    house, client = place
    house.send({"a": 1}, task_id="taken-1").get(timeout=15)
    before = house.ledger.dead.count()
    house.client.xadd("bridge:requests", {"data": '{"id": "taken-1", "endpoint": "demo", "input": {"a": 2}}'})
    eventually(lambda: house.ledger.dead.count() == before + 1)
    letter = house.ledger.dead.newest(1)[0]["id"]
    assert "id conflict" in look(client, "/dead")
    assert "taken-1" in look(client, f"/dead/{letter}")
    do(client, f"/dead/{letter}/replay", new_id="taken-1-again", by="operator")
    eventually(lambda: house.phase("taken-1-again") == "CLOSED")
    assert client.get(f"/dead/{letter}").status_code == 404
    house.client.xadd("bridge:requests", {"data": "{"})
    eventually(lambda: house.ledger.dead.count() == before + 1)
    letter = house.ledger.dead.newest(1)[0]["id"]
    do(client, f"/dead/{letter}/drop")
    assert house.ledger.dead.count() == before


def test_many_dead_letters_are_replayed_or_dropped_at_once_and_each_tells_by_whom(
    place: tuple[House, httpx.Client],
) -> None:
    """Those that were marked, or all of a reason, as they were when it was asked; what cannot be sent again stays."""
    house, client = place
    before = {one["id"] for one in house.ledger.dead.newest()}

    def letters(count: int) -> list[str]:
        eventually(lambda: len(new()) == count)
        return new()

    def new() -> list[str]:
        return [one["id"] for one in house.ledger.dead.newest() if one["id"] not in before]

    for _ in range(3):
        house.client.xadd("bridge:requests", {"data": "{"})
    first, second, third = letters(3)
    asked = look(client, f"/dead/selected/drop?id={first}&id={second}")
    assert "Drop 2 dead letters?" in asked
    assert third not in asked
    do(client, f"/dead/selected/drop?id={first}", letters=f"{first},{second}", by="operator")
    assert new() == [third]
    said = (house.directory / "worker-1.log").read_text()
    dropped = [line for line in said.splitlines() if "dead_letter.dropped" in line and "by=operator" in line]
    assert [any(one in line for line in dropped) for one in (first, second, third)] == [True, True, False]
    asked = look(client, "/dead/selected/replay?reason=malformed")
    assert third in asked
    page = do(client, "/dead/selected/replay?reason=malformed", letters=f"{third},{first}", by="operator")
    assert "1 sent again. 1 not: It was replayed, dropped" in page
    (again,) = letters(1)  # judged anew: malformed as before
    assert again != third
    do(client, f"/dead/selected/drop?id={again}", letters=again, by="operator")
    assert client.get("/dead/selected/drop").status_code == 404


def test_a_form_that_none_of_its_pages_has_sent_does_nothing(place: tuple[House, httpx.Client]) -> None:
    """Without the page's token, or from another origin; and no question is a deed."""
    house, client = place
    house.send({"mock_delay": 60}, task_id="safe-1")
    eventually(lambda: house.phase("safe-1") == "TRACKED")
    good = token(look(client, "/requests/safe-1/cancel"))
    for fields, headers in (
        ({}, {}),
        ({"form": "0" * 64}, {}),
        ({"form": good}, {"origin": "https://evil.example"}),
        ({"form": good}, {"origin": "null"}),
        ({"form": good}, {"sec-fetch-site": "cross-site"}),
        ({"form": good}, {"host": "evil.example"}),
    ):
        answer = client.post("/requests/safe-1/cancel", data=fields, headers=headers)
        assert answer.status_code == 403, (fields, headers)
    assert client.put("/requests/safe-1/cancel").status_code == 405
    assert house.phase("safe-1") == "TRACKED"
    held = house.ledger.load("safe-1")
    assert held is not None
    assert not held.record.wish
    do(client, "/requests/safe-1/cancel")


def test_without_a_password_the_console_answers_by_loopback_names_alone(place: tuple[House, httpx.Client]) -> None:
    """A page of the web may have a name that leads here; what it reads would be everybody's."""
    _, client = place
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 403
    assert client.get("/", headers={"host": "localhost:9464"}).status_code == 200


def test_a_scheduled_request_is_shown_with_its_time_until_it_comes(place: tuple[House, httpx.Client]) -> None:
    """And can be cancelled like any other."""
    house, client = place
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    house.send({"a": 1}, task_id="later-1", not_before=tomorrow.isoformat())
    eventually(lambda: house.phase("later-1") == "ACCEPTED")
    page = look(client, "/scheduled")
    assert "later-1" in page
    assert f"{tomorrow:%d %b %H:%M:%S}" in page
    do(client, "/requests/later-1/cancel")
    eventually(lambda: "later-1" not in look(client, "/scheduled"))


def _later(house: House, name: str) -> tuple[str, Build]:
    """A request whose time is far away."""
    far = 4_000_000_000_000
    record = Record(id=name, endpoint="demo", endpoint_id="demo", door="json", fingerprint="f", not_before=far)
    return name, lambda now, wish: house.ledger.table.accept(Held(record, {Long.INPUT: '{"a":1}'}), now, wish)
