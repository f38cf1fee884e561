"""The names in Redis that users of the plain JSON contract touch, and the one more that the client library reads."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_NAMESPACE = "_"


@dataclass(frozen=True, slots=True)
class PublicNames:
    """The public streams of one namespace. The default one gives them their short names."""

    namespace: str = DEFAULT_NAMESPACE

    @property
    def _public(self) -> str:
        return "bridge:" if self.namespace == DEFAULT_NAMESPACE else f"bridge:{self.namespace}:"

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

    def reply(self, name: str) -> str:
        """Stream of the replies to one `reply_to` on Redis."""
        return f"{self._public}reply:{name}"

    def chunks(self, request_id: str) -> str:
        """Stream of a request's chunks: chunk n is entry `n+1`, the last entry tells the end."""
        return f"{self._public}chunks:{request_id}"

    def output(self, request_id: str) -> str:
        """A record's output, JSON text, as long as the ledger has it; the client reads what no message carries."""
        return f"bridge:{self.namespace}:o:{request_id}"
