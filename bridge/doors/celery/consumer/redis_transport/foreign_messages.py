"""Messages that nobody can read: set aside in one step, and handed to the dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject

from bridge.doors.celery.consumer.redis_transport import scripts
from bridge.doors.celery.consumer.redis_transport.outages import (
    UNREADABLE,
    Away,
    PatientChannel,
    ResponseError,
    broken,
)
from bridge.doors.celery.consumer.refuse import NotKept, of_envelope
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.doors.celery.consumer.refuse import Refusals

#: The newest so many wait.
UNREADABLE_MAX = 1_000


class KeepingChannel(PatientChannel):
    """Keeps what it cannot read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As kombu's."""
        #: Items that are no messages, and could not be kept yet: they are in no list of Redis any more.
        self._unkept: list[bytes] = []
        super().__init__(*args, **kwargs)

    def set_aside(self, item: bytes = b"", tag: Any = "") -> None:
        """To the list of those that cannot be read, in one step; without an item the one noted by the tag."""
        with self.conn_or_acquire() as client:
            scripts.set_aside(client, self.noted_in, item, tag, UNREADABLE_MAX)

    def keep_unkept(self) -> None:
        """Try again to keep them."""
        while self._unkept:
            try:
                self.set_aside(self._unkept[-1])
            except Away:
                return
            self._unkept.pop()
            self.told_unreadable(1)

    def told_unreadable(self, count: int) -> None:
        """Say so, and have them buried."""
        tell("message.unreadable", count=count, kept_in=self.named(UNREADABLE))
        self.bury()

    def bury(self) -> None:
        """Have the dead letters take what could not be read."""
        refusals: Refusals | None = getattr(self.connection.client, "refusals", None)
        if refusals is not None:
            refusals.soon(lambda: self._bury(refusals))

    def _bury(self, refusals: Refusals) -> None:
        """One after the other; it leaves the list once its letter is written. In a thread of its own."""
        key, client = self.named(UNREADABLE), self.own_client
        left = False
        try:
            for _ in range(client.llen(key)):
                if (item := client.execute_command("LINDEX", key, -1)) is None:
                    break
                try:
                    refusals.keep(of_envelope(bytes(item), UNREADABLE))
                except NotKept:  # behind the others
                    left = True
                    client.execute_command("RPOPLPUSH", key, key)
                else:
                    client.execute_command("LREM", key, -1, item)
            if left:
                refusals.later(lambda: self._bury(refusals))
        except broken((ResponseError, *self.connection_errors, Reject)):  # the next worker that starts does it
            return

    @property
    def noted_in(self) -> list[str]:
        """Index, hash and list of what is unacked or unreadable."""
        return [self.named(key) for key in (self.unacked_index_key, self.unacked_key, UNREADABLE)]
