"""Walks kill points: requests of every kind flow through bridge workers that are killed all the time.

    python -m tests.chaos.walk --broker redis --kills 5000

One lane is one house: emulator, Redis, the broker, a foreign worker, and a zygote that forks bridge workers as they die
(`zygote.py`). Each request carries its own plan of deaths (`points.py`): first every point of its life in turn, before
and after the call, then a second and more deaths anywhere behind it. Judged from outside (`workloads.py`): events,
Celery results, what follows, what RunPod was asked to run.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kombu import Connection, Consumer, Exchange, Queue

from bridge.emulator import Emulator
from bridge.emulator.config import EndpointConfig
from tests.chaos.points import counted, made, peace
from tests.chaos.workloads import CHUNKS, ENDS, Sent, Workloads, output_of
from tests.support.helpers import eventually
from tests.support.house import API_KEY, House
from tests.support.servers import RabbitServer, RedisServer, find_rabbitmq

#: Short clocks, so that a dead process' leases and messages come back within seconds.
CLOCKS = {
    "connect_timeout_s": "0.5",
    "read_timeout_s": "2",
    "lease_s": "7.6",
    "unanswered_grace_s": "0.5",
    "finish_resend_s": "0.5",
    "finish_turn_s": "3",
    "finish_turns_max": "100",
    "batch_gather_s": "0.2",
    "submits_max": "10",
    "events_max": "10000000",
}
REDIS_OVERLAY = {
    "visibility_timeout": 3,
    "unacked_restore_interval": 1,
    "unacked_mutex_expire": 1,
}
#: Celery's claim on a chord's body is held by a dead process for max(5 s, twice this) or the time for publishing.
CELERY = {
    "result_chord_join_timeout": 1.0,
    "broker_connection_timeout": 1.0,
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1},
}
#: Requests under way at once, and bridge workers that carry them.
FLYING, CHILDREN = 48, 3
#: Seconds after which a request that has not ended counts as late, while workers die; and as lost, once none dies any
#: more. One that meets a death every second or two may be late by chance alone: each costs it a lease or a turn.
PATIENCE_S = 300.0


@dataclass
class Figures:
    """What a walk has seen. `violations` is empty, or the bridge is broken."""

    kills: int = 0
    points: set[tuple[str, int, str]] = field(default_factory=set)
    labels: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    events: int = 0
    possible_duplicates: int = 0
    second_submits: int = 0
    repeated_follow_ups: int = 0
    lost_pages: int = 0
    late: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        walked: Counter[str] = Counter(workload for workload, _, _ in self.points)
        return {
            **{k: v for k, v in self.__dict__.items() if k not in {"points", "labels"}},
            "points": len(self.points),
            "points_by_workload": dict(walked),
            "kills_by_call": dict(self.labels.most_common()),
        }


class Walk:
    """One lane."""

    #: Ends of requests that RunPod need not have run.
    may_not_run = frozenset({"CANCELLED"})

    def __init__(self, house: House, directory: Path, workloads: list[str], *, seed: int = 7) -> None:
        """The house must have no bridge worker of its own."""
        self.house = house
        self.figures = Figures()
        self._names = workloads
        self._work = Workloads(house)
        self._counters, self._log = directory / "counters", directory / "points.log"
        made(self._counters)
        self._chance = random.Random(seed)
        self._seed = seed
        self._slot = 0
        self._flying: dict[int, Sent] = {}
        self._of: dict[str, Sent] = {}
        self._told: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._cursor = "-"
        self._read_to = 0
        self._jobs: dict[str, str] = {}
        self._jobs_at = 0.0
        self._lives: dict[str, int] = {}
        self._late: set[int] = set()
        self._peace_at = float("inf")
        self._plans = {name: self._planned(name) for name in workloads}
        self.heard: Observation | None = None

    def run(self, kills: int, *, limit_s: float = 1e9, each: bool = False, say: bool = False) -> Figures:
        """Until so many were killed (`each`: beside each kind of request) or time is up; then until all have ended."""
        started = said = time.monotonic()
        command = (sys.executable, "-m", "tests.chaos.zygote", str(self._counters), str(self._log))
        zygote = self.house.start("zygote", *command, str(CHILDREN), str(self._seed))
        eventually(lambda: self._log.exists() and "ready" in self._log.read_text(), timeout=60)
        self._calibrate()
        figures = self.figures
        turn = 0
        while (figures.kills < kills or (each and not self._walked())) and time.monotonic() - started < limit_s:
            while len(self._flying) < FLYING:
                name = self._names[turn % len(self._names)]
                turn += 1
                self._send(name, next(self._plans[name]))
            self._look()
            assert zygote.running, zygote.said()[-3000:]
            if say and time.monotonic() - said > 15:
                said = time.monotonic()
                sys.stdout.write(
                    f"{said - started:6.0f} s  {figures.kills} kills  {len(figures.points)} points  "
                    f"{figures.requests} requests  {len(figures.violations)} violations\n"
                )
                sys.stdout.flush()
            time.sleep(0.02)
        peace(self._counters)
        self._peace_at = time.monotonic()
        while self._flying:
            self._look()
            time.sleep(0.02)
        self._paid_once()
        if self.heard is not None:
            self.heard.check(self)
        zygote.stop()
        gc.collect()  # results of Celery's that still listen do so no longer, while there is a server to tell
        figures.seconds = round(time.monotonic() - started, 1)
        if figures.violations:
            sys.stderr.write(zygote.said()[-5000:])
        return figures

    def _walked(self) -> bool:
        return {workload for workload, _, _ in self.figures.points} >= set(self._names)

    # Sending

    def _calibrate(self) -> None:
        """How many points a request of each kind has when nobody dies."""
        for name in self._names:
            sent = self._send(name, "")
            while sent.slot in self._flying:
                self._look()
                time.sleep(0.02)
            self._lives[name] = counted(self._counters, sent.slot)

    def _send(self, name: str, plan: str) -> Sent:
        self._slot += 1
        sent = self._work.by_name[name](self._slot, plan, time.monotonic())
        self._flying[sent.slot] = sent
        self._of.update(dict.fromkeys(sent.ids, sent))
        self.figures.requests += len(sent.ids)
        return sent

    def _planned(self, name: str) -> Iterator[str]:
        """Every point in turn, in an order that visits all parts of a life early; each with deaths behind it."""
        while True:
            life = self._lives[name]
            each = [(n, when) for n in range(1, life + 1) for when in "ba"]
            self._chance.shuffle(each)
            more = max(1, life // 30)
            for n, when in each:
                behind = (self._chance.randint(n + 1, n + life) for _ in range(more))
                yield ".".join([f"{n}{when}", *(f"{one}{self._chance.choice('ba')}" for one in sorted(behind))])

    # Looking

    def _look(self) -> None:
        self._read_log()
        self._read_events()
        now = time.monotonic()
        if now - self._jobs_at > 20:
            self._jobs_at = now
            self._jobs.update({job["id"]: job["input"]["ref"] for job in self.house.emulator.jobs("demo")})
        flying = list(self._flying.values())
        for sent in flying:
            if sent.workload == "cancelled" and not sent.cancel_sent and self._told[sent.ids[0]]:
                self._work.cancel(sent)
        waiting = [sent for sent in flying if len(sent.ends) == len(sent.ids)]
        names = [name for sent in waiting for name in sent.ids]
        phases = dict(zip(names, self.house.ledger.phases(names), strict=True)) if names else {}
        for sent in waiting:
            if all(phases[name] == "CLOSED" for name in sent.ids) and self._followed(sent):
                self._judge(sent)
                del self._flying[sent.slot]
        for sent in [one for one in flying if one.slot in self._flying and now - one.sent_at > PATIENCE_S]:
            if now - self._peace_at > PATIENCE_S:
                self._fault(
                    sent, f"not ended and told, though nobody has died for {PATIENCE_S:.0f} s: {self._at(sent)}"
                )
                del self._flying[sent.slot]
            elif sent.slot not in self._late:
                self._late.add(sent.slot)
                self.figures.late += 1
                sys.stderr.write(f"late: {sent.workload} {self._at(sent)}\n")
                sys.stderr.flush()

    def _at(self, sent: Sent) -> dict[str, Any]:
        """The rows of what has not ended and been told."""
        names = [name for name in sent.ids if self.house.phase(name) != "CLOSED"]
        return {name: self.house.client.hgetall(self.house.ledger.names.row(name)) for name in names}

    def _followed(self, sent: Sent) -> bool:
        return not sent.mark or bool(self.house.client.llen(f"noted:{sent.mark}"))

    def _read_log(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._read_to)
            text = file.read()
        whole = text.rpartition(b"\n")[0]
        self._read_to += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            said = json.loads(line)
            if said.get("kill"):
                self.figures.kills += 1
                self.figures.points.add((said["workload"], said["n"], said["when"]))
                self.figures.labels[said["label"]] += 1
            elif "crashed" in said:
                self.figures.violations.append(f"a bridge worker ended by itself: {said}")

    def _read_events(self) -> None:
        while True:
            found: Any = self.house.client.xrange(self.house.ledger.names.events, min=self._cursor, count=500)
            for entry_id, entry in found:
                self._cursor = f"({entry_id}"
                event = json.loads(entry["data"])
                self.figures.events += 1
                self._event(event)
            if len(found) < 500:
                return

    def _event(self, event: dict[str, Any]) -> None:
        told, name = self._told[event["subject"]], event["subject"]
        told.append(event)
        sent = self._of.get(name)
        if sent is None:
            return
        if int(event["sequence"]) != len(told) or event["id"] != f"{name}:{len(told)}":
            self._fault(sent, f"event {event['id']} of sequence {event['sequence']} came as number {len(told)}")
        if name in sent.ends:
            self._fault(sent, f"{event['type']} after the end")
        if event["data"].get("completed"):
            sent.ends[name] = event["data"]

    # Judging

    def _fault(self, sent: Sent, what: str) -> None:
        self.figures.violations.append(f"{sent.workload} {sent.ids[0]}: {what}")
        sys.stderr.write(f"{self.figures.violations[-1]}\n")
        sys.stderr.flush()

    def _judge(self, sent: Sent) -> None:
        status, state = ENDS[sent.workload]
        for name in sent.ids:
            end = sent.ends[name]
            self.figures.ended[end["status"]] += 1
            if end["status"] != status:
                self._fault(sent, f"ended {end['status']} ({end.get('reason')}), not {status}")
            elif status == "COMPLETED" and end.get("output") != output_of(sent.workload, name):
                self._fault(sent, f"brought {end.get('output')!r}")
            if sent.workload == "streamed":
                self._chunks(sent, name)
            if state is not None:
                meta = self.house.app.backend.get_task_meta(name)
                if meta["status"] != state:
                    self._fault(sent, f"Celery was told {meta['status']}, not {state}")
        if sent.mark:
            ran: Any = self.house.client.lrange(f"noted:{sent.mark}", 0, -1)
            if len(set(ran)) != 1:
                self._fault(sent, f"what follows ran under {len(set(ran))} task ids: {ran}")
            self.figures.repeated_follow_ups += len(ran) - 1

    def _chunks(self, sent: Sent, name: str) -> None:
        """Numbered from 0 without a gap, each once; of a lost page the end says so, and the aggregate mends it."""
        told = [event["data"] for event in self._told[name] if event["type"] == "bridge.job.chunk"]
        numbers = [chunk["index"] for chunk in told]
        if not sent.ends[name].get("stream_incomplete"):
            if numbers != list(range(len(CHUNKS))):
                self._fault(sent, f"chunks are numbered {numbers}, and the end does not say that any may be lost")
        else:
            self.figures.lost_pages += 1
        if [chunk for _, chunk in sorted({one["index"]: one["output"] for one in told}.items())] != CHUNKS:
            self._fault(sent, f"chunks were told as {told}")

    def _paid_once(self) -> None:
        """How often each request was run: once, and more only where the end says so."""
        self._jobs.update({job["id"]: job["input"]["ref"] for job in self.house.emulator.jobs("demo")})
        runs = Counter(self._jobs.values())
        for name, sent in self._of.items():
            end = sent.ends.get(name)
            if end is None:
                continue
            self.figures.possible_duplicates += bool(end["possible_duplicate"])
            self.figures.second_submits += max(0, runs[name] - 1)
            if runs[name] > 1 and not end["possible_duplicate"]:
                self._fault(sent, f"{name} was run {runs[name]} times, and its end does not say so")
            if runs[name] == 0 and end["status"] not in self.may_not_run:
                self._fault(sent, f"{name} ended {end['status']} and was never run: {end.get('error')}")


class Observation:
    """What a service on RabbitMQ hears of `bridge.events`: it drops a sequence that is not above its last."""

    def __init__(self, url: str) -> None:
        """Bound before the first event leaves."""
        self._connection = Connection(url)
        exchange = Exchange("bridge.events", type="topic", durable=True)
        self._queue = Queue("walk.events", exchange, routing_key="#", durable=True)
        self._queue(self._connection.default_channel).declare()
        self._last: dict[str, int] = defaultdict(int)
        self.copies = 0
        self.gaps: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        def heard(body: Any, message: Any) -> None:
            event = json.loads(message.body)
            name, number = event["subject"], int(event["sequence"])
            if number <= self._last[name]:
                self.copies += 1
            else:
                if number != self._last[name] + 1:
                    self.gaps.append(f"{name}: {number} after {self._last[name]}")
                self._last[name] = number
            message.ack()

        with Consumer(self._connection, [self._queue], callbacks=[heard], prefetch_count=500, accept=None):
            while not self._stop.is_set():
                try:
                    self._connection.drain_events(timeout=0.5)
                except TimeoutError:
                    continue

    def check(self, walk: Walk) -> None:
        """All that the stream holds was heard, in order."""
        wanted = {name: len(told) for name, told in walk._told.items()}
        try:
            eventually(lambda: all(self._last[name] == count for name, count in wanted.items()), timeout=60)
        except AssertionError:
            missing = {name: (self._last[name], count) for name, count in wanted.items() if self._last[name] != count}
            walk.figures.violations.append(f"RabbitMQ was not told all events: {missing}")
        walk.figures.violations += [f"RabbitMQ missed events: {gap}" for gap in self.gaps]
        self._stop.set()
        self._thread.join(5)
        channel = self._connection.connection
        self._connection.release()
        channel.collect()  # the socket, also where the broker did not say goodbye


def lane(directory: Path, broker: str, redis_url: str, *, workloads: list[str] | None = None, seed: int = 7) -> Walk:
    """A house for one walk; the caller leaves it with `walk.house.__exit__`."""
    overlay = directory / "overlay.json"
    options = {"broker_transport_options": REDIS_OVERLAY} if broker.startswith("redis") else {}
    overlay.write_text(json.dumps({**CELERY, **options}))
    settings: dict[str, Any] = {**CLOCKS, "celery_config": str(overlay)}
    config = EndpointConfig()
    emulator = Emulator(endpoints={"demo": config}, api_keys=[API_KEY], limits=False).start()
    house = House(directory, broker=broker, redis_url=redis_url, emulator=emulator, **settings)
    house._stack.callback(emulator.stop)
    house.foreign_worker()
    walk = Walk(house, directory, workloads or list(ENDS), seed=seed)
    if broker.startswith("amqp"):
        walk.heard = Observation(broker)
    return walk


def main() -> None:
    """One lane with servers of its own; the figures as JSON, and exit code 1 when anything was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=["redis", "amqp"], default="redis")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--limit-s", type=float, default=1e9)
    parser.add_argument("--workloads", nargs="*")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="walk-")))
        server = RedisServer(directory / "redis").start()
        stack.callback(server.stop)
        redis_url = broker = server.fresh_url()
        if asked.broker == "amqp":
            script = find_rabbitmq()
            assert script is not None, "RabbitMQ is not installed"
            (directory / "rabbitmq").mkdir()
            rabbit = RabbitServer(script, directory / "rabbitmq").start()
            stack.callback(rabbit.stop)
            broker = rabbit.fresh_url()
        walk = lane(directory, broker, redis_url, workloads=asked.workloads, seed=asked.seed)
        with walk.house:
            figures = walk.run(asked.kills, limit_s=asked.limit_s, say=True)
    text = json.dumps({"broker": asked.broker, **figures.as_json()}, indent=1)
    sys.stdout.write(f"{text}\n")
    if asked.out:
        asked.out.write_text(text)
    raise SystemExit(1 if figures.violations else 0)


if __name__ == "__main__":
    main()
