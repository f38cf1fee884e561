"""The ledger: records in Redis, changed by compare-and-set.

A change is made in Python from what was read (`job.table`), and written by one script that refuses it when
somebody else was faster; then it is made anew from what is there now. So the state table lives in one place,
and no script knows it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bridge.errors import BridgeError, LedgerError, LedgerFault, SchemaTooNew
from bridge.job.change import PRIORITY_BAND_MS, RUN_RETENTION_MS, Change, Rules, Stray, submit_score
from bridge.job.document import Held
from bridge.job.record import Long, altered, from_row
from bridge.job.transitions import Table
from bridge.job.words import SUBMITS, Phase, Step
from bridge.ledger.arguments import Arguments
from bridge.ledger.aside import on_streams, take_asides
from bridge.ledger.clock import SAME_CLOCK_MS, STEP_MS, LedgerClock
from bridge.ledger.dead import DeadLetters
from bridge.ledger.outbox import Outbox
from bridge.ledger.runs import Runs
from bridge.ledger.scripts import run, run_many
from bridge.outage import mapped
from bridge.telemetry import tell

if TYPE_CHECKING:
    import redis

    from bridge.ledger.disk import Disk
    from bridge.ledger.keys import Names

#: The version of the records' form: raised by whatever the version before would not understand (`claim_schema`).
SCHEMA = 1
#: How often a change is made anew before somebody must look (each try means that another process was faster).
TRIES = 50
FAULTS_MAX = 10_000
DOUBTFUL_AT_ONCE = 500
WISH_KEPT_MS = 24 * 3_600_000
#: Bounds of a reply stream, as `_prelude.lua` has them; and how long an id that a door has made outlives its message.
REPLIES_MAX, REPLIES_KEPT_S, MADE_KEPT_S = 100_000, 604_800, 3_600
#: Long values that most changes tell or need; inputs and canvases are fetched by those who use them.
COMMON = (
    Long.METADATA, Long.TRACE, Long.REPLY, Long.WISHED, Long.JOBS, Long.PROGRESS, Long.ERROR, Long.ARGUMENTS,
    Long.EVIDENCE, Long.OUTPUT_REF,
)  # fmt: skip
ALL = tuple(Long)

Make = Callable[[Held, int], Change]
#: Makes the first change of a request, from the time and a cancel that came before it.
Build = Callable[[int, Mapping[str, Any] | None], Change]
_INDEX = re.compile(r'\{"index":(\d+)')


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a request at the door: `created`, `exists` (with the record) or `remembered` (its tombstone)."""

    kind: str
    held: Held | None = None
    tombstone: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """Leased records, and the token that holds them."""

    token: str
    step: Step
    records: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Beat:
    """What an engine hears once a second.

    Live engines; since when (ledger ms) ACCEPTED records are in doubt, 0 for not; and how many changes the ledger had
    lost, where this beat found it out.
    """

    engines: int
    doubt: int
    lost: int


@dataclass(frozen=True, slots=True)
class Due:
    """How much of one step an endpoint has to do."""

    endpoint: str
    step: Step
    ready: int
    wait_ms: int


