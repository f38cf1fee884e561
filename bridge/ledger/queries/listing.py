"""Which requests there are, the newest first: one sorted set of ids by their acceptance, walked in bounded steps.

What a request costs for it is one ZADD at acceptance (docs/decisions.md has its price). All else is done off the road:
rows are looked at by who lists, and ids whose records are gone are tidied away by the engines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bridge.job.enums import Phase, Status, Step
from bridge.job.record import Long
from bridge.ledger.queries.scan import live_ids, load_many
from bridge.ledger.scripts import run
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.job.document import Held
    from bridge.ledger.ledger import Ledger

#: Records looked at in one script (one to three milliseconds of the server), and for one page.
WALK, PAGE_WALK = 500, 20_000
#: A page's longest.
COUNT_MAX = 1_000
_LONG = (Long.ERROR,)
#: An id, and when it was accepted, as a script of Redis spells it.
_PLACE = re.compile(r"[\w.:\-]{0,200}@\d[\d.e+]*", re.ASCII)
#: Where no more than so many have not ended, they are read whole: none is missed, however long it has been waiting.
LIVE_MAX = 2_000
_ENDED = {Phase.SETTLED.value, Phase.CLOSED.value}
_UNDER_WAY = {Status.ACCEPTED.value, Status.IN_QUEUE.value, Status.IN_PROGRESS.value}
#: The filters, and the row's field of each.
FIELDS: Mapping[str, str] = {
    "endpoint": "ep",
    "phase": "ph",
    "status": "st",
    "reason": "re",
    "tenant": "tn",
    "task": "rp",
    "door": "do",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests. `text`: what an id begins with, or a whole id of a job or of a replaced task.

    `where` has the values allowed of each of FIELDS; times are ledger ms of acceptance, 0 for any.
    """

    text: str = ""
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    since: int = 0
    until: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Requests, and where the next page begins ("" where there is none); `looked_at` says what it cost."""

    held: list[Held]
    goes_on: str
    looked_at: int


def page(ledger: Ledger, wanted: Wanted, *, after: str = "", count: int = 50, most: int = PAGE_WALK) -> Page:
    """The newest first, behind `after` (a page's `goes_on`). A page may be short, or empty, and still go on.

    Raises LedgerUnavailable, or LedgerFault.
    """
    count = max(1, min(count, COUNT_MAX))
    if _asks_for_live(wanted) and _live_count(ledger) <= LIVE_MAX:
        return _live_page(ledger, wanted, after, count)
    last, _, at = after.rpartition("@")
    at = at or (str(wanted.until) if wanted.until else "")
    looked, ids, more = 0, list[str](), True
    filters = [part for name, values in wanted.where.items() for part in (FIELDS[name], _alternatives(name, values))]
    while more and len(ids) < count and looked < most:
        args = [last, at, wanted.since or "", count - len(ids), min(WALK, most - looked), wanted.text, *filters]
        walked, here, here_at, rest, *found = run(ledger.client, "list", [ledger.names.prefix], args)
        looked, more = looked + walked, bool(rest)
        if walked:
            last, at = here, here_at
        ids += found
    held = load_many(ledger, ids, wanted=_LONG)
    return Page([held[one] for one in ids if one in held], f"{last}@{at}" if more and last else "", looked)


def is_place(text: str) -> bool:
    """Whether this can be the `goes_on` of a page, or nothing."""
    return not text or bool(_PLACE.fullmatch(text))


def _asks_for_live(wanted: Wanted) -> bool:
    """Whether only requests that have not ended can be as wanted."""
    phases, statuses = wanted.where.get("phase"), wanted.where.get("status")
    return bool(phases and not _ENDED & set(phases)) or bool(statuses and set(statuses) <= _UNDER_WAY)


def _live_count(ledger: Ledger) -> int:
    live = [phase.value for phase in Phase if phase is not Phase.CLOSED]
    return sum(max(0, ledger.counts(name).get(phase, 0)) for name in ledger.endpoints() for phase in live)


def _live_page(ledger: Ledger, wanted: Wanted, after: str, count: int) -> Page:
    """The same from the sets in which those stand that have not ended: few, however many have."""
    ids = live_ids(ledger)
    held = [one for one in load_many(ledger, ids, wanted=_LONG).values() if _matches(one, wanted)]
    held.sort(key=_order, reverse=True)
    last, _, at = after.rpartition("@")
    if at.isdigit():
        held = [one for one in held if _order(one) < (int(at), last)]
    elif at:
        held = []
    page = held[:count]
    goes_on = f"{page[-1].record.id}@{page[-1].record.accepted_at}" if len(held) > count else ""
    return Page(page, goes_on, len(ids))


def _order(one: Held) -> tuple[int, str]:
    return one.record.accepted_at, one.record.id


def _matches(one: Held, wanted: Wanted) -> bool:
    """As `list.lua` has it."""
    record, text = one.record, wanted.text
    if record.phase.ended or record.accepted_at < wanted.since or (wanted.until and record.accepted_at > wanted.until):
        return False
    if text and not record.id.startswith(text) and text not in (record.job_id, record.replaces):
        return False
    row = {
        "endpoint": record.endpoint, "phase": record.phase.value, "status": record.status, "reason": record.reason,
        "tenant": record.tenant, "task": record.replaces, "door": record.door,
    }  # fmt: skip
    return all(row[name] in values for name, values in wanted.where.items())


def _alternatives(name: str, values: Sequence[str]) -> str:
    """As the script has them; what a row does not spell out is a status nobody has heard yet."""
    unsaid = ["||"] if name == "status" and Status.ACCEPTED in values else []
    return "".join([*unsaid, "|", "|".join(values), "|"])


def kept(ledger: Ledger) -> int:
    """How many requests are kept, about: those that are gone leave the listing a little later."""
    with mapped():
        return int(ledger.client.zcard(ledger.names.key("accepted")))


def scheduled(ledger: Ledger, *, start: int = 0, count: int = 100) -> list[Held]:
    """Requests whose time has not come, the next one first, over all endpoints."""
    first: list[tuple[float, str]] = []
    with mapped(), ledger.client.pipeline(transaction=False) as pipe:
        for endpoint in ledger.endpoints():
            pipe.zrange(ledger.names.due(endpoint, Step.SCHEDULED.value), 0, start + count - 1, withscores=True)
        for found in pipe.execute():
            first += [(score, request_id) for request_id, score in found]
    ids = [request_id for _, request_id in sorted(first)[start : start + count]]
    held = load_many(ledger, ids, wanted=_LONG)
    return [held[one] for one in ids if one in held and held[one].record.phase is Phase.ACCEPTED]


def tidy(ledger: Ledger, rank: int, count: int = WALK) -> tuple[int, int]:
    """Ids whose records are gone leave the listing: the rank to go on at (0: all was walked), how many went."""
    at, gone = run(ledger.client, "tidy", [ledger.names.prefix], [rank, count])
    return int(at), int(gone)


def fill(ledger: Ledger, cursor: int, count: int = 1_000) -> int:
    """Records that an older version has accepted enter the listing, a bounded scan at a time: the next cursor, or 0."""
    prefix, key = ledger.names.row(""), ledger.names.key("accepted")
    with mapped():
        answer: Any = ledger.client.scan(cursor, match=f"{prefix}*", count=count)
        at, rows = int(answer[0]), answer[1]
        if not rows:
            return at
        with ledger.client.pipeline(transaction=False) as pipe:
            for row in rows:
                pipe.hget(row, "ta")
            times = pipe.execute(raise_on_error=False)
        found = {
            row.removeprefix(prefix): int(time)
            for row, time in zip(rows, times, strict=True)
            if isinstance(time, str) and time.isdigit()
        }
        if found:
            ledger.client.zadd(key, found, nx=True)
    return at
