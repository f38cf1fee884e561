"""A flood of bad messages, made by Hypothesis, with a good request every hundred; for both doors for plain JSON.

Shared by a bounded test and by `scripts/bench poison`. What is sent as bad is what the reading function refuses; that
the function itself is right is the business of tests/unit/doors/json/test_messages.py.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hypothesis
import pika
from hypothesis import strategies as st

from bridge.doors.parse import Kind, RefusedMessage, take
from tests.support.helpers import eventually
from tests.support.house import House, Process

GOOD_EVERY = 100
PER_EXAMPLE = 10
COPIES = 4


@dataclass(frozen=True, slots=True)
class Message:
    """One message for one door."""

    body: bytes
    kind: Kind = "requests"
    properties: dict[str, str] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)


WORDS = (
    "id",
    "input",
    "op",
    "endpoint",
    "policy",
    "timeout",
    "metadata",
    "reply_to",
    "data",
    "specversion",
    "sync",
    "x",
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
)
DOCUMENTS = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=6).map(lambda found: json.dumps(found).encode())
GOOD = json.dumps({"id": "never", "input": {"prompt": "a heron", "n": [1, 2, {"x": "é"}]}, "endpoint": "demo"}).encode()


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good request, damaged."""
    body = bytearray(GOOD)
    how = draw(st.sampled_from(["cut", "flip", "insert", "repeat", "nest", "encode"]))
    at = draw(st.integers(0, len(body) - 1))
    match how:
        case "cut":
            return bytes(body[:at])
        case "flip":
            body[at] ^= draw(st.integers(1, 255))
            return bytes(body)
        case "insert":
            return bytes(body[:at]) + draw(st.binary(min_size=1, max_size=4)) + bytes(body[at:])
        case "repeat":
            return b'{"id": "never", ' + GOOD[1:]
        case "nest":
            levels = draw(st.integers(101, 2000))
            return b'{"input": ' + b"[" * levels + b"]" * levels + b"}"
        case _:
            return GOOD.decode().encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-7", "cp500"])))


PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "content_type": st.sampled_from(["application/json", "text/xml", "application/json; charset=latin-1", "", "x"]),
        "content_encoding": st.sampled_from(["utf-8", "gzip", "latin-1"]),
        "message_id": st.text("abc -é", max_size=9),
        "correlation_id": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
        "reply_to": st.sampled_from(["bridge.run", "nobody-reads-this", "a b", "celery"]),
    },
)
HEADERS = st.dictionaries(
    st.sampled_from(["ce-specversion", "cloudEvents:id", "traceparent", "k"]),
    st.one_of(st.text(max_size=9), st.integers(-(2**31), 2**31 - 1), st.booleans(), st.binary(max_size=9)),
    max_size=2,
)
MESSAGES = st.builds(
    Message,
    st.one_of(st.binary(max_size=300), DOCUMENTS, mutations(), VALUES.map(lambda found: json.dumps(found).encode())),
    st.sampled_from(["requests", "commands"]),
    PROPERTIES,
    HEADERS,
)


def bad(count: int) -> Iterator[list[Message]]:
    """So many messages that are refused, in batches; the same ones each time.

    One in five is Hypothesis' own; the others are damaged copies, since it takes its time over each.
    """
    chance = random.Random(count)
    total = 0
    while total < count:
        batch = [copy for message in _refused(total) for copy in (message, *_damaged(message, chance))][: count - total]
        total += len(batch)
        yield batch


def _damaged(message: Message, chance: random.Random) -> Iterator[Message]:
    for _ in range(COPIES):
        body = bytearray(message.body or b"{}")
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        made = replace(message, body=bytes(body))
        if _is_refused(made):
            yield made


def _is_refused(message: Message) -> bool:
    return isinstance(take(message.body, message.headers, "amqp", message.properties, message.kind), RefusedMessage)


