"""Every key and stream of the ledger, spelled once for Python; the scripts spell theirs in `lua/_prelude.lua`."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.redis.public_keys import DEFAULT_NAMESPACE, PublicNames

__all__ = ["DEFAULT_NAMESPACE", "Names"]


@dataclass(frozen=True, slots=True)
class Names(PublicNames):
    """The names under one namespace, private and public."""

    @property
    def prefix(self) -> str:
        """What every private key begins with."""
        return f"bridge:{self.namespace}:"

    @property
    def wake(self) -> str:
        """Channel that tells sleeping engines of new work."""
        return self.prefix + "wake"

    def row(self, request_id: str) -> str:
        """Hash of a record's short fields."""
        return f"{self.prefix}r:{request_id}"

    def long(self, request_id: str) -> str:
        """Hash of a record's long values."""
        return f"{self.prefix}d:{request_id}"

    def tombstone(self, request_id: str) -> str:
        """What is remembered after the record."""
        return f"{self.prefix}t:{request_id}"

    def replaced(self, task_id: str) -> str:
        """Ids of the requests by which a Celery task has replaced itself."""
        return f"{self.prefix}replaced:{task_id}"

    def due(self, endpoint: str, step: str) -> str:
        """Ids by the time they are to be worked at."""
        return f"{self.prefix}due:{endpoint}:{step}"

    def count(self, endpoint: str) -> str:
        """Hash of records per phase."""
        return f"{self.prefix}count:{endpoint}"

    def gate(self, endpoint: str) -> str:
        """Hash of what holds an endpoint's calls back, and of what operators did to it."""
        return f"{self.prefix}gate:{endpoint}"

    def key(self, name: str) -> str:
        """One of the single keys: meta, engines, endpoints, timer, stray."""
        return self.prefix + name
