"""The client against the emulator: every operation once round, and the troubles as RunPod tells them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.emulator import Emulator
from bridge.errors import EndpointUnknown, JobUnknown, Refused, Unauthorised
from bridge.runpod.answers import JobState
from bridge.runpod.client import RunPodClient
from tests.support.helpers import eventually

KEY = "test-key"


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """One endpoint named demo."""
    with Emulator(["demo"]) as found:
        yield found


@pytest.fixture
def client(emulator: Emulator) -> Iterator[RunPodClient]:
    """A client with the right key."""
    found = RunPodClient(emulator.base_url, lambda: KEY)
    yield found
    found.close()


def reaches(client: RunPodClient, job_id: str, status: str) -> JobState:
    """Wait until RunPod says the status."""

    def look() -> JobState | None:
        seen = client.status("demo", job_id)
        return seen if seen.status == status else None

    found = eventually(look)
    assert found is not None
    return found


def test_a_job_goes_from_run_to_its_output(client: RunPodClient) -> None:
    """Submit, observe, and the times in ms."""
    taken = client.run("demo", b'{"input":{"mock_return":{"a":[1,null]}}}')
    assert taken.status == "IN_QUEUE"
    end = reaches(client, taken.job_id, "COMPLETED")
    assert end.output == {"a": [1, None]}
    assert end.worker_id
    assert end.delay_time is not None
    assert end.execution_time is not None


def test_a_short_job_ends_within_runsync(client: RunPodClient) -> None:
    """One call; a longer one answers its true state when the wait ends, and goes on by status."""
    assert client.runsync("demo", b'{"input":{"mock_return":7}}', 5_000).output == 7
    going = client.runsync("demo", b'{"input":{"mock_return":8,"mock_delay":1.5}}', 1_000)
    assert going.status in {"IN_QUEUE", "IN_PROGRESS"}
    assert client.status_sync("demo", going.job_id, 5_000).output == 8


def test_chunks_are_drained_once_and_in_order(client: RunPodClient) -> None:
    """Read on until the page is empty after an end."""
    taken = client.run("demo", b'{"input":{"mock_stream":["a","b","c"],"mock_delay":0.05}}')
    heard: list[object] = []

    def drained() -> bool:
        page = client.stream("demo", taken.job_id, 1_000)
        heard.extend(chunk.output for chunk in page.chunks)
        return page.status == "COMPLETED" and not page.chunks

    eventually(drained)
    assert heard == ["a", "b", "c"]


def test_a_running_job_is_cancelled(client: RunPodClient) -> None:
    """The answer and the status after it say CANCELLED."""
    taken = client.run("demo", b'{"input":{"mock_delay":60}}')
    assert client.cancel("demo", taken.job_id).status == "CANCELLED"
    reaches(client, taken.job_id, "CANCELLED")


def test_a_failed_job_is_retried_under_its_id(client: RunPodClient) -> None:
    """Only after FAILED or TIMED_OUT."""
    taken = client.run("demo", b'{"input":{"mock_error":1,"mock_return":"second"}}')
    assert reaches(client, taken.job_id, "FAILED").error
    assert client.retry("demo", taken.job_id).job_id == taken.job_id
    assert reaches(client, taken.job_id, "COMPLETED").output == "second"


def test_health_and_purge_count(client: RunPodClient) -> None:
    """Counters by RunPod's names; purge-queue answers how many it removed."""
    for _ in range(30):
        client.run("demo", b'{"input":{"mock_delay":60}}')
    told = client.health("demo")
    assert told.jobs["inQueue"] + told.jobs["inProgress"] == 30
    purged = client.purge_queue("demo")
    assert purged.removed == told.jobs["inQueue"]
    assert client.health("demo").jobs["inQueue"] == 0


def test_troubles_have_their_own_errors(emulator: Emulator, client: RunPodClient) -> None:
    """Unknown job, unknown endpoint, wrong key, a body RunPod will never take."""
    with pytest.raises(JobUnknown):
        client.status("demo", "no-such-job")
    with pytest.raises(EndpointUnknown):
        client.status("nowhere", "j")
    with pytest.raises(EndpointUnknown):
        client.run("nowhere", b'{"input":{"a":1}}')
    with pytest.raises(Refused):
        client.run("demo", b'{"input":[1]}')
    stranger = RunPodClient(emulator.base_url, lambda: "wrong")
    with pytest.raises(Unauthorised):
        stranger.run("demo", b'{"input":{"a":1}}')
    stranger.close()