def _refused(seed: int) -> list[Message]:
    made: list[Message] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=20,
        database=None,
        phases=(hypothesis.Phase.generate,),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.lists(MESSAGES, min_size=PER_EXAMPLE, max_size=PER_EXAMPLE))
    def collect(found: list[Message]) -> None:
        made.extend(message for message in found if _is_refused(message))

    collect()
    return made


class Flood:
    """Sends to both doors in turn, and knows what has to become of it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._connection = pika.BlockingConnection(pika.URLParameters(house.broker))
        self._channel: Any = self._connection.channel()
        self.bad = 0
        self.good: list[str] = []

    def send(self, messages: list[Message]) -> None:
        """Half of them to each door."""
        with self._house.client.pipeline(transaction=False) as pipe:
            for message in messages:
                self._one(pipe, message)
                self.bad += 1
                if self.bad % GOOD_EVERY == 0:
                    self.good.append(f"good-{self.bad}")
                    body = json.dumps({"id": self.good[-1], "input": {"n": self.bad}}).encode()
                    self._one(pipe, Message(body), stream=self.bad // GOOD_EVERY % 2 == 0)
            pipe.execute()

    def _one(self, pipe: Any, message: Message, *, stream: bool | None = None) -> None:
        if self.bad % 2 if stream is None else stream:
            fields = {**{k: v for k, v in message.headers.items() if not isinstance(v, bool)}, **message.properties}
            if (
                isinstance(take(message.body, _texts(fields), "stream", _texts(fields), message.kind), RefusedMessage)
                or stream
            ):
                pipe.xadd(f"bridge:{message.kind}", {**fields, "data": message.body})
                return
        key = "job.submit" if message.kind == "requests" else "job.command"
        properties = pika.BasicProperties(headers=message.headers, **message.properties)
        self._channel.basic_publish("bridge.jobs", key, message.body, properties)

    def check(self, process: Process, timeout: float) -> None:
        """All good ones end, all bad ones are dead letters, the process lives."""
        client: Any = self._house.client
        eventually(lambda: client.xlen("bridge:dead") >= self.bad, timeout=timeout, every=0.2)
        eventually(lambda: self._refused() >= self.bad, timeout=timeout, every=0.5)
        eventually(lambda: all(self._closed()), timeout=timeout, every=0.2)
        assert self._refused() == self.bad
        assert process.running

    def _refused(self) -> int:
        """Dead letters, but for answers whose reply_to is nobody's queue."""
        entries: Any = self._house.client.xrange("bridge:dead")
        return sum(entry["reason"] != "undeliverable" for _, entry in entries)

    def _closed(self) -> list[bool]:
        return [phase is not None and phase.value == "CLOSED" for phase in self._house.ledger.phases(self.good)]

    def close(self) -> None:
        """Go."""
        self._connection.close()


def _texts(fields: dict[str, Any]) -> dict[str, Any]:
    """As Redis keeps them."""
    return {k: v if isinstance(v, bytes) else str(v) for k, v in fields.items()}


def resident_mib(pid: int) -> float:
    """Memory of a process now."""
    text = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(text.split()[1]) / 1024


def run(house: House, count: int, timeout: float) -> dict[str, float]:
    """The whole flood; figures for people."""
    process = house.engine(BRIDGE_DEAD_MAX="200000", BRIDGE_LOG_LEVEL="error")
    eventually(lambda: "ready" in process.said() and house.client.exists("bridge:commands"), timeout=30, every=0.1)
    flood = Flood(house)
    begun, samples = time.monotonic(), []
    try:
        for batch in bad(count):
            flood.send(batch)
            samples.append(resident_mib(process.pid))
        flood.check(process, timeout)
    finally:
        flood.close()
    warm = samples[len(samples) // 4]
    return {
        "bad": flood.bad,
        "good": len(flood.good),
        "seconds": round(time.monotonic() - begun, 1),
        "mib_after_a_quarter": round(warm, 1),
        "mib_at_the_end": round(resident_mib(process.pid), 1),
        "mib_at_most": round(max([*samples, resident_mib(process.pid)]), 1),
    }
