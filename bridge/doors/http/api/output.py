"""`GET /v1/requests/{id}/output`: all of it, whatever its size, from wherever it is kept, in pieces and in ranges."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.doors.http.api.guard import Guard
from bridge.doors.http.api.streamed import Streamed
from bridge.doors.http.api.tokens import Caller
from bridge.doors.http.problem import Problem, unknown
from bridge.job.enums import Status
from bridge.job.record import Long
from bridge.ledger.records import output

if TYPE_CHECKING:
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.object_store import Blobs

_TAG = re.compile(r'(W/)?("[^"]*")')
_RANGE = re.compile(r"bytes=([0-9]{0,1000})-([0-9]{0,1000})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """An output that can be read: its bytes, what it is known by, and how a piece is read (blocks)."""

    size: int
    tag: str
    read: Callable[[int, int], bytes]  # from, how many
    stored: bool = False  # read from the object store, not from the ledger
    url: str | None = None  # where the store gives it itself


class WholeOutput:
    """One route; HEAD tells the size."""

    def __init__(self, guard: Guard, ledger: Ledger, blobs: Blobs | None, *, signed_s: int) -> None:
        """`blobs` is the object store, where there is one; over 0, it is asked itself, by URLs that last `signed_s`."""
        self._guard = guard
        self._ledger = ledger
        self._blobs = blobs
        self._signed_s = signed_s

    @property
    def routes(self) -> list[Route]:
        """`GET /v1/requests/{id}/output`."""
        return [self._guard.route("/requests/{id}/output", self._output, "GET", "read", "read_all")]

    async def _output(self, request: Request, caller: Caller) -> Response:
        request_id = request.path_params["id"]
        source = await self._guard.asked(lambda: self._source(request_id, caller))
        if source.url is not None:
            return Response(status_code=307, headers={"location": source.url, "cache-control": "no-store"})
        headers = {"accept-ranges": "bytes", "etag": source.tag, "cache-control": "private, no-cache"}
        if request.headers.getlist("if-match") and not _names(request, "if-match", source.tag, weak=False):
            raise Problem("changed", "if_match: the output is another one", field="if_match", headers=headers)
        if _names(request, "if-none-match", source.tag, weak=True):
            return Response(status_code=304, headers=headers)
        start, stop, code = 0, source.size, 200
        asked = request.headers.get("range")
        if asked and request.headers.get("if-range", source.tag) == source.tag:
            found = _range_of(asked, source.size)
            if found is not None:
                (start, stop), code = found, 206
                headers["content-range"] = f"bytes {start}-{stop - 1}/{source.size}"
        headers |= {"content-type": "application/json", "content-length": str(stop - start)}
        if request.method == "HEAD":
            return Response(status_code=code, headers=headers)
        first = await self._piece(source, start, stop)
        return Streamed(self._pieces(source, start, stop, first), code, headers)

    async def _pieces(self, source: Source, start: int, stop: int, got: bytes) -> AsyncGenerator[bytes, None]:
        while True:
            yield got
            start += len(got)
            if start >= stop or not got:
                return
            got = await self._piece(source, start, stop)

    async def _piece(self, source: Source, start: int, stop: int) -> bytes:
        read = partial(source.read, start, min(output.PIECE, stop - start))
        return await self._guard.asked(read, store=source.stored)

    def _source(self, request_id: str, caller: Caller) -> Source:
        """Blocks. Raises Problem where there is none."""
        self._guard.known(request_id, caller, "read_all")
        held = self._ledger.load(request_id)
        if held is None:
            if self._ledger.tombstone(request_id) is None:
                raise unknown(request_id)
            raise Problem("not_retained", "output: the request is no longer kept; its end alone is remembered")
        if not held.record.phase.ended:
            raise Problem("not_ended", f"output: the request is {held.record.status}; it has none yet", field="id")
        return self._kept(held) or self._stored(held) or self._none(held)

    def _kept(self, held: Held) -> Source | None:
        ledger, request_id = self._ledger, held.record.id
        found = output.find(ledger, request_id)
        if found is None:
            return None
        tag = f'"{"-".join(found.end)}-{found.size}"'
        return Source(found.size, tag, lambda at, length: output.piece(ledger, request_id, found, at, length))

    def _stored(self, held: Held) -> Source | None:
        told, blobs = held.json(Long.OUTPUT_REF) or {}, self._blobs
        key = blobs.key_of(told["url"]) if blobs is not None and told.get("url") else None
        if blobs is None or key is None:
            return None
        tag, url = f'"{told["sha256"]}"', blobs.signed(key, self._signed_s) if self._signed_s else None
        return Source(int(told["size"]), tag, lambda at, length: blobs.part(key, at, length), stored=True, url=url)

    @staticmethod
    def _none(held: Held) -> Source:
        record = held.record
        if record.status == Status.COMPLETED and not record.output_missing:
            raise Problem("not_retained", "output: its retention is over (BRIDGE_OUTPUT_RETENTION_S)")
        reason = f" ({record.reason})" if record.reason else ""
        raise Problem("no_output", f"output: the request has ended {record.status}{reason}, without one")


def _names(request: Request, header: str, tag: str, *, weak: bool) -> bool:
    """Whether `If-Match` or `If-None-Match` names this output: a list of tags, or `*` (RFC 9110, 13.1)."""
    said = ",".join(request.headers.getlist(header))
    return said.strip() == "*" or any(found == tag and (weak or not mark) for mark, found in _TAG.findall(said))


def _range_of(asked: str, size: int) -> tuple[int, int] | None:
    """From and to (without it); None for what is no single range of bytes, which is answered whole (RFC 9110)."""
    found = _RANGE.fullmatch(asked.replace(" ", ""))
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= size or start >= stop:
        raise Problem("range", f"range: the output has {size} bytes", headers={"content-range": f"bytes */{size}"})
    return start, stop
