"""The engines of all processes: who lives, which version may work here, and a ledger that has lost writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.errors import SchemaTooNew
from bridge.job.enums import SUBMITS, Phase, Step
from bridge.ledger.clock import SAME_CLOCK_MS, STEP_MS
from bridge.ledger.scripts import run
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    from bridge.job.document import Held
    from bridge.ledger.records.write import Writer

#: The version of the records' form: raised by whatever the version before would not understand (`claim_schema`).
SCHEMA = 1
DOUBTFUL_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Beat:
    """What an engine hears once a second.

    Live engines; since when (ledger ms) ACCEPTED records are in doubt, 0 for not; and how many changes the ledger had
    lost, where this beat found it out.
    """

    engines: int
    doubt: int
    lost: int


class Engines:
    """What they tell each other through the ledger."""

    def __init__(self, records: Writer) -> None:
        """On the same server, by the same clock."""
        self._records = records
        self._client, self._names, self._clock = records.client, records.names, records.clock
        #: How many live, as the last beat told.
        self.live = 1

    def beat(self, engine: str, *, silent_ms: int = 15_000) -> Beat:
        """Say that an engine lives; follows a step of the server's clock, and finds a ledger that was rolled back."""
        had, asked_at = self._records.changes, self._clock.seconds()
        answer = run(self._client, "heartbeat", [self._names.prefix], [engine, silent_ms, 0, 0, had])
        self.live = int(answer[2])
        if self._clock.seconds() - asked_at <= SAME_CLOCK_MS / 1000:  # one that was long on its way tells no time
            step = self._clock.step_ms(answer[0])
            if abs(step) > STEP_MS:
                answer = run(
                    self._client, "heartbeat", [self._names.prefix], [engine, silent_ms, -step, answer[1], had]
                )
            self._clock.correct(answer[0], answer[1])
        self._records.counted(answer[3])
        return Beat(engines=int(answer[2]), doubt=int(answer[4]), lost=int(answer[5]))

    def count(self, *, silent_ms: int = 15_000) -> int:
        """How many engines have been heard of lately."""
        with mapped():
            return int(self._client.zcount(self._names.key("engines"), self._records.now() - silent_ms, "+inf"))

    def wake(self) -> None:
        """Tell sleeping engines of other processes that there is work."""
        with mapped():
            self._client.publish(self._names.wake, "1")

    def listen(self) -> Any:
        """A subscription to other processes' wakes; the caller closes it."""
        with mapped():
            listener = self._client.pubsub()
            listener.subscribe(self._names.wake)
            return listener

    def claim_schema(self, version: str) -> None:
        """Say that this version of the bridge works here. Raises SchemaTooNew where it must not.

        The ledger holds the least schema that may. Ours works on the records of the one before and beside its
        processes, and back; so it shuts out, at their start, those that are older than that.
        """
        self._may_work(version, *run(self._client, "schema", [self._names.prefix], [SCHEMA, version]))

    def check_schema(self, version: str) -> None:
        """The same for who only passes by: shuts out nobody. Raises SchemaTooNew."""
        with mapped():
            known: Any = self._client.hmget(self._names.key("meta"), ["schema", "schema_by"])
        self._may_work(version, int(known[0] or 0), known[1])

    def _may_work(self, version: str, least: int, by: str | None) -> None:
        if least > SCHEMA:
            fault = (
                f"the ledger {self._names.prefix} needs schema {least} or newer, since {by or 'a newer version'} has "
                f"worked on it; this is {version}, with schema {SCHEMA}: start {by or 'a newer version'} or newer"
            )
            raise SchemaTooNew(fault)

    def doubtful(self, doubt: int) -> list[Held]:
        """Records that say "never sent" and date from before the ledger lost writes; and nobody submits meanwhile."""
        wanted: list[str] = []
        with mapped():
            for endpoint in self._records.endpoints():
                for step in (*SUBMITS, Step.SCHEDULED):
                    wanted += self._client.zrange(self._names.due(endpoint, step.value), 0, -1)  # type: ignore[arg-type]
                wanted += self._client.zrange(self._names.key(f"leased:{endpoint}"), 0, -1)  # type: ignore[arg-type]
        found: list[Held] = []
        for start in range(0, len(wanted), DOUBTFUL_AT_ONCE):
            found += self._records.load_many(wanted[start : start + DOUBTFUL_AT_ONCE]).values()
        return [
            held
            for held in found
            if held.record.phase is Phase.ACCEPTED and 0 < max(held.record.accepted_at, held.record.not_before) <= doubt
        ]

    def doubt_over(self, doubt: int) -> None:
        """None of them is left: submits may leave again."""
        with mapped():
            if self._client.hget(self._names.key("meta"), "doubt") == str(doubt):
                self._client.hdel(self._names.key("meta"), "doubt")

    def rollbacks(self) -> int:
        """How often this ledger has come back without its latest writes."""
        with mapped():
            return int(self._client.hget(self._names.key("meta"), "rollbacks") or 0)
