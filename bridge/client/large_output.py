"""An output that no message carries: out of the ledger in pieces, else from wherever the bridge says that it is."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from bridge.client.steps import Do, Fetch
from bridge.client.values import Refused, lacks_output, outcome
from bridge.errors import OutputUnavailable

if TYPE_CHECKING:
    from bridge.client.steps import Flow
    from bridge.redis.public_keys import PublicNames

#: Bytes of one piece: a long answer holds up everybody else's.
PIECE = 1024 * 1024
#: Seconds that one piece, or a download, is waited for where the caller has named no time.
PATIENCE_S = 60.0
#: How often the document is asked for anew when what it refers to is not there (any more): a retry makes another.
TRIES = 3


class Asks(Protocol):
    """What of the flows is needed here."""

    names: PublicNames

    def command(self, op: str, arguments: Mapping[str, Any], timeout: float | None) -> Flow: ...  # noqa: D102


class Whole:
    """Reads one output."""

    def __init__(self, asks: Asks) -> None:
        self._asks = asks

    def output(self, document: Mapping[str, Any], timeout: float | None) -> Flow:
        """The value. Raises OutputUnavailable when nobody has it, and what the request's error is if it has another.

        Its size and SHA-256 are checked: nobody takes half of one, or two halves of different ones.
        """
        until = time.monotonic() + (PATIENCE_S if timeout is None else timeout)
        request_id = str(document["id"])
        for _ in range(TRIES):
            reference = document["output_ref"]
            raw = yield from self._from_the_ledger(request_id, reference, until)
            if raw is None and (link := reference.get("link")):
                raw = yield Fetch(str(link["url"]), int(reference["size"]), until)
            if raw is not None and hashlib.sha256(raw).hexdigest() == reference["sha256"]:
                return json.loads(raw)
            try:
                document = yield from self._asks.command("status", {"id": request_id, "content": True}, timeout)
            except Refused as fault:  # the object store does not answer
                raise OutputUnavailable(f"{request_id}: completed, and its output cannot be had: {fault}") from None
            if not lacks_output(document):
                return outcome(document)
        where = f"; it is at {reference['url']}, which this client cannot open" if reference.get("url") else ""
        told = f"{request_id}: completed, and its output of {reference['size']} bytes cannot be had{where}"
        raise OutputUnavailable(told)

    def _from_the_ledger(self, request_id: str, reference: Mapping[str, Any], until: float) -> Flow:
        """The bytes; None when it does not have them."""
        key, size, found = self._asks.names.output(request_id), int(reference["size"]), bytearray()
        while len(found) < size:
            piece = yield Do(("GETRANGE", key, len(found), len(found) + PIECE - 1), until, raw=True)
            if not piece:
                return None
            found += piece
        return bytes(found)