class Ledger:
    """Every method is one script, or one read. All may be repeated (I15).

    All raise LedgerUnavailable, and LedgerFault (`bridge.outage`).
    """

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        rules: Rules,
        *,
        wishes_max: int = 100_000,
        dead_max: int = 10_000,
        dead_originals: bool = True,
        relayed: bool = False,
    ) -> None:
        """The client is shared by threads; nothing is sent before the first call."""
        self.client = client
        self.names = names
        self.rules = rules
        self.table = Table(rules)
        self.clock = LedgerClock()
        self._arguments = Arguments(names, rules, self.clock)
        #: Set where BRIDGE_LEDGER_FSYNC=wait.
        self.disk: Disk | None = None
        #: Live engines, as the last beat told.
        self.live_engines = 1
        self._changes = 0
        self._wishes_max = wishes_max
        self.runs = Runs(client, names)
        self.outbox = Outbox(client, names, relayed=relayed)
        self.dead = DeadLetters(client, names, dead_max, dead_originals)

    def now(self) -> int:
        """Ledger time in milliseconds."""
        return self.clock.now()

    # Reading

    def load(self, request_id: str, *, wanted: Sequence[Long] = COMMON, output: bool = False) -> Held | None:
        """A record with its long values, None when there is none."""
        with mapped(), self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.names.row(request_id))
            pipe.hmget(self.names.long(request_id), wanted)
            if output:
                pipe.get(self.names.output(request_id))
            answers = pipe.execute()
        if not answers[0]:
            return None
        return self._held(request_id, answers[0], wanted, answers[1], answers[2] if output else None)

    def load_many(
        self, request_ids: Sequence[str], *, wanted: Sequence[Long] = COMMON, output: bool = False
    ) -> dict[str, Held]:
        """Records by id, in one round trip; those that are gone are missing."""
        ids = list(dict.fromkeys(request_ids))
        if not ids:
            return {}
        with mapped(), self.client.pipeline(transaction=False) as pipe:
            for request_id in ids:
                pipe.hgetall(self.names.row(request_id))
                pipe.hmget(self.names.long(request_id), wanted)
            if output:
                pipe.mget([self.names.output(request_id) for request_id in ids])
            answers = pipe.execute()
        outputs = answers.pop() if output else [None] * len(ids)
        rows = zip(ids, answers[::2], answers[1::2], outputs, strict=True)
        return {
            request_id: self._held(request_id, row, wanted, long, kept) for request_id, row, long, kept in rows if row
        }

    def tombstone(self, request_id: str) -> dict[str, Any] | None:
        """What is remembered of a request whose record is gone."""
        with mapped():
            text = self.client.get(self.names.tombstone(request_id))
        return json.loads(text) if text else None

    def knows(self, request_id: str) -> bool:
        """Whether the id is a request's, also one whose record is gone."""
        with mapped():
            return bool(self.client.exists(self.names.row(request_id), self.names.tombstone(request_id)))

    def phases(self, request_ids: Sequence[str]) -> list[Phase | None]:
        """Only the phases, in one round trip."""
        with mapped(), self.client.pipeline(transaction=False) as pipe:
            for request_id in request_ids:
                pipe.hget(self.names.row(request_id), "ph")
            return [Phase(text) if text else None for text in pipe.execute()]

    @staticmethod
    def _held(
        request_id: str, row: Any, wanted: Sequence[Long], values: Sequence[str | None], output: str | None = None
    ) -> Held:
        if not isinstance(row, dict):
            row = dict(zip(row[::2], row[1::2], strict=True))
        row.pop("tk", None)
        try:
            record = from_row(request_id, row)
        except ValueError as error:
            raise LedgerError(str(error)) from None
        return Held(
            record, {name: value for name, value in zip(wanted, values, strict=True) if value is not None}, output
        )

    # Changing

    def accept(self, request_id: str, build: Build) -> Accepted:
        """Write a new record, unless its id is known (I2). `build` gets the time and a cancel that came first."""
        wish: Mapping[str, Any] | None = None
        for _ in range(TRIES):
            change = build(self.now(), wish)
            args = self._arguments.accept(change, consumes=wish is not None)
            answer = run_many(self.client, "accept", self._keys(), [args], self.disk)[0]
            self.clock.heard(answer[1])
            accepted = self._accepted(request_id, change, answer)
            if accepted is not None:
                return accepted
            wish = json.loads(answer[2])
        fault = f"accept of {request_id} met a new wish each time"
        raise LedgerError(fault)

    def accept_many(self, many: Sequence[tuple[str, Build]]) -> list[Accepted]:
        """`accept` of several requests in one round trip, in their order; the same id twice is found by the second."""
        now = self.now()
        changes = [build(now, None) for _, build in many]
        answers = run_many(
            self.client,
            "accept",
            self._keys(),
            [self._arguments.accept(change, consumes=False) for change in changes],
            self.disk,
        )
        found = []
        for (request_id, build), change, answer in zip(many, changes, answers, strict=True):
            self.clock.heard(answer[1])
            accepted = self._accepted(request_id, change, answer)
            found.append(accepted or self.accept(request_id, build))  # a cancel came first: made anew, born ended
        return found

    def _accepted(self, request_id: str, change: Change, answer: Any) -> Accepted | None:
        match answer[0]:
            case 1:
                self._counted(answer[2])
                return Accepted("created", replace(change.after, record=altered(change.record, version=1)))
            case 0:
                return Accepted("exists", self._held(request_id, answer[2], (), ()))
            case 2:
                return Accepted("remembered", tombstone=json.loads(answer[2]))
            case _:
                return None

    def change(self, held: Held, make: Make) -> Change:
        """Make a change from what is known, write it, and make it anew while others are faster.

        Returns the change that stands; `empty` when there was nothing to write. A record that is gone is left alone;
        one that cannot be written is set aside and comes back as it was, with the verdict `fault`.
        """
        return self.change_many([(held, make)])[0]

    def change_many(self, changes: Sequence[tuple[Held, Make]], *, durable: bool = False) -> list[Change]:
        """Several changes of different records in one round trip; those that came too late are made anew one by one.

        `durable`: they are on the ledger's disk when this returns, where BRIDGE_LEDGER_FSYNC says so.
        """
        self.table.clock_offset = self.clock.offset
        now = self.now()
        made = [make(held, now) for held, make in changes]
        tokens = [secrets.token_hex(6) for _ in made]
        todo = [i for i, change in enumerate(made) if not change.empty]
        if not todo:
            return made
        disk = self.disk if durable else None
        todo_args = [self._arguments.commit(made[i], tokens[i]) for i in todo]
        try:
            answers = run_many(self.client, "commit", self._keys(), todo_args, disk)
        except LedgerFault:  # one of them cannot be written: each alone, and none twice, for the tokens are the same
            answers = [None] * len(todo)
        for i, args, answer in zip(todo, todo_args, answers, strict=True):
            made[i] = self._settled_apart(made[i], args, answer, changes[i][1], disk)
        return made

    def _settled_apart(self, change: Change, args: Sequence[Any], answer: Any, make: Make, disk: Disk | None) -> Change:
        """A change that cannot be written is set aside, with its record; the others go on (docs, "Outage or fault")."""
        try:
            if answer is None:
                answer = run_many(self.client, "commit", self._keys(), [args], disk)[0]
            return self._settled(change, answer, make, disk)
        except LedgerFault as error:
            record = change.record
            tell("record.failed", request_id=record.id, endpoint=record.endpoint, error=str(error))
            self.isolate(record.id, str(error))
            assert change.before is not None  # noqa: S101  (only accept makes a record)
            return replace(change, verdict="fault", after=change.before, tellings=())

    def _settled(self, change: Change, answer: Any, make: Make, disk: Disk | None = None) -> Change:
        wanted: tuple[Long, ...] = tuple(set(COMMON) | set(change.after.long))
        request_id = change.record.id
        for _ in range(TRIES):
            self.clock.heard(answer[1])
            if answer[0] == 1:
                self._counted(answer[3])
                after = replace(change.after, record=altered(change.record, version=answer[2]))
                return replace(change, after=after)
            fresh = (
                self.load(request_id, wanted=wanted, output=change.after.output is not None) if answer[0] == 0 else None
            )
            if fresh is None:  # pruned meanwhile: nobody is waiting any more
                assert change.before is not None  # noqa: S101  (only accept makes a record)
                return replace(change, verdict="unknown", after=change.before, tellings=())
            change = make(fresh, self.now())
            if change.empty:
                return change
            args = self._arguments.commit(change, secrets.token_hex(6))
            answer = run_many(self.client, "commit", self._keys(), [args], disk)[0]
        fault = f"record {request_id} changed {TRIES} times while one change was made"
        raise LedgerError(fault)

    # Leases

    def claim(
        self,
        step: Step,
        wanted: Mapping[str, int],
        *,
        lease_ms: int,
        long: Sequence[Long] = COMMON,
        shares: Mapping[str, Any] | None = None,
    ) -> Claimed:
        """Lease due records: at most so many of each endpoint.

        `shares` are the caps and weights of submits: `{"endpoints": {name: cap}, "tenants": {name: {weight, cap}}}`.
        """
        token = secrets.token_hex(8)
        pairs: list[Any] = [part for endpoint, count in wanted.items() if count > 0 for part in (endpoint, count)]
        if not pairs:
            return Claimed(token, step, ())
        args = [token, step.value, lease_ms, json.dumps(shares) if shares else "", self._changes]
        args += [len(long), *long, *pairs]
        answer = run(self.client, "claim", [self.names.prefix], args)
        self.clock.heard(answer[0])
        return Claimed(token, step, self._read(answer[1:], long))

    def _read(self, flat: Sequence[Any], long: Sequence[Long]) -> list[Held]:
        found = []
        for i in range(0, len(flat), 3):
            try:
                found.append(self._held(flat[i], flat[i + 1], long, flat[i + 2]))
            except BridgeError as error:
                self.isolate(flat[i], str(error))
        return found

    def unreadable(self, limit: int = 100) -> dict[str, str]:
        """Records that cannot be worked on, and why: somebody has edited them, or a newer version wrote them."""
        with mapped():
            answer: Any = self.client.hscan(self.names.key("unreadable"), count=limit)
        return dict(list(answer[1].items())[:limit])

    def isolate(self, request_id: str, fault: str) -> None:
        """A row that cannot be read stops nobody: its lease runs out, and from the tenth time on it is parked."""
        self.fault_noted(request_id, fault)
        with mapped():
            self.client.zadd(self.names.key("timer"), {request_id: self.now() + 3_600_000}, xx=True)

    def fault_noted(self, request_id: str, fault: str) -> None:
        """Why a record could not be worked on, for whoever looks (`parked`); the last 10,000 of a week."""
        key = self.names.key("unreadable")
        with mapped():
            if int(self.client.hlen(key)) < FAULTS_MAX or self.client.hexists(key, request_id):
                self.client.hset(key, request_id, fault[:500])
                self.client.expire(key, 7 * 24 * 3600)

    def give_back(self, claimed: Claimed, unused: Iterable[Held]) -> int:
        """Return leases that were not used; a lease that is no longer ours is left alone."""
        args: list[Any] = [claimed.token, claimed.step.value]
        now = self.now()
        for held in unused:
            record = held.record
            args += (record.endpoint, record.id, submit_score(record) if claimed.step in SUBMITS else now)
        return int(run(self.client, "give_back", [self.names.prefix], args)) if len(args) > 2 else 0  # noqa: PLR2004

    def due(self, *steps: Step) -> list[Due]:
        """What is to be done, per endpoint; nothing is taken."""
        answer = run(self.client, "due", [self.names.prefix], [step.value for step in steps])
        self.clock.heard(answer[0])
        return [Due(answer[i], Step(answer[i + 1]), answer[i + 2], answer[i + 3]) for i in range(1, len(answer), 4)]

    def timers(self, limit: int = 200) -> tuple[list[Held], int]:
        """Records one of whose clocks has run out, and how many ms until the next one (-1: none runs)."""
        wanted = (*COMMON, Long.INPUT)
        answer = run(self.client, "timers", [self.names.prefix], [limit, len(wanted), *wanted])
        self.clock.heard(answer[0])  # what has run out there has run out here
        return self._read(answer[2:], wanted), int(answer[1])

    # Wishes, strays, engines

    def wish(self, request_id: str, wish: Mapping[str, Any]) -> str:
        """Keep a cancel for a request that is not known yet: `kept`, `known` or `ended`."""
        args = [request_id, json.dumps(wish), WISH_KEPT_MS, self._wishes_max]
        return ("known", "kept", "ended")[int(run(self.client, "wish", [self.names.prefix], args))]

    def strays(self, limit: int = 20, *, lease_ms: int = 60_000) -> list[Stray]:
        """Jobs that no longer count and may still run."""
        answer = run(self.client, "stray", [self.names.prefix], [limit, lease_ms])
        return [Stray(*json.loads(member)) for member in answer[1:]]

    def streams(self, wanted: Mapping[str, int], *, lease_ms: int) -> Claimed:
        """Records whose stream is to be read now, at most so many of each endpoint; the token is their reader."""
        token = secrets.token_hex(8)
        pairs: list[Any] = [part for endpoint, count in wanted.items() if count > 0 for part in (endpoint, count)]
        if not pairs:
            return Claimed(token, Step.STREAM, ())
        answer = run(self.client, "stream", [self.names.prefix], [token, lease_ms, len(COMMON), *COMMON, *pairs])
        self.clock.heard(answer[0])
        return Claimed(token, Step.STREAM, self._read(answer[1:], COMMON))

    def chunks(self, request_id: str, start: int = 0, last: int = -1) -> list[dict[str, Any]]:
        """Recorded chunks from an index on, to `last` and with it (-1: all): `{index, output, metrics?}`.

        A chunk that was repaired comes as it was repaired.
        """
        low, stream = f"{start + 1}-0" if start else "-", self.names.chunks(request_id)
        found: Any = self._on(stream, lambda: self.client.xrange(stream, min=low))
        newest: dict[int, str] = {}
        for _, entry in found:
            index = _INDEX.match(entry.get("data", ""))
            if index and int(index[1]) >= start and (last < 0 or int(index[1]) <= last):
                newest[int(index[1])] = entry["data"]
        return [json.loads(newest[index]) for index in sorted(newest)]

    def stray_seen(self, stray: Stray, *, again_ms: int | None, paid_twice_ms: int = 0) -> None:
        """Look at a stray again, or (None) forget it, and book what it cost, once."""
        again = "" if again_ms is None else again_ms
        args = [stray.as_json(), stray.endpoint, stray.request_id, again, paid_twice_ms]
        run(self.client, "stray_seen", [self.names.prefix], args)

    def beat(self, engine: str, *, silent_ms: int = 15_000) -> Beat:
        """Say that an engine lives; follows a step of the server's clock, and finds a ledger that was rolled back."""
        had, asked_at = self._changes, self.clock.seconds()
        answer = run(self.client, "beat", [self.names.prefix], [engine, silent_ms, 0, 0, had])
        self.live_engines = int(answer[2])
        if self.clock.seconds() - asked_at > SAME_CLOCK_MS / 1000:  # an answer that was long on its way tells no time
            self._counted(answer[3])
            return Beat(engines=int(answer[2]), doubt=int(answer[4]), lost=int(answer[5]))
        step = self.clock.step_ms(answer[0])
        if abs(step) > STEP_MS:
            answer = run(self.client, "beat", [self.names.prefix], [engine, silent_ms, -step, answer[1], had])
        self.clock.correct(answer[0], answer[1])
        self._counted(answer[3])
        return Beat(engines=int(answer[2]), doubt=int(answer[4]), lost=int(answer[5]))

    def _counted(self, changes: int) -> None:
        """How many changes the ledger has seen: one that comes back with less has lost writes (HARDENING 19)."""
        self._changes = max(self._changes, int(changes))

    def doubtful(self, doubt: int) -> list[Held]:
        """Records that say "never sent" and date from before the ledger lost writes; and nobody submits meanwhile."""
        wanted: list[str] = []
        with mapped():
            for endpoint in self.endpoints():
                for step in SUBMITS:
                    wanted += self.client.zrange(self.names.due(endpoint, step.value), 0, -1)  # type: ignore[arg-type]
                wanted += self.client.zrange(self.names.key(f"leased:{endpoint}"), 0, -1)  # type: ignore[arg-type]
        found: list[Held] = []
        for start in range(0, len(wanted), DOUBTFUL_AT_ONCE):
            found += self.load_many(wanted[start : start + DOUBTFUL_AT_ONCE]).values()
        return [held for held in found if held.record.phase is Phase.ACCEPTED and 0 < held.record.accepted_at <= doubt]

    def doubt_over(self, doubt: int) -> None:
        """None of them is left: submits may leave again."""
        with mapped():
            if self.client.hget(self.names.key("meta"), "doubt") == str(doubt):
                self.client.hdel(self.names.key("meta"), "doubt")

    def rolled_back(self) -> int:
        """How often this ledger has come back without its latest writes."""
        with mapped():
            return int(self.client.hget(self.names.key("meta"), "rollbacks") or 0)

    def engines(self, *, silent_ms: int = 15_000) -> int:
        """How many engines have been heard of lately."""
        with mapped():
            return int(self.client.zcount(self.names.key("engines"), self.now() - silent_ms, "+inf"))

    def endpoints(self) -> list[str]:
        """Names that have ever had a record."""
        with mapped():
            return sorted(self.client.smembers(self.names.key("endpoints")))  # type: ignore[arg-type]

    def counts(self, endpoint: str) -> dict[str, int]:
        """Records per phase, and the endpoint's sums."""
        with mapped():
            found: Any = self.client.hgetall(self.names.count(endpoint))
        return {name: int(value) for name, value in found.items()}

    def wake(self) -> None:
        """Tell sleeping engines of other processes that there is work."""
        with mapped():
            self.client.publish(self.names.wake, "1")

    def listen(self) -> Any:
        """A subscription to other processes' wakes; the caller closes it."""
        with mapped():
            listener = self.client.pubsub()
            listener.subscribe(self.names.wake)
            return listener

    def claim_schema(self, version: str) -> None:
        """Say that this version of the bridge works here. Raises SchemaTooNew where it must not.

        The ledger holds the least schema that may. Ours works on the records of the one before and beside its
        processes, and back; so it shuts out, at their start, those that are older than that.
        """
        least, by = run(self.client, "schema", [self.names.prefix], [SCHEMA, version])
        if least > SCHEMA:
            fault = (
                f"the ledger {self.names.prefix} needs schema {least} or newer, since {by or 'a newer version'} has "
                f"worked on it; this is {version}, with schema {SCHEMA}: start {by or 'a newer version'} or newer"
            )
            raise SchemaTooNew(fault)

    def _keys(self) -> list[str]:
        return [self.names.prefix, self.names.events]

    # Blobs

    def blob_noted(self, request_id: str, url: str, *, in_ms: int) -> None:
        """An output stands, or is about to stand, in the object store: look in so many ms whether it may go."""
        with mapped():
            self.client.zadd(self.names.key("blobs"), {json.dumps([request_id, url]): self.now() + in_ms})

    def blobs_due(self, limit: int, *, again_ms: int) -> list[tuple[str, str]]:
        """Requests and URLs to look at now; each comes again unless it is forgotten."""
        key, now = self.names.key("blobs"), self.now()
        with mapped():
            found: Any = self.client.zrangebyscore(key, "-inf", now, start=0, num=limit)
            if found:
                self.client.zadd(key, dict.fromkeys(found, now + again_ms), xx=True)
        return [tuple(json.loads(member)) for member in found]

    def blob_forgotten(self, request_id: str, url: str) -> None:
        """It is gone from the store."""
        with mapped():
            self.client.zrem(self.names.key("blobs"), json.dumps([request_id, url]))

    def dead_letter(self, reason: str, *, door: str, body: str | bytes, **about: Any) -> str:
        """Keep what could not be taken or told (I12): see `DeadLetters.keep`."""
        return self.dead.keep(reason, door=door, body=body, **about)

    def tell_event(self, body: str, key: str) -> None:
        """An event that no record has: the refusal of a message at a door."""
        self._on(self.names.events, lambda: self.client.xadd(self.names.events, {"data": body, "key": key}))

    def send(self, stream: str, data: bytes, fields: Mapping[str, str]) -> None:
        """Put a message into one of the streams that services write to, as they do."""
        if stream not in {self.names.requests, self.names.commands}:
            fault = f"{stream} is no stream of requests or commands"
            raise LedgerError(fault)
        entry: dict[Any, Any] = {**fields, "data": data}
        self._on(stream, lambda: self.client.xadd(stream, entry))

    def reply(self, answers: Sequence[tuple[str, str]]) -> None:
        """Write documents to reply streams: (reply_to, body). Bounded like those that the scripts write (I16)."""
        for name, body in answers:
            run(self.client, "reply", [self.names.prefix, self.names.reply(name)], [body, REPLIES_MAX, REPLIES_KEPT_S])

    def asides(self) -> dict[str, str]:
        """Public keys that were set aside since somebody asked, and why (`lua/_prelude.lua`)."""
        return take_asides(self.client, self.names.key("asides"))

    def _on(self, stream: str, call: Callable[[], Any]) -> Any:
        return on_streams(self.client, self.names.prefix, [stream], call)

    def made_ids(self, wanted: Sequence[tuple[str, str, bool]]) -> list[str]:
        """Ids for requests that name none: (digest of the message, a fresh id, delivered before) of each.

        A message that comes again gets the id that was made for it the first time, because a second id would be a
        second job. The ids are kept for an hour, or until `forget_made_ids`.
        """
        with mapped(), self.client.pipeline(transaction=True) as pipe:
            for digest, _, again in wanted:
                key = self.names.key(f"made:{digest}")
                if again:
                    pipe.lmove(key, key, "LEFT", "RIGHT")
                else:
                    pipe.ping()
            known = pipe.execute()
        made = [old if again and old else fresh for (_, fresh, again), old in zip(wanted, known, strict=True)]
        with mapped(), self.client.pipeline(transaction=False) as pipe:
            for (digest, fresh, _), id_ in zip(wanted, made, strict=True):
                if id_ == fresh:
                    key = self.names.key(f"made:{digest}")
                    pipe.rpush(key, fresh)
                    pipe.expire(key, MADE_KEPT_S)
            pipe.execute()
        return made

    def forget_made_ids(self, made: Sequence[tuple[str, str]]) -> None:
        """Their messages will not come again: (digest, id) of each."""
        with mapped(), self.client.pipeline(transaction=False) as pipe:
            for digest, id_ in made:
                pipe.lrem(self.names.key(f"made:{digest}"), 1, id_)
            pipe.execute()

    def newest_event(self) -> str:
        """The newest entry's id: who reads behind it misses nothing that is told from now on."""
        newest: Any = self._on(self.names.events, lambda: self.client.xrevrange(self.names.events, count=1))
        return str(newest[0][0]) if newest else "0"

    def read_events(self, after: str, *, count: int) -> list[tuple[str, dict[str, Any]]]:
        """Events behind an entry (`-` for the oldest, `(<id>` for what follows it), each with its entry id."""
        events = self.names.events
        found: Any = self._on(events, lambda: self.client.xrange(events, min=after, count=count))
        read = ((entry_id, _document(entry)) for entry_id, entry in found)
        return [(entry_id, event) for entry_id, event in read if event is not None]

    def lags(self) -> dict[str, float]:
        """How late things are, in seconds, over all endpoints: `oldest`, `poll`, `finish`, `outbox`, `expiry`."""
        now = self.now()
        found = {
            "oldest": 0.0,
            Step.POLL.value: 0.0,
            Step.FINISH.value: 0.0,
            "outbox": 0.0,
            "expiry": RUN_RETENTION_MS / 1000,
        }
        with mapped():
            for endpoint in self.endpoints():
                for step in (Step.POLL, Step.FINISH, Step.SUBMIT):
                    first: Any = self.client.zrange(self.names.due(endpoint, step.value), 0, 0, withscores=True)
                    if not first:
                        continue
                    score = float(first[0][1])
                    name = "oldest" if step is Step.SUBMIT else step.value
                    at = score % PRIORITY_BAND_MS if step is Step.SUBMIT else score
                    found[name] = max(found[name], (now - at) / 1000)
        found["outbox"] = self.outbox.lag().seconds
        found["expiry"] -= found[Step.POLL.value]
        return found


def _document(entry: Mapping[str, str]) -> dict[str, Any] | None:
    """An event's document; None for what somebody else has written into the stream."""
    try:
        event = json.loads(entry["data"])
    except (KeyError, ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("data"), dict) else None
