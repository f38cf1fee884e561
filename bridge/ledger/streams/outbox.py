"""The event stream as the outbox: the turn and cursor of who tells AMQP, how far it is behind, and the stream's bounds.

On a Redis broker nobody relays, and only `trim` matters. Methods raise LedgerUnavailable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.ledger.scripts import run
from bridge.ledger.streams.repair import on_streams
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

Entry = tuple[str, dict[str, str]]
#: Entries read at once where they are only counted or dropped.
PAGE = 500
#: Undelivered messages that are tried again, at most; one more becomes a dead letter at once (I16).
LATE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class RelayTurn:
    """The right to tell AMQP: where the last one stopped, in the events and in the dead letters."""

    cursor: str
    dead_cursor: str


@dataclass(frozen=True, slots=True)
class Late:
    """One message that a queue would not take: which entry's, to whom, since when, and how often it was tried."""

    entry_id: str
    kind: str  # event | reply:<n> | result
    since_ms: int
    tries: int

    def member(self) -> str:
        """Its place in the set of late ones; the same for every try."""
        return json.dumps([self.entry_id, self.kind])


@dataclass(frozen=True, slots=True)
class Lag:
    """What AMQP has not confirmed yet: how many entries, and for how many seconds the oldest of them has waited."""

    entries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the event stream. `count` and `age_ms` never reach what AMQP has not confirmed; `bytes` does, loudly."""

    count: int
    bytes: int
    age_ms: int


class Outbox:
    """One per process; thread-safe."""

    def __init__(self, client: redis.Redis, names: Names, now: Callable[[], int], *, relayed: bool) -> None:
        """`now` is the ledger's time (I17); `relayed` says whether events leave on AMQP as well."""
        self.client = client
        self.names = names
        self._now = now
        self.relayed = relayed

    # The stream itself

    def tell(self, body: str, key: str) -> None:
        """An event that no record has: the refusal of a message at a door."""
        self._on(lambda: self.client.xadd(self.names.events, {"data": body, "key": key}))

    def newest(self) -> str:
        """The newest entry's id: who reads behind it misses nothing that is told from now on."""
        newest: Any = self._on(lambda: self.client.xrevrange(self.names.events, count=1))
        return str(newest[0][0]) if newest else "0"

    def read(self, after: str, *, count: int) -> list[tuple[str, dict[str, Any]]]:
        """Events behind an entry (`-` for the oldest, `(<id>` for what follows it), each with its entry id."""
        found: Any = self._on(lambda: self.client.xrange(self.names.events, min=after, count=count))
        read = ((entry_id, _document(entry)) for entry_id, entry in found)
        return [(entry_id, event) for entry_id, event in read if event is not None]

    def wait(self, after: str, *, count: int, wait_ms: int) -> list[tuple[str, str]]:
        """(entry id, document as text) behind an entry id, as soon as there are any; none after `wait_ms`.

        An entry that somebody else has written may hold anything.
        """
        found: Any = self._on(lambda: self.client.xread({self.names.events: after}, count=count, block=wait_ms))
        return [(entry_id, entry.get("data", "")) for _, entries in found or () for entry_id, entry in entries]

    def texts(self, after: str, until: str, *, count: int) -> list[tuple[str, str]]:
        """The same of the past: from an entry on (`(<id>` for what follows it) to another one, and with it."""
        found: Any = self._on(lambda: self.client.xrange(self.names.events, min=after, max=until, count=count))
        return [(entry_id, entry.get("data", "")) for entry_id, entry in found]

    # The turn

    def take(self, token: str, *, lease_ms: int) -> RelayTurn | None:
        """The turn, also when it is ours already; None while another process has it."""
        answer = run(self.client, "amqp_turn", self._keys(), ["take", token, lease_ms])
        return RelayTurn(answer[1], answer[2]) if answer[0] == 1 else None

    def entries(self, cursor: str, count: int) -> list[Entry]:
        """What stands behind a cursor."""
        events = self.names.events
        return self._on(lambda: self.client.xrange(events, min=f"({cursor}", count=count))  # type: ignore[no-any-return]

    def entry(self, entry_id: str) -> dict[str, str] | None:
        """One entry; None when it was trimmed."""
        found: Any = self._on(lambda: self.client.xrange(self.names.events, min=entry_id, max=entry_id))
        return found[0][1] if found else None

    def renew(self, token: str, *, lease_ms: int) -> bool:
        """Whether the turn is still ours; its lease begins anew."""
        return bool(run(self.client, "amqp_turn", self._keys(), ["done", token, lease_ms, "", 0, ""])[0])

    def done(self, token: str, cursor: str, told: int, *, lease_ms: int, dead: bool = False) -> bool:
        """Everything up to this entry was confirmed; False when the turn was lost, and then nothing is written."""
        args = ["done", token, lease_ms, cursor, told, "dead" if dead else ""]
        return bool(run(self.client, "amqp_turn", self._keys(), args)[0])

    def release(self, token: str) -> None:
        """Give the turn to another process."""
        run(self.client, "amqp_turn", self._keys(), ["release", token])

    # Late ones

    def put_late(self, late: Sequence[tuple[Late, int]]) -> list[Late]:
        """Have messages tried again in so many ms; answers those for which there is no room."""
        if not late:
            return []
        now = self._now()
        with mapped():
            room = max(0, LATE_MAX - int(self.client.zcard(self._late)))
            with self.client.pipeline(transaction=True) as pipe:
                for one, delay_ms in late[:room]:
                    pipe.zadd(self._late, {one.member(): now + delay_ms})
                    pipe.hset(self._tries, one.member(), f"{one.tries} {one.since_ms}")
                pipe.execute()
        return [one for one, _ in late[room:]]

    def late(self, count: int) -> list[Late]:
        """Those that are due again."""
        with mapped():
            due: Any = self.client.zrangebyscore(self._late, "-inf", self._now(), start=0, num=count)
            tries: Any = self.client.hmget(self._tries, due) if due else []
        return [_late(member, text or "0 0") for member, text in zip(due, tries, strict=True)]

    def drop_late(self, late: Sequence[Late]) -> None:
        """They were taken, or given up."""
        if late:
            members = [one.member() for one in late]
            with mapped(), self.client.pipeline(transaction=True) as pipe:
                pipe.zrem(self._late, *members)
                pipe.hdel(self._tries, *members)
                pipe.execute()

    def any_late(self, entry_id: str, kinds: Sequence[str]) -> bool:
        """Whether one of these messages of an entry waits for another try."""
        with mapped():
            found: Any = self.client.zmscore(self._late, [json.dumps([entry_id, kind]) for kind in kinds])
        return any(score is not None for score in found)

    # Bounds

    def lag(self) -> Lag:
        """How far AMQP is behind; nothing where nobody relays."""
        return self._on(self._lag) if self.relayed else Lag(0, 0.0)

    def _lag(self) -> Lag:
        with mapped():
            known: Any = self.client.hmget(self.names.key("meta"), "cursor", "relayed")
        cursor, relayed = known
        waiting = self.entries(cursor or "0-0", 1)
        if not waiting:
            return Lag(0, 0.0)
        with mapped():
            info: Any = self.client.xinfo_stream(self.names.events)
            seconds, micros = self.client.time()  # ids of entries are made by this clock
        entries = int(info["entries-added"]) - int(relayed or 0)
        return Lag(max(0, entries), max(0.0, seconds + micros / 1e6 - _ms(waiting[0][0]) / 1000))

    def missing(self, cursor: str) -> int:
        """Entries that somebody else took off the stream before AMQP had confirmed them: at least so many.

        Seen at the latest when everything behind the cursor is told.
        """
        added, most, relayed = self._counted(cursor)
        if relayed is None:
            return 0
        return max(0, added - relayed - most) if added >= relayed else 1  # the stream was made anew

    def count_right(self, cursor: str) -> None:
        """Mend what `lag` counts from, by walking the stream: it may be older than the count, or was deleted."""
        added, most, relayed = self._counted(cursor)
        if relayed is not None and 0 <= added - relayed <= most:
            return
        behind, at = 0, cursor
        while page := self.entries(at, PAGE):
            behind, at = behind + len(page), page[-1][0]
        with mapped():
            self.client.hset(self.names.key("meta"), "relayed", str(added - behind))

    def _counted(self, cursor: str) -> tuple[int, int, int | None]:
        """Entries that the stream has ever held, those behind the cursor at most, and how many were told (or None)."""
        with mapped():
            relayed: Any = self.client.hget(self.names.key("meta"), "relayed")
            info: Any = {"entries-added": 0, "length": 0, "last-entry": None}
            if self.client.type(self.names.events) == "stream":  # what is none is set aside by who writes next
                info = self.client.xinfo_stream(self.names.events)
        newest = info["last-entry"]
        behind = int(info["length"]) if newest and _key(newest[0]) > _key(cursor) else 0
        return int(info["entries-added"]), behind, None if relayed is None else int(relayed)

    def trim(self, bounds: Bounds) -> int:
        """Keep the stream inside its bounds; answers how many unconfirmed entries its bytes must lose."""
        return int(self._on(lambda: self._trim(bounds)))

    def _trim(self, bounds: Bounds) -> int:
        stream = self.names.events
        with mapped():
            used = int(self.client.memory_usage(stream, samples=20) or 0)
            length = int(self.client.xlen(stream))
            if not length:
                return 0
            behind = self.lag().entries
            cursor = self.client.hget(self.names.key("meta"), "cursor") or "0-0" if self.relayed else None
            oldest = f"{max(0, self._now() - bounds.age_ms)}-0"
            if cursor is not None and _key(str(cursor)) < _key(oldest):
                oldest = str(cursor)
            self.client.xtrim(stream, minid=oldest, approximate=True)
            kept = min(bounds.count, int(length * bounds.bytes / used * 0.9) if used > bounds.bytes else length)
            if kept < length:  # else what came since the length was read would push out as much
                self.client.xtrim(stream, maxlen=max(kept, behind), approximate=True)
        return max(0, behind - kept) if used > bounds.bytes else 0

    def oldest_unconfirmed(self, count: int) -> list[Entry]:
        """What the bytes' bound would lose first."""
        with mapped():
            cursor = self.client.hget(self.names.key("meta"), "cursor") or "0-0"
        return self.entries(str(cursor), count)

    def _on(self, call: Callable[[], Any]) -> Any:
        return on_streams(self.client, self.names.prefix, [self.names.events], call)

    def _keys(self) -> list[str]:
        return [self.names.prefix, self.names.events, self.names.dead]

    @property
    def _late(self) -> str:
        return self.names.key("late")

    @property
    def _tries(self) -> str:
        return self.names.key("late_tries")


def _late(member: str, text: str) -> Late:
    entry_id, kind = json.loads(member)
    tries, since_ms = text.split()
    return Late(entry_id, kind, int(since_ms), int(tries))


def _ms(entry_id: str) -> int:
    return int(entry_id.split("-", maxsplit=1)[0])


def _key(entry_id: str) -> tuple[int, int]:
    at, _, number = entry_id.partition("-")
    return int(at), int(number or 0)


def _document(entry: Mapping[str, str]) -> dict[str, Any] | None:
    """An event's document; None for what somebody else has written into the stream."""
    try:
        event = json.loads(entry["data"])
    except (KeyError, ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("data"), dict) else None
