"""For Python callers who want more than Celery's AsyncResult: submit, follow, stream and cancel, sync or async.

    from bridge.client import Client

    with Client("redis://127.0.0.1:6379/0") as bridge:
        request_id = bridge.submit({"prompt": "a fox"}, endpoint="sdxl", stream=True)
        for chunk in bridge.stream(request_id):
            print(chunk.index, chunk.output)
        print(bridge.result(request_id))

It speaks the bridge's public JSON contract over the ledger's Redis (docs/services.md, docs/client.md) and loads nothing
of the engine: no Celery, no HTTP client, no server. `AsyncClient` has the same methods to be awaited.
"""

from bridge.client.client import AsyncClient, Client
from bridge.client.values import Chunk, Event, Refused, UnknownRequest
from bridge.errors import (
    JobError,
    JobFailed,
    JobLost,
    JobRejected,
    JobTimedOut,
    LedgerFault,
    LedgerUnavailable,
    OutputUnavailable,
)

__all__ = [
    "AsyncClient",
    "Chunk",
    "Client",
    "Event",
    "JobError",
    "JobFailed",
    "JobLost",
    "JobRejected",
    "JobTimedOut",
    "LedgerFault",
    "LedgerUnavailable",
    "OutputUnavailable",
    "Refused",
    "UnknownRequest",
]
