"""A public stream that services write to, read by a consumer group; an entry goes once the ledger holds it (I1).

Values come as bytes: a stranger has written them. All methods raise LedgerUnavailable.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from bridge.errors import LedgerError, LedgerFault
from bridge.ledger.keys import Names
from bridge.ledger.scripts import run
from bridge.ledger.streams.repair import on_streams
from bridge.redis.outage import mapped
from bridge.telemetry import tell

if TYPE_CHECKING:
    import redis

GROUP = "bridge"
#: Seconds between two looks whether all that stands there can be read, and entries looked at then.
LOOK_S, LOOK_MAX = 1.0, 1_000

#: One entry: its id, and its fields.
Entry = tuple[str, dict[bytes, bytes]]


@dataclass(slots=True)
class Inbox:
    """One consumer of one stream. `client` gives bytes; calls block no longer than they are told.

    `prefix` is the ledger's: what stands in the stream's place is set aside there.
    """

    client: redis.Redis
    stream: str
    consumer: str
    prefix: str = Names().prefix
    _cursor: str = field(default="0-0", init=False)
    _look_at: float = field(default=0.0, init=False)
    _grouped_before: bool = field(default=False, init=False)

    def read(self, count: int, bytes_max: int, block_ms: int) -> list[Entry]:
        """New entries, at least one when there is any; few when they are large, so that a batch fits in memory."""
        if gone := int(run(self.client, "gone_unread", [self.prefix, self.stream], [GROUP, LOOK_MAX])):
            self._gone(gone)
        answer = self._asked(
            lambda: self.client.xreadgroup(
                GROUP, self.consumer, {self.stream: ">"}, count=self._fitting(count, bytes_max), block=block_ms
            )
        )
        if not answer:
            self._put_right()
        return _entries(answer[0][1]) if answer else []

    def _put_right(self) -> None:
        """Nothing new has come: look whether a stranger has made the stream, or its group, one of which nothing can."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_S
        done, at = run(self.client, "repair_inbox_group", [self.prefix, self.stream], [GROUP, LOOK_MAX])
        if done == b"back":
            tell("stream.set_back", stream=self.stream, group=GROUP, to=at.decode())
        elif done == b"lasts":
            tell("stream.expiry_taken_off", stream=self.stream)

    def _gone(self, entries: int) -> None:
        """Nothing is lost silently (I12), though what these held nobody can say."""
        tell("stream.entries_gone", stream=self.stream, entries=entries)

    def adopt(self, idle_ms: int, count: int, bytes_max: int) -> list[Entry]:
        """Entries that another consumer took so long ago that it must be dead; they are this one's now."""
        answer = self._asked(
            lambda: self.client.xautoclaim(
                self.stream,
                GROUP,
                self.consumer,
                min_idle_time=idle_ms,
                start_id=self._cursor,
                count=self._fitting(count, bytes_max),
            )
        )
        if not answer:
            return []
        self._cursor = answer[0].decode()  # 0-0 again when all have been looked at
        if answer[2]:  # taken by a consumer that is dead, and no more there
            self._gone(len(answer[2]))
        return _entries(answer[1])

    @property
    def looked_at_all(self) -> bool:
        """Whether the walk of `adopt` is at its beginning."""
        return self._cursor == "0-0"

    def done(self, entry_ids: Sequence[str]) -> None:
        """They are held elsewhere: acked and deleted, both or neither, since an ack alone leaves them there (I16)."""
        on_streams(self.client, self.prefix, [self.stream], lambda: self._done(entry_ids), read=True)

    def _done(self, entry_ids: Sequence[str]) -> None:
        with self.client.pipeline(transaction=True) as pipe:
            pipe.xack(self.stream, GROUP, *entry_ids)
            pipe.xdel(self.stream, *entry_ids)
            pipe.execute()

    def tidy(self, idle_ms: int) -> int:
        """Remove consumers of processes that are gone and left nothing behind. How many they were."""
        removed = 0
        for consumer in self._asked(lambda: self.client.xinfo_consumers(self.stream, GROUP)) or ():
            name = consumer["name"]  # bytes: a stranger's need not be UTF-8
            if name != self.consumer.encode() and not consumer["pending"] and consumer["idle"] > idle_ms:
                with mapped():
                    self.client.xgroup_delconsumer(self.stream, GROUP, name)
                removed += 1
        return removed

    def leave(self) -> None:
        """Remove this consumer, unless it still holds entries: another one adopts those."""
        for consumer in self._asked(lambda: self.client.xinfo_consumers(self.stream, GROUP)) or ():
            if consumer["name"] == self.consumer.encode() and not consumer["pending"]:
                with mapped():
                    self.client.xgroup_delconsumer(self.stream, GROUP, self.consumer)

    def _fitting(self, count: int, bytes_max: int) -> int:
        """How many entries of the size they have there now fit."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.xlen(self.stream)
            pipe.memory_usage(self.stream, samples=10)
            length, used = pipe.execute()
        if not length or not used:
            return count
        return max(1, min(count, int(bytes_max * length // used)))

    def _asked(self, call: Any) -> Any:
        """The call's answer; None when stream or group were not there: they are, afterwards."""
        try:
            answer = on_streams(self.client, self.prefix, [self.stream], lambda: self._grouped(call), read=True)
        except _Ungrouped:
            answer = None
            made = on_streams(self.client, self.prefix, [self.stream], self._create_group, read=True)
            if made and self._grouped_before:
                tell("stream.made_anew", stream=self.stream, group=GROUP)
        self._grouped_before = True
        return answer

    def _create_group(self) -> bool:
        """Whether there was none: another process may have been first, and a failover unblocks a reader of one."""
        try:
            # From the beginning, never `$`: what was written before the bridge came counts too.
            self.client.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
            return False
        return True

    @staticmethod
    def _grouped(call: Any) -> Any:
        try:
            return call()
        except ResponseError as error:
            if str(error).startswith(("NOGROUP", "UNBLOCKED", "no such key", "ERR no such key")):
                raise _Ungrouped from error
            raise


