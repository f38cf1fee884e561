"""Builds the engine of one process: its loops, the threads that call for them, and who wakes whom."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bridge.engine.ask import AskHealth
from bridge.engine.broker import Broker
from bridge.engine.calls import Callers
from bridge.engine.carry_out import CarryOut
from bridge.engine.commits import Commits
from bridge.engine.engine import Engine
from bridge.engine.finish import Finish, Here
from bridge.engine.paces import Pace
from bridge.engine.publish import Publish
from bridge.engine.retell import Retell
from bridge.engine.spending import Spending
from bridge.engine.stream import Stream
from bridge.engine.submit import Submit
from bridge.engine.sweep import Sweep
from bridge.engine.track import Track
from bridge.engine.trim import Trim
from bridge.engine.wake import Wake
from bridge.loop import Loop
from bridge.wiring.figures import bounds

if TYPE_CHECKING:
    from bridge.settings import Settings
    from bridge.wiring import Bridge

#: Seconds. Turns of the busy loops are at least this far apart, so that a burst becomes a batch.
BURST_S = 0.02
#: States on the way are for people: of several within this time only the newest is written.
STATES_BURST_S = 0.05
#: Threads, started as needed. RunPod allows an endpoint 20 cancels at once, so one that hangs leaves some free.
CANCELS, RETRIES = 32, 16
#: Ends that are told at once in this process.
FINISHERS = 16


@dataclass(frozen=True, slots=True)
class Threads:
    """Who calls RunPod, and Celery's tracer; apart by operation, so that none waits behind another's slow calls."""

    submit: Callers
    sync: Callers
    track: Callers
    stream: Callers
    cancel: Callers
    retry: Callers
    finish: Callers

    @classmethod
    def of(cls, settings: Settings) -> Threads:
        """As many as the settings say."""
        return cls(
            submit=Callers("submit", settings.bridge_submit_threads),
            sync=Callers("sync", settings.bridge_sync_threads),
            track=Callers("track", settings.bridge_track_threads),
            stream=Callers("stream", settings.bridge_stream_threads),
            cancel=Callers("cancel", CANCELS),
            retry=Callers("retry", RETRIES),
            finish=Callers("finish", FINISHERS),
        )

    def all(self) -> tuple[Callers, ...]:
        """Every pool."""
        return self.submit, self.sync, self.track, self.stream, self.cancel, self.retry, self.finish

    def wake(self, loops: dict[str, Loop]) -> None:
        """A thread that becomes free wakes the loop that has work for it."""
        self.submit.on_free = self.sync.on_free = loops["submit"].wake
        self.track.on_free = loops["track"].wake
        self.stream.on_free = loops["stream"].wake
        self.cancel.on_free = self.retry.on_free = loops["carry_out"].wake
        self.finish.on_free = loops["finish"].wake


def build_engine(bridge: Bridge, finish_here: Here | None, *, reads_finishes: bool) -> Engine:
    """Nothing runs before its `start`."""
    s, ledger, vitals = bridge.settings, bridge.ledger, bridge.vitals
    vitals.decides = True
    threads, commits = Threads.of(s), Commits(ledger, bridge.noticed)
    observed = partial(bridge.outputs.observed, commits)
    pace = Pace(
        ledger.runs, bridge.budget, bridge.endpoint_id_of, bridge.control.heard_lately, lambda: ledger.live_engines
    )  # fmt: skip
    lease_ms = int(s.bridge_lease_s * 1000)
    slot_ms = int((s.bridge_connect_timeout_s + s.bridge_read_timeout_s + 5) * 1000)
    calling = bridge.client_of, bridge.endpoint_id_of
    submit = Submit(
        ledger, commits, vitals, bridge.book, threads.submit, threads.sync, pace, bridge.client_of, lease_ms, slot_ms,
        observed, s.bridge_webhook_base_url, spending=Spending(ledger), capped=bridge.capped,
    )  # fmt: skip
    track = Track(
        ledger, commits, vitals, threads.track, pace, *calling, lease_ms, slot_ms, bridge.purged_at, observed
    )  # fmt: skip
    carry_out = CarryOut(
        ledger, commits, vitals, threads.cancel, threads.retry, pace, *calling, lease_ms, slot_ms, observed
    )  # fmt: skip
    stream = Stream(ledger, commits, vitals, threads.stream, *calling, slot_ms)
    finish = Finish(
        ledger, bridge.app, lease_ms, s.bridge_finish_resend_s, threads.finish, finish_here, reads_finishes
    )  # fmt: skip
    engine_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    trim = Trim(ledger, bounds(s), s.bridge_dead_bytes_max, int(s.bridge_dead_retention_s * 1000))
    wake = Wake(ledger, lambda: None)
    loops = {
        "submit": Loop("submit", submit.once, at_least_s=BURST_S),
        "track": Loop("track", track.once, at_least_s=BURST_S),
        "carry_out": Loop("carry-out", carry_out.once, at_least_s=BURST_S),
        "strays": Loop("strays", carry_out.strays),
        "stream": Loop("stream", stream.once, at_least_s=BURST_S),
        "finish": Loop("finish", finish.once, at_least_s=BURST_S),
        "states": Loop("states", bridge.states.once, at_least_s=STATES_BURST_S),
        "retell": Loop("retell", Retell(ledger, bridge.states, vitals).once),
        "outputs": Loop("outputs", bridge.outputs.once),
        "sweep": Loop("sweep", Sweep(ledger, engine_id, bridge.noticed, bridge.budget.flush).once),
        "ask": Loop("ask", AskHealth(ledger, vitals, *calling).once),
        "trim": Loop("trim", trim.once),
        "wake": Loop("wake", wake.once),
    }
    closers: list[Callable[[], None]] = [finish.close, wake.close]
    if s.amqp:
        publish = _publish(bridge)
        loops["publish"] = Loop("publish", publish.once, at_least_s=BURST_S)
        closers.append(publish.close)
    threads.wake(loops)
    bridge.states.wake, bridge.outputs.wake = loops["states"].wake, loops["outputs"].wake
    engine = Engine(engine_id, loops, commits, (*threads.all(), bridge.outputs), submit.calm, tuple(closers))
    wake.woken = engine.wake_all
    return engine


def _publish(bridge: Bridge) -> Publish:
    s = bridge.settings
    return Publish(
        bridge.ledger, Broker(bridge.app), bridge.noticed, bounds(s), s.bridge_message_limit, s.bridge_reply_patience_s
    )
