"""The object store dies while outputs go there: none is lost, and none is referred to that is not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_servers_fail import short_house
from tests.chaos.test_takeover import told_once
from tests.support.helpers import eventually
from tests.support.moto import S3Server


def text_of(number: int) -> dict[str, Any]:
    """An input over the inline limit, which the job gives back; each another."""
    return {"mock_delay": 0.05 * number, "ref": f"{number}", "text": f"ü{number}" * 10_000}


@pytest.mark.chaos_full
def test_an_object_store_killed_while_outputs_go_there_loses_none(tmp_path: Path, redis_url: str) -> None:
    """SIGKILL to the store, then of the worker, then both come back: every caller has the whole output.

    A reference stands only where the store has said that it has the object (its log tells); of all others the ledger
    has the output.
    """
    s3 = S3Server(tmp_path)
    settings: dict[str, str] = {
        "blob_url": "s3://outputs/gpu",
        "blob_options": s3.options_json,
        "blob_timeout_s": "3",
        "inline_limit": "4096",
        "message_limit": "200000",
    }
    with s3, short_house(tmp_path, redis_url, **settings) as house:
        worker = house.worker()
        numbers = range(60)
        sent = {f"o{n}": house.send(text_of(n), task_id=f"o{n}") for n in numbers}
        eventually(lambda: len(s3.keys()) > 8, timeout=30)
        s3.kill()
        eventually(lambda: "blob.unavailable" in worker.said(), timeout=20)
        worker.kill()
        worker = house.worker()
        for n, result in zip(numbers, sent.values(), strict=True):
            assert result.get(timeout=60) == text_of(n)
        eventually(lambda: set(house.ledger.phases(list(sent))) == {"CLOSED"}, timeout=30)
        told_once(house, list(sent))
        kept = [line for line in s3.log().splitlines() if '"PUT /outputs/gpu/' in line and line.endswith(" 200 -")]
        stored = {line.partition('"PUT /outputs/')[2].partition(" ")[0] for line in kept}
        ends = {event["subject"]: event["data"] for event in house.events() if event["data"].get("completed")}
        referred = 0
        for n, one in zip(numbers, sent, strict=True):
            ref = ends[one]["output_ref"]
            raw = json.dumps(text_of(n), separators=(",", ":"), ensure_ascii=False).encode()
            assert (ref["size"], ref["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
            if ref["url"] is not None:
                referred += 1
                assert ref["url"].removeprefix("s3://outputs/") in stored
            else:
                assert house.ask("status", id=one, content=True)["output"] == text_of(n)
        assert 0 < referred < len(sent)
        s3.start()
        late = house.send(text_of(1), task_id="late")
        assert late.get(timeout=30) == text_of(1)
        ref = eventually(lambda: house.events("late")[-1]["data"]["output_ref"])
        assert ref["url"] is None or s3.keys()  # at rest for 15 s after the last failure, or there again
        assert worker.stop() == 0
