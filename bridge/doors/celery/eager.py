"""Eager mode: a request run here and now, in the caller's own process, for `task_always_eager` and `.apply()`.

Nothing is written to the ledger and nothing follows but what Celery itself does; it is for tests and scripts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bridge.engine.tell.celery_result import failure
from bridge.engine.watch.observation import observation_of
from bridge.engine.watch.poll_plan import Known, next_poll_ms
from bridge.errors import Throttled
from bridge.job.change import Rules
from bridge.job.document import Held, document
from bridge.job.enums import Status, Wish
from bridge.job.record import Long, Record, dumps
from bridge.job.request import parse_run, rejected
from bridge.job.transitions import Table

if TYPE_CHECKING:
    from bridge.runpod.client import RunPodClient
    from bridge.settings.config_file import EndpointBook

#: Seconds an eager call waits when RunPod says 429.
THROTTLED_S = 1.0


def run(book: EndpointBook, client_of: Callable[[str], RunPodClient], arguments: Mapping[str, Any]) -> Any:
    """The job's output; raises the same errors as `AsyncResult.get`."""
    request = parse_run(arguments)
    if request.callback is not None:
        raise rejected("callback", "callback: nobody is called from an eager task, which has no ledger")
    endpoint = book.resolve(request.endpoint)
    client = client_of(endpoint.name)
    body: dict[str, Any] = {"input": request.input}
    policy = endpoint.policy.model_dump(exclude_none=True) | request.policy.model_dump(exclude_none=True)
    if policy:
        body["policy"] = policy
    s3 = book.s3_config(request.s3Config)
    if s3 is not None:
        body["s3Config"] = s3.model_dump()
    started = _now()
    while True:
        try:
            answer = client.run(endpoint.id, dumps(body).encode())
            break
        except Throttled as error:
            time.sleep(error.delay_s or THROTTLED_S)
    table, nothing = Table(Rules()), Known()
    record = Record(id=f"eager:{answer.job_id}", endpoint=endpoint.name, endpoint_id=endpoint.id, door="celery",
                    deadline=started + request.timeout if request.timeout else 0, accepted_at=started)  # fmt: skip
    held = table.submitted(
        Held(record, {Long.METADATA: dumps(request.metadata)}), _now(), answer.job_id, answer.status, poll_ms=0
    ).after
    while not held.record.phase.ended:
        age = _now() - started
        time.sleep(next_poll_ms(nothing, held.record.status, age) / 1000)
        if held.record.deadline and _now() >= held.record.deadline and not held.record.wish:
            held = table.wish(held, _now(), Wish.TIMEOUT).after
            client.cancel(endpoint.id, answer.job_id)
        heard = observation_of(client.status(endpoint.id, answer.job_id), held.record.attempt)
        held = table.observed(held, _now(), heard, poll_ms=0).after
    told = document(held)
    if held.record.status != Status.COMPLETED:
        raise failure(told)
    return told if request.result == "document" else told["output"]


def _now() -> int:
    return int(time.time() * 1000)
