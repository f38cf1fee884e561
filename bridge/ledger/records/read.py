"""Reading records: each method is one round trip, and takes no lease."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bridge.errors import LedgerError
from bridge.job.document import Held
from bridge.job.enums import Phase, Step
from bridge.job.record import CHANGE_TOKEN, Long, from_row
from bridge.ledger.clock import LedgerClock
from bridge.ledger.streams.repair import on_streams
from bridge.redis.outage import mapped
from bridge.telemetry.logs import know

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: Long values that most changes tell or need; inputs and canvases are fetched by those who use them.
COMMON = (
    Long.METADATA, Long.TRACE, Long.REPLY, Long.WISHED, Long.JOBS, Long.PROGRESS, Long.ERROR, Long.ARGUMENTS,
    Long.EVIDENCE, Long.OUTPUT_REF, Long.CALLBACK,
)  # fmt: skip
ALL = tuple(Long)
#: Entries read at once: one long stream must not hold the server up.
PAGE = 5_000
_INDEX = re.compile(r'\{"index":(\d+)')


class Reader:
    """All methods raise LedgerUnavailable."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        """The client is shared by threads; nothing is sent before the first call."""
        self.client = client
        self.names = names
        self.clock = LedgerClock()

    def now(self) -> int:
        """Ledger time in milliseconds."""
        return self.clock.now()

    def wall(self) -> int:
        """The wall time that belongs to it, in milliseconds."""
        return self.clock.wall()

    def load(self, request_id: str, *, wanted: Sequence[Long] = COMMON, output: bool = False) -> Held | None:
        """A record with its long values, None when there is none."""
        with mapped(), self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.names.row(request_id))
            pipe.hmget(self.names.long(request_id), wanted)
            if output:
                pipe.get(self.names.output(request_id))
            answers = pipe.execute()
        if not answers[0]:
            return None
        return self._held(request_id, answers[0], wanted, answers[1], answers[2] if output else None)

    def load_many(
        self, request_ids: Sequence[str], *, wanted: Sequence[Long] = COMMON, output: bool = False
    ) -> dict[str, Held]:
        """Records by id, in one round trip; those that are gone are missing."""
        ids = list(dict.fromkeys(request_ids))
        if not ids:
            return {}
        with mapped(), self.client.pipeline(transaction=False) as pipe:
            for request_id in ids:
                pipe.hgetall(self.names.row(request_id))
                pipe.hmget(self.names.long(request_id), wanted)
            if output:
                pipe.mget([self.names.output(request_id) for request_id in ids])
            answers = pipe.execute()
        outputs = answers.pop() if output else [None] * len(ids)
        rows = zip(ids, answers[::2], answers[1::2], outputs, strict=True)
        return {
            request_id: self._held(request_id, row, wanted, long, kept) for request_id, row, long, kept in rows if row
        }

    def outputs(self, request_ids: Sequence[str]) -> list[str | None]:
        """Only the outputs, in one round trip."""
        with mapped():
            return self.client.mget([self.names.output(request_id) for request_id in request_ids])  # type: ignore[return-value]

    def tombstone(self, request_id: str) -> dict[str, Any] | None:
        """What is remembered of a request whose record is gone."""
        with mapped():
            text = self.client.get(self.names.tombstone(request_id))
        return json.loads(text) if text else None

    def knows(self, request_id: str) -> bool:
        """Whether there is a record of this id, or what is remembered of one."""
        with mapped():
            return bool(self.client.exists(self.names.row(request_id), self.names.tombstone(request_id)))

    def replacing(self, task_id: str) -> list[str]:
        """The requests by which the Celery task of this id has replaced itself, those under way or the last one."""
        with mapped():
            return sorted(self.client.smembers(self.names.replaced(task_id)))  # type: ignore[arg-type]

    def phases(self, request_ids: Sequence[str]) -> list[Phase | None]:
        """Only the phases, in one round trip."""
        with mapped(), self.client.pipeline(transaction=False) as pipe:
            for request_id in request_ids:
                pipe.hget(self.names.row(request_id), "ph")
            return [Phase(text) if text else None for text in pipe.execute()]

    def chunks(self, request_id: str, start: int = 0, last: int = -1) -> list[dict[str, Any]]:
        """Recorded chunks from an index on, to `last` and with it (-1: all): `{index, output, metrics?}`.

        A chunk that was repaired comes as it was repaired.
        """
        low, stream = f"{start + 1}-0" if start else "-", self.names.chunks(request_id)
        newest: dict[int, str] = {}
        while found := self._page(stream, low):
            for _, entry in found:
                index = _INDEX.match(entry.get("data", ""))
                if index and int(index[1]) >= start and (last < 0 or int(index[1]) <= last):
                    newest[int(index[1])] = entry["data"]
            low = f"({found[-1][0]}"
        return [json.loads(newest[index]) for index in sorted(newest)]

    def _page(self, stream: str, low: str) -> Any:
        return on_streams(
            self.client, self.names.prefix, [stream], lambda: self.client.xrange(stream, min=low, count=PAGE)
        )

    def endpoints(self) -> list[str]:
        """Names that have ever had a record."""
        with mapped():
            return sorted(self.client.smembers(self.names.key("endpoints")))  # type: ignore[arg-type]

    def scheduled(self, endpoint: str) -> int:
        """Requests whose `not_before` has not come; they count as ACCEPTED too."""
        with mapped():
            return int(self.client.zcard(self.names.due(endpoint, Step.SCHEDULED.value)))

    def counts(self, endpoint: str) -> dict[str, int]:
        """Records per phase, and the endpoint's sums."""
        with mapped():
            found: Any = self.client.hgetall(self.names.count(endpoint))
        return {name: int(value) for name, value in found.items()}

    def flying(self, tenant: str) -> int:
        """Jobs of a tenant that are in flight, over all endpoints."""
        with mapped():
            return int(self.client.hget(self.names.key("flying"), tenant) or 0)

    @staticmethod
    def _held(
        request_id: str, row: Any, wanted: Sequence[Long], values: Sequence[str | None], output: str | None = None
    ) -> Held:
        if not isinstance(row, dict):
            row = dict(zip(row[::2], row[1::2], strict=True))
        row.pop(CHANGE_TOKEN, None)
        try:
            record = from_row(request_id, row)
        except ValueError as error:
            raise LedgerError(str(error)) from None
        long = {name: value for name, value in zip(wanted, values, strict=True) if value is not None}
        if Long.TRACE in wanted:
            know(request_id, record.endpoint, long.get(Long.TRACE))
        return Held(record, long, output)
