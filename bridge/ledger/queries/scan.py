"""Going through many records without a round trip for each.

Every record that has not ended stands in a due set, under a lease, or waits for a clock (I5), so the ids are read from
those sets, in one step: whatever moves from one set to another meanwhile is not missed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import OutOfMemoryError

from bridge.errors import LedgerError, LedgerUnavailable
from bridge.job.enums import SUBMITS, Phase, Sink, Step
from bridge.job.record import Long
from bridge.ledger.records.read import COMMON
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.job.document import Held
    from bridge.ledger.ledger import Ledger

#: Records read in one round trip.
BATCH = 500
_ENDED = frozenset({Phase.SETTLED.value, Phase.CLOSED.value})


def live_ids(ledger: Ledger, endpoint: str | None = None) -> list[str]:
    """Ids of records that have not ended, and of some that have; in no order."""
    names = ledger.names
    endpoints = [endpoint] if endpoint else ledger.endpoints()
    keys = [names.due(name, step.value) for name in endpoints for step in Step]
    keys += [names.key(f"leased:{name}") for name in endpoints]
    if endpoint is None:  # submits without an answer wait for their clock alone
        keys.append(names.key("timer"))
    with mapped():
        try:
            answers = _members(ledger, keys, transaction=True)
        except OutOfMemoryError:  # Redis refuses a transaction whole then; twice sees what moved back meanwhile
            answers = _members(ledger, keys * 2, transaction=False)
    return list(dict.fromkeys(found for answer in answers for found in answer))


def _members(ledger: Ledger, keys: Sequence[str], *, transaction: bool) -> list[list[str]]:
    with ledger.client.pipeline(transaction=transaction) as pipe:
        for key in keys:
            pipe.zrange(key, 0, -1)
        return pipe.execute()


def waiting_ids(ledger: Ledger, endpoint: str, most: int) -> list[str]:
    """Ids of an endpoint's requests that wait to be submitted, those first that go next, and of what is worked on."""
    with mapped(), ledger.client.pipeline(transaction=False) as pipe:
        for step in SUBMITS:
            pipe.zrange(ledger.names.due(endpoint, step.value), 0, most - 1)
        pipe.zrange(ledger.names.key(f"leased:{endpoint}"), 0, most - 1)
        return [found for answer in pipe.execute() for found in answer]


def load_many(ledger: Ledger, request_ids: Sequence[str], *, wanted: Sequence[Long] = COMMON) -> dict[str, Held]:
    """Those that exist, by id. A row that cannot be read is left out: it is isolated where it is worked on."""
    found: dict[str, Held] = {}
    for batch in batches(request_ids):
        try:
            found |= ledger.load_many(batch, wanted=wanted)
        except LedgerUnavailable:
            raise
        except LedgerError:
            for request_id in batch:
                with contextlib.suppress(LedgerError):
                    found |= ledger.load_many([request_id], wanted=wanted)
    return found


def live(ledger: Ledger, limit: int) -> Iterator[Held]:
    """Records that have not ended."""
    for batch in batches(live_ids(ledger)):
        for held in load_many(ledger, batch, wanted=(Long.ERROR,)).values():
            if not held.record.phase.ended:
                yield held
                limit -= 1
                if limit <= 0:
                    return


def find(ledger: Ledger, value: Long, wanted: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Ids of requests that have not ended and one of whose long values is wanted; those nobody has sent come first."""
    free: list[str] = []
    others: list[str] = []
    for batch in batches(live_ids(ledger)):
        with mapped(), ledger.client.pipeline(transaction=False) as pipe:
            for request_id in batch:
                pipe.hget(ledger.names.row(request_id), "ph")
                pipe.hget(ledger.names.long(request_id), value)
            answers = pipe.execute()
        for request_id, phase, text in zip(batch, answers[::2], answers[1::2], strict=True):
            if phase and phase not in _ENDED and text and wanted(json.loads(text)):
                (free if phase == Phase.ACCEPTED else others).append(request_id)
    return free + others


def of_job(ledger: Ledger, endpoint: str, job_id: str) -> str | None:
    """The request whose current job this is, also of one that has ended; None when there is none. Reads every row."""
    return next((one for one, has in _rows(ledger, "ep", "jb") if has == [endpoint, job_id]), None)


def untold(ledger: Ledger) -> Iterator[str]:
    """Ids of requests whose end waits for AMQP's word that somebody was told. Reads every row."""
    for request_id, (phase, sinks) in _rows(ledger, "ph", "sk"):
        if phase == Phase.SETTLED.value and set((sinks or "").split(",")) - {
            "",
            Sink.CELERY.value,
            Sink.CALLBACK.value,
        }:
            yield request_id


def _rows(ledger: Ledger, *fields: str) -> Iterator[tuple[str, list[str | None]]]:
    """Every request's id, with these fields of its row."""
    prefix = ledger.names.row("")
    with mapped():
        rows = [str(key) for key in ledger.client.scan_iter(f"{prefix}*", count=1_000)]
    for batch in batches(rows):
        with mapped(), ledger.client.pipeline(transaction=False) as pipe:
            for row in batch:
                pipe.hmget(row, *fields)
            answers = pipe.execute()
        yield from zip((row.removeprefix(prefix) for row in batch), answers, strict=True)


def batches(ids: Sequence[str], size: int = BATCH) -> Iterator[Sequence[str]]:
    """So many at a time."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
