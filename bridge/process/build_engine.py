"""Builds the engine of one process: its loops, the threads that call for them, and who wakes whom."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bridge import __version__
from bridge.callbacks.addresses import Addresses
from bridge.callbacks.post import Poster
from bridge.callbacks.signer import Signer
from bridge.doors.celery.accept.eta import send
from bridge.doors.celery.consumer.queues import queues_read
from bridge.doors.celery.follow_up_queues import depths
from bridge.engine.calls.threads import Callers
from bridge.engine.calls.write_queue import WriteQueue
from bridge.engine.cancel_and_retry import CarryOut
from bridge.engine.engine import Engine
from bridge.engine.submit.batch import BatchSubmit
from bridge.engine.submit.scheduled_requests import Schedule
from bridge.engine.submit.spending import Spending
from bridge.engine.submit.submit import Submit
from bridge.engine.submit.worker_counts import WorkerCounts
from bridge.engine.tell.amqp_publisher import Broker
from bridge.engine.tell.callbacks import Callbacks
from bridge.engine.tell.finish import Finish, LocalFinish
from bridge.engine.tell.follow_up_readers import FollowUpReaders
from bridge.engine.tell.publish import Publish
from bridge.engine.tell.retell_waiting import Retell
from bridge.engine.upkeep.listing import LEAST_S, Listing
from bridge.engine.upkeep.scheduled_commands import CommandsLater
from bridge.engine.upkeep.sweep import Sweep
from bridge.engine.upkeep.trim import Trim
from bridge.engine.upkeep.wake import Wake
from bridge.engine.watch.batch import BatchWatch
from bridge.engine.watch.poll_pace import Pace
from bridge.engine.watch.status_polls import StatusPolls
from bridge.engine.watch.stream import Stream
from bridge.engine.watch.unreadable import Unread
from bridge.process.from_settings import bounds
from bridge.runtime.loop import Loop
from bridge.settings.callbacks import allowed_of

if TYPE_CHECKING:
    from bridge.engine.large_outputs import LargeOutputs
    from bridge.process.components import Components
    from bridge.settings import Settings

#: Seconds. Turns of the busy loops are at least this far apart, so that a burst becomes a batch.
BURST_S = 0.02
#: States on the way are for people: of several within this time only the newest is written.
STATES_BURST_S = 0.05
#: Threads, started as needed. RunPod allows an endpoint 20 cancels at once, so one that hangs leaves some free.
CANCELS, RETRIES = 32, 16
#: Drafts of batches that are filled at once, and looks at batches, in this process.
FILLERS, LOOKERS = 4, 4
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
    fill: Callers
    look: Callers

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
            fill=Callers("fill", FILLERS),
            look=Callers("look", LOOKERS),
        )

    def all(self) -> tuple[Callers, ...]:
        """Every pool."""
        calling = self.submit, self.sync, self.track, self.stream, self.cancel, self.retry, self.fill, self.look
        return (*calling, self.finish)

    def wake(self, loops: dict[str, Loop]) -> None:
        """A thread that becomes free wakes the loop that has work for it."""
        self.submit.on_free = self.sync.on_free = loops["submit"].wake
        self.track.on_free = loops["track"].wake
        self.stream.on_free = loops["stream"].wake
        self.cancel.on_free = self.retry.on_free = loops["carry_out"].wake
        self.finish.on_free = loops["finish"].wake
        self.fill.on_free = loops["submit_batch"].wake
        self.look.on_free = loops["batches"].wake


def build_engine(has: Components, in_process_finish: LocalFinish | None, *, reads_finishes: bool) -> Engine:
    """Nothing runs before its `start`."""
    s, ledger, health = has.settings, has.ledger, has.endpoint_health
    health.decides = True
    threads, writes = Threads.of(s), WriteQueue(ledger, has.notifier.changed)
    observed = partial(has.outputs.observed, writes)
    unread = Unread(ledger, writes, health)
    pace = Pace(
        ledger.runs, has.budget, has.endpoint_id_of, has.control.heard_lately, lambda: ledger.engines.live
    )  # fmt: skip
    lease_ms = int(s.bridge_lease_s * 1000)
    slot_ms = int((s.bridge_connect_timeout_s + s.bridge_read_timeout_s + 5) * 1000)
    calling = has.client_of, has.endpoint_id_of
    submit = Submit(
        ledger, writes, health, has.book, threads.submit, threads.sync, pace, has.client_of, lease_ms, slot_ms,
        observed, s.bridge_webhook_base_url, spending=Spending(ledger), capped=has.notifier.capped,
    )  # fmt: skip
    track = StatusPolls(
        ledger, writes, health, threads.track, pace, *calling, lease_ms, slot_ms, has.last_purge, observed, unread
    )  # fmt: skip
    fill = BatchSubmit(
        ledger, health, has.book, threads.fill, has.client_of, has.notifier.changed, slot_ms, s.bridge_batch_gather_s,
        submit.spending,
    )  # fmt: skip
    batches = BatchWatch(ledger, writes, health, threads.look, has.client_of, slot_ms, observed)
    carry_out = CarryOut(
        ledger, writes, health, threads.cancel, threads.retry, pace, *calling, lease_ms, slot_ms, observed, unread
    )  # fmt: skip
    pages = WriteQueue(ledger, has.notifier.changed, "pages")  # chunks never stand between others and their job ids
    stream = Stream(ledger, pages, health, threads.stream, *calling, slot_ms)
    finish = Finish(
        ledger, has.app, lease_ms, s.bridge_finish_resend_s, threads.finish, in_process_finish, reads_finishes
    )  # fmt: skip
    engine_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    trim = Trim(ledger, bounds(s), s.bridge_dead_bytes_max, int(s.bridge_dead_retention_s * 1000))
    wake = Wake(ledger, lambda: None)

    def begun() -> None:
        loops["submit"].wake()

    followed = FollowUpReaders(ledger, partial(depths, has.app), partial(queues_read, has.app))
    loops = {
        "submit": Loop("submit", submit.once, at_least_s=BURST_S, at_once=submit.at_once),
        "schedule": Loop("schedule", Schedule(ledger, begun).once, at_least_s=BURST_S),
        "later": Loop("later", CommandsLater(ledger, partial(send, has.app)).once),
        "submit_batch": Loop("submit-batch", fill.once, at_least_s=BURST_S),
        "batches": Loop("batches", batches.once, at_least_s=BURST_S),
        "track": Loop("track", track.once, at_least_s=BURST_S, at_once=track.at_once),
        "carry_out": Loop("carry-out", carry_out.once, at_least_s=BURST_S),
        "orphans": Loop("orphans", carry_out.orphans),
        "stream": Loop("stream", stream.once, at_least_s=BURST_S),
        "finish": Loop("finish", finish.once, at_least_s=BURST_S),
        "follow_ups": Loop("follow-ups", followed.once),
        "states": Loop("states", has.notifier.states.once, at_least_s=STATES_BURST_S),
        "retell": Loop("retell", Retell(ledger, has.notifier.states, health).once),
        "outputs": Loop("outputs", has.outputs.once),
        "sweep": Loop("sweep", Sweep(ledger, engine_id, has.notifier.changed, has.budget.flush).once),
        "ask": Loop("ask", WorkerCounts(ledger, health, has.endpoint_id_of).once),
        "trim": Loop("trim", trim.once),
        "listing": Loop("listing", Listing(ledger).once, at_least_s=LEAST_S),
        "wake": Loop("wake", wake.once),
    }
    if s.bridge_config_file is not None:
        loops["settings"] = Loop("settings", has.book.look)
    closers: list[Callable[[], None]] = [finish.close, wake.close]
    if s.amqp:
        publish = _publish(has)
        loops["publish"] = Loop("publish", publish.once, at_least_s=BURST_S)
        closers.append(publish.close)
    pools: list[Callers | LargeOutputs] = [*threads.all(), has.outputs]
    if s.bridge_callback_secret_file is not None:
        callbacks = _callbacks(has, s.bridge_callback_secret_file)
        loops["callbacks"] = Loop("callbacks", callbacks.once, at_least_s=BURST_S)
        callbacks.callers.on_free = callbacks.wake = loops["callbacks"].wake
        pools.append(callbacks.callers)
    threads.wake(loops)
    has.notifier.states.wake, has.outputs.wake = loops["states"].wake, loops["outputs"].wake
    hurried = {"submit": submit.hurried, "track": track.hurried}
    engine = Engine(engine_id, loops, (writes, pages), tuple(pools), hurried, finish.soon, tuple(closers))
    wake.woken = engine.wake_all
    return engine


def _callbacks(has: Components, secret_file: Path) -> Callbacks:
    s = has.settings
    poster = Poster(
        Addresses(allowed_of(s.bridge_callback_allow)),
        timeout_s=s.bridge_callback_timeout_s,
        ca_file=s.bridge_callback_ca_file,
        agent=f"runpod-bridge/{__version__}",
    )
    return Callbacks(
        has.ledger,
        has.notifier.changed,
        Signer(secret_file),
        poster,
        Callers("callback", s.bridge_callback_threads),
        of_host=s.bridge_callback_host_max,
        lease_ms=int(s.bridge_lease_s * 1000),
        retry_s=s.bridge_callback_retry_s,
        patience_ms=int(s.bridge_callback_patience_s * 1000),
    )


def _publish(has: Components) -> Publish:
    s = has.settings
    return Publish(
        has.ledger, Broker(has.app), has.notifier.changed, bounds(s), s.bridge_message_limit, s.bridge_reply_patience_s
    )
