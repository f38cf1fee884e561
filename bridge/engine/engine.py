"""The loops of one process, started and stopped together; the only place that knows which of them to wake."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.job.enums import Step
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.calls.hurried import Hurried
    from bridge.engine.calls.threads import Callers
    from bridge.engine.calls.write_queue import WriteQueue
    from bridge.engine.large_outputs import LargeOutputs
    from bridge.job.change import Change
    from bridge.runtime.loop import Loop

#: Which loop works a step.
LOOP_OF = {
    Step.SCHEDULED: "schedule",
    Step.SUBMIT: "submit",
    Step.SUBMIT_SYNC: "submit",
    Step.SUBMIT_BATCH: "submit_batch",
    Step.POLL: "track",
    Step.RESCUE: "track",
    Step.CANCEL: "carry_out",
    Step.RETRY: "carry_out",
    Step.FINISH: "finish",
    Step.STREAM: "stream",
}


@dataclass(slots=True)
class Engine:
    """Built by `bridge.process`. `start` and `stop` may each be called once."""

    engine_id: str
    loops: Mapping[str, Loop]
    writes: tuple[WriteQueue, ...]
    callers: tuple[Callers | LargeOutputs, ...]
    #: What comes alone, of the loops that work it at once.
    hurried: Mapping[str, Hurried]
    #: Has an end told that this process has written; False where the loop is to find it.
    tells: Callable[[Change], bool] = lambda _: False
    closers: tuple[Callable[[], None], ...] = ()

    def start(self) -> None:
        """Begin working."""
        for writes in self.writes:
            writes.start()
        for loop in self.loops.values():
            loop.start()
        tell("engine.started", engine=self.engine_id)

    def stop(self, grace_s: float) -> bool:
        """Take nothing more, let calls under way end, write what they brought. Whether all of it was done in time."""
        ends = time.monotonic() + grace_s
        for loop in self.loops.values():
            loop.stop()
        for loop in self.loops.values():
            loop.join(max(0.1, ends - time.monotonic()))
        for callers in self.callers:
            callers.close()
        while any(callers.busy for callers in self.callers) and time.monotonic() < ends:
            time.sleep(0.02)
        clean = not any(callers.busy for callers in self.callers)
        for writes in self.writes:
            clean = writes.stop(max(0.5, ends - time.monotonic())) and clean
        for close in self.closers:
            close()
        tell("engine.stopped", engine=self.engine_id, clean=clean)
        return clean

    def wake(self, step: Step, after_s: float = 0.0) -> None:
        """There is work of this step in `after_s` seconds."""
        loop = self.loops.get(LOOP_OF.get(step, ""))
        if loop is not None:
            loop.wake(after_s)

    def came(self, step: Step, endpoint: str, count: int = 1) -> None:
        """So many requests, or news of a job, are in; what comes alone waits for no batch of others."""
        name = LOOP_OF[step]
        self.loops[name].wake(hurry=name in self.hurried and self.hurried[name].came(step, endpoint, count))

    def wake_all(self) -> None:
        """Something has changed elsewhere."""
        for loop in self.loops.values():
            loop.wake()

    def changed(self, change: Change) -> None:
        """Wake whoever works the step that the change made due."""
        record = change.record
        if record.due and not change.empty and not change.keeps_due:
            step = Step(record.due)
            if change.verdict == "hinted" and not change.delay_ms:
                self.came(step, record.endpoint)
            elif step is not Step.FINISH or not self.tells(change):
                self.wake(step, change.delay_ms / 1000)
        if change.stream_ms is not None and change.stream_ms >= 0:
            self.loops["stream"].wake(change.stream_ms / 1000)
        if "callbacks" in self.loops and any(event.callbacks for event in change.events):
            self.loops["callbacks"].wake()

    @property
    def healthy(self) -> bool:
        """Whether every loop turns."""
        return all(loop.healthy for loop in self.loops.values())
