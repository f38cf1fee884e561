"""The Batch API (beta), as RunPod's page "batch jobs" documents it; what that page leaves open is a setting."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.emulator import Emulator, EndpointConfig
from tests.emulator.conftest import Caller
from tests.support.helpers import eventually

HERE = Path(__file__).parent


def create(call: Caller, *inputs: dict[str, Any]) -> str:
    """POST /batch; the id of the draft."""
    answer = call.post("batch", json=[{"input": each} for each in inputs])
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"id": answer.json()["id"], "status": "DRAFT"}
    return str(answer.json()["id"])


def summary(call: Caller, batch: str) -> dict[str, Any]:
    """GET /batch/{id}."""
    return dict(call.get(f"batch/{batch}").json())


def requests(call: Caller, batch: str, **query: str) -> dict[str, Any]:
    """GET /batch/{id}/requests."""
    return dict(call.get(f"batch/{batch}/requests", params=query).json())


def finished(call: Caller, batch: str) -> bool:
    """As the page says when all requests have finished."""
    told = summary(call, batch)
    return bool(told["requestCompleted"] + told["requestFailed"] == told["requestTotal"])


def detail(answer: httpx.Response) -> str:
    """The sentence of a 400."""
    assert answer.status_code == 400, answer.text
    return str(answer.json()["detail"])


def test_the_walkthrough_of_the_page_answers_as_it_shows(call: Any) -> None:
    """Create, add, finalize, poll, fetch: every documented member, and no other."""
    batch = create(call, {"mock_return": {"embedding": [0.12]}})
    assert batch.startswith("batch_")
    more = call.post(f"batch/{batch}/requests", json={"requests": [{"input": {"mock_error": "timeout exceeded"}}]})
    assert more.status_code == 200
    assert call.post(f"batch/{batch}/finalize").status_code == 200
    eventually(lambda: finished(call, batch))
    told = summary(call, batch)
    created = told.pop("createdAt")
    assert isinstance(created, int)
    assert abs(created / 1000 - datetime.now().timestamp()) < 60  # noqa: DTZ005 - since 1970, whatever the zone
    assert told == {
        "id": batch, "endpointId": "demo", "status": "FINALIZED",
        "requestTotal": 2, "requestInProgress": 0, "requestCompleted": 1, "requestFailed": 1,
    }  # fmt: skip
    page = requests(call, batch)
    failed, completed = page.pop("requests")
    assert page == {"total": 2, "offset": 0, "limit": 50, "hasMore": False}
    assert set(completed) == {"id", "status", "output", "startedAt", "completedAt"}
    assert (completed["status"], completed["output"]) == ("COMPLETED", {"embedding": [0.12]})
    assert set(failed) == {"id", "status", "error", "startedAt", "completedAt"}
    assert (failed["status"], failed["error"]) == ("FAILED", "timeout exceeded")
    assert failed["id"].startswith("req_")
    for name in ("startedAt", "completedAt"):
        assert completed[name].endswith("Z")
        datetime.fromisoformat(completed[name])


def test_a_draft_is_never_run(call: Any) -> None:
    """Also after hours: only finalize makes it eligible."""
    batch = create(call, {"x": 1})
    call.emulator.advance(24 * 3600)
    assert summary(call, batch)["status"] == "DRAFT"
    assert summary(call, batch)["requestCompleted"] == 0
    assert call.emulator.jobs("demo") == []


def test_an_empty_array_makes_a_draft_that_is_filled_later(call: Any) -> None:
    """And one that stays empty is not finalized."""
    batch = create(call)
    assert "without requests" in detail(call.post(f"batch/{batch}/finalize"))
    call.post(f"batch/{batch}/requests", json={"requests": [{"input": {"x": 1}}]})
    call.post(f"batch/{batch}/finalize")
    eventually(lambda: finished(call, batch))


def test_a_request_can_be_removed_from_a_draft_alone(call: Any) -> None:
    """And nothing is added or removed once it is finalized."""
    batch = create(call, {"x": 1}, {"x": 2})
    first, second = (one["id"] for one in requests(call, batch)["requests"])
    assert call.http.delete(f"batch/{batch}/requests/{first}").status_code == 200
    assert call.http.delete(f"batch/{batch}/requests/{first}").status_code == 404
    call.post(f"batch/{batch}/finalize")
    assert "only a DRAFT" in detail(call.http.delete(f"batch/{batch}/requests/{second}"))
    assert "only a DRAFT" in detail(call.post(f"batch/{batch}/requests", json={"requests": [{"input": {"x": 1}}]}))
    assert "only a DRAFT" in detail(call.post(f"batch/{batch}/finalize"))
    assert summary(call, batch)["requestTotal"] == 1


def test_batches_are_listed_newest_first_and_can_be_named(call: Any) -> None:
    """PUT gives a display name."""
    old, new = create(call), create(call)
    assert call.http.put(f"batch/{new}", json={"name": "nightly"}).status_code == 200
    listed = call.get("batch").json()
    assert [one["id"] for one in listed] == [new, old]
    assert listed[0]["name"] == "nightly"
    assert "name" in detail(call.http.put(f"batch/{new}", json={"name": 7}))


def test_results_come_in_pages(call: Any) -> None:
    """`offset`, `limit` and `hasMore`."""
    batch = create(call, *({"n": n} for n in range(7)))
    pages = [requests(call, batch, offset=str(at), limit="3") for at in (0, 3, 6)]
    assert [page["hasMore"] for page in pages] == [True, True, False]
    assert [len(page["requests"]) for page in pages] == [3, 3, 1]
    assert len({one["id"] for page in pages for one in page["requests"]}) == 7
    for name, given, least in (("limit", "0", "1"), ("offset", "-1", "0")):
        wrong = detail(call.get(f"batch/{batch}/requests", params={name: given}))
        assert wrong == f"bad request: query: {name}: must be at least {least}"
    for many in ("9" * 20, "9" * 5000):
        for name in ("limit", "offset"):
            assert call.get(f"batch/{batch}/requests", params={name: many}).status_code in {200, 400}
    assert requests(call, batch, offset="9" * 20)["hasMore"] is False


def test_a_cancel_ends_what_is_queued_and_lets_what_runs_finish(calling: Any) -> None:
    """CANCELLED only when that has drained; who was queued never ran."""
    call = calling(workers_max=1, jobs_per_worker=1)
    batch = create(call, {"mock_delay": 30}, {"x": 2}, {"x": 3})
    call.post(f"batch/{batch}/finalize")
    eventually(lambda: summary(call, batch)["requestInProgress"] == 1)
    assert call.post(f"batch/{batch}/cancel").status_code == 200
    statuses = sorted(one["status"] for one in requests(call, batch)["requests"])
    assert statuses == ["CANCELLED", "CANCELLED", "IN_PROGRESS"]
    assert summary(call, batch)["status"] == "FINALIZED"
    call.emulator.advance(30)
    told = summary(call, batch)
    assert (told["status"], told["requestCompleted"]) == ("CANCELLED", 1)


def test_a_cancelled_draft_can_never_be_finalized(call: Any) -> None:
    """It is CANCELLED at once."""
    batch = create(call, {"x": 1})
    assert call.post(f"batch/{batch}/cancel").json()["status"] == "CANCELLED"
    assert "CANCELLED" in detail(call.post(f"batch/{batch}/finalize"))


def test_batches_run_beside_the_jobs_of_run_and_never_before_them(calling: Any) -> None:
    """RunPod workers of their own: /health does not count them, and /run does not wait."""
    call = calling(workers_max=1, jobs_per_worker=1)
    batch = create(call, *({"mock_delay": 60} for _ in range(5)))
    call.post(f"batch/{batch}/finalize")
    eventually(lambda: summary(call, batch)["requestInProgress"] == 1)
    assert call.health()["jobs"] == dict.fromkeys(("completed", "failed", "inProgress", "inQueue", "retried"), 0)
    assert call.runsync({"x": 1})["status"] == "COMPLETED"
    assert call.get(f"status/{requests(call, batch)['requests'][0]['id']}").status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"requests": [{"input": {"x": 1}}]}, "JSON array"),
        ([{"input": {"x": 1}}, {"input": []}], "requests[1]: input"),
        ([{"prompt": "x"}], "requests[0]: input"),
        ([7], "requests[0]"),
        ([{"input": {"x": 1}, "policy": {"ttl": "x"}}], "requests[0]: policy.ttl"),
    ],
)
def test_each_request_is_checked_as_run_checks_its_own(call: Any, body: Any, said: str) -> None:
    """One that is wrong refuses the call, and no batch is made."""
    assert said in detail(call.post("batch", json=body))
    assert call.get("batch").json() == []


def test_a_body_over_10_mib_is_refused(call: Any) -> None:
    """Per call, as documented."""
    batch = create(call)
    large = [{"input": {"text": "x" * (10 * 1024 * 1024)}}]
    assert "10MiB" in detail(call.post("batch", json=large))
    assert "10MiB" in detail(call.post(f"batch/{batch}/requests", json={"requests": large}))


def test_the_limits_of_the_page_hold(calling: Any) -> None:
    """10 active batches, 5,000 requests of one, 50,000 queued; figures are settings, so that a test is short."""
    assert (EndpointConfig().batches_active, EndpointConfig().batch_requests) == (10, 5_000)
    assert EndpointConfig().batch_queued == 50_000
    call = calling(batches_active=2, batch_requests=3, batch_queued=4)
    first = create(call, {"x": 1}, {"x": 2}, {"x": 3})
    assert "per batch" in detail(call.post(f"batch/{first}/requests", json={"requests": [{"input": {"x": 1}}]}))
    second = create(call, {"x": 4})
    assert "queued" in detail(call.post(f"batch/{second}/requests", json={"requests": [{"input": {"x": 1}}]}))
    assert "active" in detail(call.post("batch", json=[]))
    call.post(f"batch/{first}/finalize")
    eventually(lambda: finished(call, first))
    create(call)  # one that has finished is active no more


def test_unknown_batches_operations_and_methods(call: Any) -> None:
    """404 and 405, with a valid key; 401 without one."""
    batch = create(call)
    assert call.get("batch/batch_none").json()["detail"] == "batch not found"
    assert call.post("batch/batch_none/finalize").status_code == 404
    assert call.post(f"batch/{batch}/nothing").status_code == 404
    assert call.http.delete(f"batch/{batch}").status_code == 405
    assert call.post("batch", json=[], headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_an_endpoint_without_the_batch_api_answers_404(calling: Any) -> None:
    """As one that has not been given the beta might."""
    call = calling(batch=False)
    assert call.post("batch", json=[]).status_code == 404
    assert call.get("batch").status_code == 404
    assert call.runsync({"x": 1})["status"] == "COMPLETED"


def test_faults_hit_the_operations_of_batches_by_name(call: Any) -> None:
    """An answer that is lost after finalize: it was done all the same."""
    batch = create(call, {"x": 1})
    call.emulator.fault("502_after", op="batch-finalize")
    assert call.post(f"batch/{batch}/finalize").status_code == 502
    assert summary(call, batch)["status"] == "FINALIZED"
    call.emulator.fault("429", op="batch-create", retry_after=3)
    assert call.post("batch", json=[]).status_code == 429
    assert [one["op"] for one in call.emulator.calls("demo")][:3] == ["batch-create", "batch-finalize", "batch-status"]
    assert call.emulator.calls("demo")[1]["job_id"] == batch


def test_a_batch_itself_can_fail_by_a_fault(call: Any) -> None:
    """FAILED is terminal; what had completed stays completed."""
    batch = create(call, {"x": 1}, {"mock_delay": 60})
    call.post(f"batch/{batch}/finalize")
    eventually(lambda: summary(call, batch)["requestCompleted"] == 1)
    call.emulator.fault("batch_failed", batch_id=batch)
    assert summary(call, batch)["status"] == "FAILED"
    assert sorted(one["status"] for one in requests(call, batch)["requests"]) == ["COMPLETED", "FAILED"]
    with pytest.raises(ValueError, match="batch not found"):
        call.emulator.fault("batch_failed", batch_id="batch_none")


def test_paused_endpoints_take_no_requests_of_batches(call: Any) -> None:
    """The fault holds for both kinds of RunPod workers."""
    call.emulator.fault("paused", times=None)
    batch = create(call, {"x": 1})
    call.post(f"batch/{batch}/finalize")
    call.emulator.advance(60)
    assert summary(call, batch)["requestCompleted"] == 0
    call.emulator.clear_faults()
    eventually(lambda: finished(call, batch))


def test_a_webhook_of_a_request_is_told_as_that_of_a_job(call: Any) -> None:
    """Each element has the shape of a /run call; nobody listens here, so the try alone is seen."""
    batch = create(call)
    request = {"input": {"x": 1}, "webhook": "http://127.0.0.1:9/hook"}
    call.post(f"batch/{batch}/requests", json={"requests": [request]})
    call.post(f"batch/{batch}/finalize")
    child = requests(call, batch)["requests"][0]["id"]
    eventually(lambda: call.emulator.counts()["demo"]["webhooks"], timeout=20)
    assert call.emulator.counts()["demo"]["webhooks"][0][0] == child


def test_an_unmodified_handler_runs_the_requests_of_a_batch_and_is_told_which_it_is() -> None:
    """In processes of their own, by RunPod's worker protocol; the package marks its log lines with `batchId`."""
    handler = HERE.parent / "workers" / "handler_folder.py"
    with Emulator(["demo"], handlers={"demo": handler}) as emulator, Caller(emulator) as call:
        batch = create(call, {"n": 1}, {"n": 2})
        call.post(f"batch/{batch}/finalize")
        eventually(lambda: finished(call, batch), timeout=60)
        ended = requests(call, batch)["requests"]
        assert [(one["status"], one["output"]["batch"]) for one in ended] == [("COMPLETED", batch)] * 2
        assert call.runsync({"n": 3})["output"]["batch"] is None
