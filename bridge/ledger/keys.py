"""Every key and stream of the ledger, spelled once for Python; the scripts spell theirs in `lua/_prelude.lua`."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_NAMESPACE = "_"


@dataclass(frozen=True, slots=True)
class Names:
    """The names under one namespace. The default one gives the public streams their short names."""

    namespace: str = DEFAULT_NAMESPACE

    @property
    def prefix(self) -> str:
        """What every private key begins with."""
        return f"bridge:{self.namespace}:"

    @property
    def _public(self) -> str:
        return "bridge:" if self.namespace == DEFAULT_NAMESPACE else self.prefix

    @property
    def events(self) -> str:
        """Stream of every event; also the outbox (I3)."""
        return self._public + "events"

    @property
    def requests(self) -> str:
        """Stream that services write requests to."""
        return self._public + "requests"

    @property
    def commands(self) -> str:
        """Stream that services write commands to."""
        return self._public + "commands"

    @property
    def results(self) -> str:
        """Stream of ends that nobody else was named for."""
        return self._public + "results"

    @property
    def dead(self) -> str:
        """Stream of what could not be taken, with the reason."""
        return self._public + "dead"

    @property
    def wake(self) -> str:
        """Channel that tells sleeping engines of new work."""
        return self.prefix + "wake"

    def reply(self, name: str) -> str:
        """Stream of the replies to one `reply_to` on Redis."""
        return f"{self._public}reply:{name}"

    def row(self, request_id: str) -> str:
        """Hash of a record's short fields."""
        return f"{self.prefix}r:{request_id}"

    def long(self, request_id: str) -> str:
        """Hash of a record's long values."""
        return f"{self.prefix}d:{request_id}"

    def output(self, request_id: str) -> str:
        """A record's output, JSON."""
        return f"{self.prefix}o:{request_id}"

    def tombstone(self, request_id: str) -> str:
        """What is remembered after the record."""
        return f"{self.prefix}t:{request_id}"

    def due(self, endpoint: str, step: str) -> str:
        """Ids by the time they are to be worked at."""
        return f"{self.prefix}due:{endpoint}:{step}"

    def count(self, endpoint: str) -> str:
        """Hash of records per phase."""
        return f"{self.prefix}count:{endpoint}"

    def key(self, name: str) -> str:
        """One of the single keys: meta, engines, endpoints, timer, stray."""
        return self.prefix + name
