"""`GET /v1/requests/{id}/events`: a request's events as they are made, to its end (server-sent events).

Who comes back with the id of the last one (`Last-Event-ID`) is told what he has missed. Chunks come from the request's
own stream where the event stream no longer has them, and the end from the record; so a request that has ended is
always told to its end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.doors.http.api.following.followers import place_of
from bridge.doors.http.api.following.past_events import Past
from bridge.doors.http.api.following.sse import Frames, Place, Telling, read, sequence_of
from bridge.doors.http.api.streamed import Streamed
from bridge.doors.http.problem import Problem
from bridge.job.record import Long

if TYPE_CHECKING:
    from bridge.doors.http.api.following.followers import Follower, Followers
    from bridge.doors.http.api.guard import Guard
    from bridge.doors.http.api.tokens import Caller
    from bridge.job.record import Record
    from bridge.ledger import Ledger

#: Seconds after which something is said, so that nobody between takes the connection for dead.
ALIVE_S = 15.0
#: Milliseconds after which a reader that was cut off comes again.
COME_AGAIN_MS = 1_000
#: The ledger's clock may be so far from the server's, by which the event stream counts.
CLOCK_MS = 60_000
HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # nginx would keep the events back
}


class Events:
    """One route."""

    def __init__(self, guard: Guard, ledger: Ledger, telling: Telling, followers: Followers, past: Past) -> None:
        """`followers` hear what comes, `past` finds what was, `telling` puts either into words."""
        self._guard = guard
        self._ledger = ledger
        self._telling = telling
        self._followers = followers
        self._past = past

    @property
    def routes(self) -> list[Route]:
        """`GET /v1/requests/{id}/events`."""
        return [self._guard.route("/requests/{id}/events", self._events, "GET", "read", "read_all")]

    async def _events(self, request: Request, caller: Caller) -> Response:
        request_id = request.path_params["id"]
        place = Place.of(request.headers.get("last-event-id", ""))
        await self._guard.asked(lambda: self._guard.known(request_id, caller, "read_all"))
        if place.sequence and await self._guard.asked(lambda: self._all_told(request_id, place)):
            return Response(status_code=204)  # an EventSource comes back after everything else
        if self._followers.full:
            raise Problem("busy", "as many follow already as may (BRIDGE_API_FOLLOWERS_MAX)", retry_after_s=5)
        if request.method == "HEAD":
            return Response(headers=HEADERS)
        return Streamed(self._follow(request_id, place), 200, HEADERS)

    def _all_told(self, request_id: str, place: Place) -> bool:
        """Blocks. Whether nothing comes after this place; one beyond what has been is put back to that."""
        held = self._ledger.load(request_id, wanted=(Long.OUTPUT_REF,))
        if held is None:
            return place.sequence >= int((self._ledger.tombstone(request_id) or {}).get("sq", 0))
        record = held.record
        if record.phase.ended and place.sequence >= record.sequence:
            return True
        place.sequence, place.chunks = min(place.sequence, record.sequence), min(place.chunks, record.chunks)
        return False

    async def _follow(self, request_id: str, place: Place) -> Frames:
        follower, first = self._followers.add(request_id), True
        try:
            yield f"retry: {COME_AGAIN_MS}\n\n".encode()
            while not (place.over or self._followers.closed):
                if first or follower.lost:
                    async for frame in self._caught_up(follower, place, first=first):
                        yield frame
                    first = False
                elif await _heard(follower):
                    async for frame in self._live(follower, place):
                        yield frame
                else:
                    yield b": alive\n\n"
        finally:
            self._followers.remove(follower)

    async def _live(self, follower: Follower, place: Place) -> Frames:
        """What was heard."""
        for body in follower.take():
            if follower.lost or place.over:
                return
            if (event := read(body)) is not None:
                async for frame in self._telling.event(follower.request_id, event, body, place):
                    yield frame
        if follower.ended and not place.over:
            async for frame in self._telling.end(follower.request_id, place):
                yield frame

    async def _caught_up(self, follower: Follower, place: Place, *, first: bool) -> Frames:
        """What was told before; the end with it, where there is one."""
        request_id, follower.lost = follower.request_id, False
        newest = await self._guard.asked(self._followers.begin)
        held = await self._guard.asked(lambda: self._ledger.load(request_id))
        ended = held is None or held.record.phase.ended
        if held is not None:
            place.known = held.record.sequence
            if place.sequence < place.known:
                start, until = self._span(held.record, newest)
                async for frame in self._told_before(request_id, start, until, place, first=first):
                    yield frame
            place.over = place.over or (ended and place.sequence >= place.known)
        if ended and not place.over:
            async for frame in self._telling.end(request_id, place):
                yield frame

    def _span(self, record: Record, newest: str) -> tuple[str, str]:
        """Between which entries of the stream a request's events are, as its own times say."""
        offset = self._ledger.clock.offset
        start = f"{max(0, record.accepted_at - offset - CLOCK_MS)}-0"
        if not record.phase.ended:
            return start, newest
        return start, min(newest, f"{record.ended_at - offset + CLOCK_MS}-0", key=place_of)

    async def _told_before(self, request_id: str, start: str, newest: str, place: Place, *, first: bool) -> Frames:
        """What the event stream has. Where the beginning of it is gone, how the request stands now comes first."""
        at: str | None = start
        while at is not None and not place.over:
            found = await self._past.of(request_id, at, newest)
            at = found.goes_on
            for event, body in [(event, body) for body in found.events if (event := read(body)) is not None]:
                if place.sequence < sequence_of(event) and first:
                    if sequence_of(event) > place.sequence + 1:
                        async for frame in self._telling.as_it_is(request_id, place):
                            yield frame
                    first = False
                async for frame in self._telling.event(request_id, event, body, place):
                    yield frame
        if first:
            async for frame in self._telling.as_it_is(request_id, place):
                yield frame


async def _heard(follower: Follower) -> bool:
    """Whether something came before it is time to say that we live."""
    try:
        async with asyncio.timeout(ALIVE_S):
            await follower.ready.wait()
    except TimeoutError:
        return False
    follower.ready.clear()
    return True
