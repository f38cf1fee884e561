"""An output over what any message carries (8 MiB) comes back whole, from the ledger or the object store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from bridge.client import AsyncClient, Client, OutputUnavailable
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.moto import S3Server
from tests.support.servers import RedisServer

# Of characters that no piece ends at by luck.
HUGE = {"text": "ü狐🦊" * 1_000_000}
ASKED = {"mock_return": HUGE}


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker, without an object store."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("whole"), broker=url, redis_url=url) as made:
        made.worker()
        yield made


@pytest.fixture(scope="module")
def request_id(house: House) -> str:
    """Of a request whose output is that large."""
    with Client(house.environment["BRIDGE_REDIS_URL"]) as client:
        made = client.submit(ASKED, id="huge")
        assert client.result(made, timeout=60) == HUGE  # who submitted it
    eventually(lambda: house.phase(made) == "CLOSED")
    return made


def command(house: House, *words: str) -> Any:
    """What the command says, as JSON."""
    done = house.bridge(*words)
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_another_client_gets_the_whole_of_it(house: House, request_id: str) -> None:
    """By its id; sync and async; and the document names the path by which HTTP gives it."""

    async def later() -> Any:
        async with AsyncClient(house.environment["BRIDGE_REDIS_URL"]) as client:
            return await client.result(request_id, timeout=60)

    with Client(house.environment["BRIDGE_REDIS_URL"]) as client:
        assert client.result(request_id, timeout=60) == HUGE
        reference = client.status(request_id).output_ref
        assert reference is not None
        assert reference.size > 8 * 1024 * 1024
        assert reference.href == f"/v1/requests/{request_id}/output"
    assert asyncio.run(later()) == HUGE


@pytest.mark.slow
def test_the_command_prints_the_whole_of_it(house: House, request_id: str, tmp_path: Path) -> None:
    """Status when asked for, run, and the file of a batch."""
    assert command(house, "status", request_id, "--content", "--json")["output"] == HUGE
    lines, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked = json.dumps(ASKED, ensure_ascii=False)
    lines.write_text(asked)
    assert command(house, "run", "--input", f"@{lines}", "--id", request_id) == HUGE
    assert command(house, "run", "--input", f"@{lines}", "--id", request_id, "--json")["output"] == HUGE
    command(house, "run", "--file", str(lines), "--out", str(out), "--json")
    assert json.loads(out.read_text())["output"] == HUGE


def test_half_an_output_is_nobodys(house: House, request_id: str) -> None:
    """What is cut, or another's, is told as not to be had: never a reference, and never a part."""
    key = house.ledger.names.output(request_id)
    whole: Any = house.client.get(key)
    with Client(house.environment["BRIDGE_REDIS_URL"]) as client:
        for broken in (whole[:-100], whole.replace("ü", "ä")):
            house.client.set(key, broken)
            with pytest.raises(OutputUnavailable, match="huge: completed"):
                client.result(request_id, timeout=30)
        house.client.delete(key)
        with pytest.raises(OutputUnavailable, match="huge: completed"):
            client.result(request_id, timeout=30)
        house.client.set(key, whole)
        assert client.result(request_id, timeout=30) == HUGE


@pytest.mark.slow
def test_from_the_object_store_by_a_link_that_ends(redis_url: str, tmp_path: Path) -> None:
    """A signed link for who asks for the content, in no event; when the store is away, that is said."""
    more: dict[str, Any] = {"blob_url": "s3://outputs/gpu", "blob_link_s": "1000"}
    with (
        S3Server(tmp_path) as s3,
        House(tmp_path, broker=redis_url, redis_url=redis_url, blob_options=s3.options_json, **more) as house,
        Client(redis_url) as client,
        Client(redis_url) as other,
    ):
        worker = house.worker()
        request_id = client.submit(ASKED)
        assert client.result(request_id, timeout=60) == HUGE
        eventually(
            lambda: (
                house.phase(request_id) == "CLOSED" and not house.client.exists(house.ledger.names.output(request_id))
            )
        )
        assert other.result(request_id, timeout=60) == HUGE
        told = client.command("status", id=request_id, content=True)["output_ref"]
        assert told["url"].startswith("s3://outputs/gpu/")
        assert told["link"]["expires_at"] > house.events(request_id)[-1]["time"]
        assert requests.get(told["link"]["url"], timeout=30).json() == HUGE
        assert "Signature" in told["link"]["url"]
        assert "Signature" not in json.dumps(house.events(request_id)) + worker.said()
        s3.kill()
        with pytest.raises(OutputUnavailable) as raised:
            other.result(request_id, timeout=60)
        assert "Signature" not in str(raised.value)
