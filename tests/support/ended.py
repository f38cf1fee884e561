"""A request of Celery's that has ended, in a ledger where no engine runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from bridge.job.change import Change
from bridge.job.document import Held
from bridge.job.enums import Step
from bridge.job.observation import Observation
from bridge.job.record import Long, Record
from bridge.ledger import Ledger


def ended(ledger: Ledger, request_id: str, output: Any, canvas: Mapping[str, Any] | None = None) -> Change:
    """The change by which it ended; what its `canvas` says follows it, which is nothing by itself."""
    table = ledger.table
    record = Record(id=request_id, endpoint="demo", endpoint_id="demo", door="celery", sinks="celery", nonce="n")
    held = Held(record, {Long.INPUT: "1", Long.CANVAS: json.dumps(canvas or {})})
    ledger.accept(request_id, lambda now, wish: table.accept(held, now, wish))
    claimed = ledger.claim(Step.SUBMIT, {"demo": 1}, lease_ms=30_000)
    sending = partial(table.sending, lease=claimed.token, endpoint_id="demo", base_url="http://x")
    sent = ledger.change(claimed.records[0], sending)
    taken = ledger.change(sent.after, partial(table.submitted, job_id="j", status="IN_QUEUE", poll_ms=0))
    heard = Observation("j", "COMPLETED", 1, output=json.dumps(output))
    return ledger.change(taken.after, partial(table.observed, heard=heard, poll_ms=1))
