"""`/v1/requests/{id}/output` where outputs stand in an object store: files, and a real S3 protocol (moto's)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from tests.support.api import all_events, api_house, submit
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.moto import S3Server

TEXT = "ä" * 2_000_000  # 4 MB: several pieces


def stored(house: House, client: httpx.Client) -> dict[str, object]:
    """A request whose output the store alone has: its document."""
    submit(client, {"text": TEXT}, id="stored")
    assert all_events(client, "stored")[-1].name == "completed"
    eventually(lambda: not house.client.exists(house.ledger.names.output("stored")))
    told: dict[str, object] = client.get("/v1/requests/stored").json()
    return told


def test_an_output_in_the_store_comes_whole_and_in_ranges(redis_url: str, tmp_path: Path) -> None:
    """As one that the ledger has; when the store has lost it, the problem says so."""
    folder = tmp_path / "outputs"
    with api_house(tmp_path, redis_url, blob_url=f"file://{folder}") as (house, client):
        reference = stored(house, client)["output_ref"]
        assert isinstance(reference, dict)
        whole = client.get("/v1/requests/stored/output")
        assert whole.json() == {"text": TEXT}
        assert hashlib.sha256(whole.content).hexdigest() == reference["sha256"]
        assert whole.headers["etag"] == f'"{reference["sha256"]}"'
        part = client.get("/v1/requests/stored/output", headers={"range": "bytes=1000001-2500000"})
        assert (part.status_code, part.content) == (206, whole.content[1_000_001:2_500_001])
        for file in folder.rglob("*.json"):
            file.unlink()
        gone = client.get("/v1/requests/stored/output")
        assert (gone.status_code, gone.json()["reason"]) == (503, "output_unavailable")


def test_a_store_that_signs_gives_it_itself(redis_url: str, tmp_path: Path) -> None:
    """BRIDGE_API_SIGNED_S: a redirect to a URL that lasts, which stands in no document and no log."""
    with S3Server(tmp_path) as s3:
        settings = {"blob_url": "s3://outputs", "blob_options": s3.options_json, "api_signed_s": "60"}
        with api_house(tmp_path, redis_url, log_level="debug", **settings) as (house, client):
            document = stored(house, client)
            told = client.get("/v1/requests/stored/output")
            assert (told.status_code, told.headers["cache-control"]) == (307, "no-store")
            url = told.headers["location"]
            assert url.startswith(f"http://127.0.0.1:{s3.port}/outputs/")
            assert httpx.get(url).json() == {"text": TEXT}
            signature = httpx.URL(url).params.get("X-Amz-Signature") or httpx.URL(url).params["Signature"]
            log = (tmp_path / "worker-1.log").read_text()
            assert signature not in f"{document}{house.events('stored')}{log}"


@pytest.mark.slow
def test_a_store_that_hangs_is_what_the_problem_names(redis_url: str, tmp_path: Path) -> None:
    """Not the bridge, which would be `busy`: the output is there, and can be read when the store answers again."""
    with S3Server(tmp_path) as s3:
        settings = {"blob_url": "s3://outputs", "blob_options": s3.options_json}
        with api_house(tmp_path, redis_url, **settings) as (house, client):
            stored(house, client)
            s3.freeze()
            hung = client.get("/v1/requests/stored/output", timeout=30)
            assert (hung.status_code, hung.json()["reason"]) == (503, "output_unavailable")
            assert hung.headers["retry-after"]
