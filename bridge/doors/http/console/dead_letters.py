"""Dead letters and parked requests: why, show, replay, drop."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.doors.http.console.access import Entrance, Refusal
from bridge.doors.http.console.actions import done
from bridge.doors.http.console.overview import AROUND_S, Overviews
from bridge.doors.http.console.render import Pages
from bridge.doors.http.console.session import Visitor
from bridge.errors import NotReplayable
from bridge.ledger.queries.parked_requests import parked, unpark
from bridge.ledger.streams.dead_letters import shown
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.control import Asker
    from bridge.ledger import Ledger

#: Letters that are looked at, the newest.
COUNT = 500
#: Letters that one answer to a question may replay or drop.
MANY = 100
_LETTER = re.compile(r"\d{1,20}-\d{1,20}")


class Dead:
    """Two screens and two actions."""

    def __init__(
        self,
        entrance: Entrance,
        pages: Pages,
        ledger: Ledger,
        overviews: Overviews,
        replay: Callable[[Mapping[str, Any], str | None], str],
        *,
        content: bool,
        redact: Collection[str],
    ) -> None:
        """`replay` sends a letter again and says where to; it may give the request another id."""
        self._entrance, self._pages, self._ledger, self._overviews = entrance, pages, ledger, overviews
        self._replay, self._content, self._redact = replay, content, redact

    @property
    def routes(self) -> list[Route]:
        """The list, one letter, and what can be done with it."""
        return [
            self._entrance.page("/dead", self._list),
            self._entrance.action("/dead/selected/replay", self._ask_many("replay"), self._done_with_many("replay")),
            self._entrance.action("/dead/selected/drop", self._ask_many("drop"), self._done_with_many("drop")),
            self._entrance.page("/dead/{id}", self._one),
            self._entrance.action("/dead/{id}/replay", self._ask("replay"), self._replayed),
            self._entrance.action("/dead/{id}/drop", self._ask("drop"), self._dropped),
        ]

    async def _list(self, request: Request, visitor: Visitor) -> Response:
        reason = request.query_params.get("reason", "")

        def read() -> tuple[dict[str, Any], list[dict[str, Any]]]:
            return self._overviews.look(AROUND_S), self._all()

        around, found = await self._entrance.asked(read)
        reasons: dict[str, int] = {}
        for one in found:
            reasons[one["reason"]] = reasons.get(one["reason"], 0) + 1
        rows = [one for one in found if reason in ("", one["reason"])]
        return self._overviews.show(
            request, visitor, "dead.html", around, rows=rows, reasons=reasons, reason=reason, total=around["dead"]
        )

    async def _one(self, request: Request, visitor: Visitor) -> Response:
        letter_id = request.path_params["id"]
        around = await self._entrance.asked(lambda: self._overviews.look(AROUND_S))
        letter = await self._entrance.asked(lambda: self._found(letter_id))
        told = shown(letter, self._redact, () if self._content else ("original", "headers"))
        original = told.get("original")
        with contextlib.suppress(ValueError, TypeError, RecursionError):  # what is no JSON is shown as it came
            original = json.dumps(json.loads(original or ""), indent=2, ensure_ascii=False)
        return self._overviews.show(request, visitor, "letter.html", around, letter=told, original=original)

    def _ask_many(self, what: str) -> Callable[[Request, Visitor], Any]:
        """Those that are named, or the newest of a reason: as they are now, so that none is met that nobody saw."""

        async def question(request: Request, visitor: Visitor) -> Response:
            named, reason = request.query_params.getlist("id"), request.query_params.get("reason", "")

            def read() -> tuple[dict[str, Any], list[dict[str, Any]], int]:
                found = [one for one in self._all() if one["id"] in named or (not named and one["reason"] == reason)]
                return self._overviews.look(AROUND_S), found[:MANY], len(found)

            around, letters, count = await self._entrance.asked(read)
            if not letters:
                raise Refusal(404, "No letter is meant", "Mark some, or choose a reason; or they are gone by now.")
            kinds = Counter(one["reason"] for one in letters)
            return self._overviews.show(
                request, visitor, "ask_letters.html", around, what=what, letters=letters, kinds=kinds, count=count
            )

        return question

    def _done_with_many(self, what: str) -> Callable[[Request, Visitor], Any]:
        async def deed(request: Request, visitor: Visitor) -> Response:
            fields = await self._entrance.form(request, visitor.signs)
            asker = self._entrance.asker(visitor, fields.get("by", ""))
            named = [one for one in fields.get("letters", "").split(",") if one][:MANY]

            def go() -> tuple[int, list[str]]:
                done_with, why = 0, list[str]()
                for letter_id in named:
                    try:
                        if what == "replay":
                            self._again(letter_id, None, asker)
                        else:
                            self._forget(letter_id, asker)
                    except (NotReplayable, Refusal) as error:
                        why.append(error.says if isinstance(error, Refusal) else str(error))
                    else:
                        done_with += 1
                return done_with, why

            count, why = await self._entrance.asked(go, runpod=True)
            says = f"{count} {'sent again' if what == 'replay' else 'dropped'}."
            return done("/console/dead", f"{says} {len(why)} not: {why[0]}" if why else says)

        return deed

    def _ask(self, what: str) -> Callable[[Request, Visitor], Any]:
        async def question(request: Request, visitor: Visitor) -> Response:
            letter_id = request.path_params["id"]
            around = await self._entrance.asked(lambda: self._overviews.look(AROUND_S))
            letter = await self._entrance.asked(lambda: self._found(letter_id))
            told = shown(letter, self._redact, ("original",))
            return self._overviews.show(request, visitor, "ask_letter.html", around, what=what, letter=told)

        return question

    async def _replayed(self, request: Request, visitor: Visitor) -> Response:
        letter_id = request.path_params["id"]
        fields = await self._entrance.form(request, visitor.signs)
        asker, new_id = self._entrance.asker(visitor, fields.get("by", "")), fields.get("new_id", "").strip() or None

        where = await self._entrance.asked(lambda: self._again(letter_id, new_id, asker), runpod=True)
        return done("/console/dead", f"Sent again, to {where}.")

    async def _dropped(self, request: Request, visitor: Visitor) -> Response:
        letter_id = request.path_params["id"]
        fields = await self._entrance.form(request, visitor.signs)
        asker = self._entrance.asker(visitor, fields.get("by", ""))
        count = await self._entrance.asked(lambda: self._forget(letter_id, asker))
        return done("/console/dead", "Dropped." if count else "It was gone already.")

    def _again(self, letter_id: str, new_id: str | None, asker: Asker) -> str:
        """Where it was sent. Blocks. Raises Refusal or NotReplayable."""
        letter = self._found(letter_id)
        if letter.get("kind") == "parked":
            unpark(self._ledger, letter_id)
            where = "the engine"
        else:
            where = self._replay(letter, new_id)
            self._ledger.dead.drop([letter_id])
        tell("dead_letter.replayed", letter=letter_id, to=where, by=asker.by, door=asker.door)
        return where

    def _forget(self, letter_id: str, asker: Asker) -> int:
        """How many it was. Blocks. Raises Refusal."""
        if not _LETTER.fullmatch(letter_id):
            raise Refusal(409, "Not dropped", "A parked request is no letter: cancel it.")
        count = self._ledger.dead.drop([letter_id])
        tell("dead_letter.dropped", letter=letter_id, count=count, by=asker.by, door=asker.door)
        return count

    def _all(self) -> list[dict[str, Any]]:
        """The newest, without their originals. Blocks."""
        letters = [shown(one, self._redact, ("original",)) for one in self._ledger.dead.newest(COUNT)]
        return [*parked(self._ledger), *letters]

    def _found(self, letter_id: str) -> dict[str, Any]:
        """Blocks. Raises Refusal."""
        letter = self._ledger.dead.get(letter_id) if _LETTER.fullmatch(letter_id) else None
        if letter is None:
            letter = next((one for one in parked(self._ledger) if one["id"] == letter_id), None)
        if letter is None:
            raise Refusal(404, "No such letter", "It was replayed, dropped, or its retention is over.")
        return letter