class _Ungrouped(Exception):
    """The stream or its group is not there (yet, or any more)."""


def _entries(found: Any) -> list[Entry]:
    """Entries that were deleted after they had been handed out come without fields."""
    return [(entry_id.decode(), fields) for entry_id, fields in found if fields]


def send(client: redis.Redis, names: Names, stream: str, data: bytes, fields: Mapping[str, str]) -> None:
    """Put a message into one of the streams that services write to, as they do. Raises LedgerUnavailable."""
    if stream not in {names.requests, names.commands}:
        fault = f"{stream} is no stream of requests or commands"
        raise LedgerError(fault)
    entry: dict[Any, Any] = {**fields, "data": data}
    on_streams(client, names.prefix, [stream], lambda: client.xadd(stream, entry), read=True)


def unread(client: redis.Redis, stream: str, silent_ms: int) -> int:
    """Entries in a stream at which no consumer of the bridge's has looked for so long; 0 where one has.

    Raises LedgerUnavailable.
    """
    waiting = 0
    try:
        with mapped():
            waiting = int(client.xlen(stream))
            consumers: Any = client.xinfo_consumers(stream, GROUP) if waiting else []
    except LedgerFault:  # no stream stands there, or it has no group
        return waiting
    return 0 if any(one["idle"] < silent_ms for one in consumers) else waiting


#: The id of an entry, as something that can be compared.
EntryId = tuple[int, int]


def ends(client: redis.Redis, prefix: str, stream: str) -> tuple[EntryId, EntryId] | None:
    """The first and the last entry that wait in a stream of the doors; None for none. Raises LedgerUnavailable."""
    first, last = (_id_of(entry_id) for entry_id in run(client, "first_and_last", [prefix, stream], []))
    return (first, last) if first is not None and last is not None else None


def _id_of(entry_id: str | bytes) -> EntryId | None:
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    ms, _, n = text.partition("-")
    return (int(ms), int(n)) if text else None
