"""What a walk sends, and how each kind of request must end; judged from the outside alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery import chord

from tests.support.house import House

#: Members of the chord.
MEMBERS = 10
CHUNKS = ["a", "b", "c"]


@dataclass(slots=True)
class Sent:
    """One instance of a workload: the requests it consists of, and what follows them."""

    workload: str
    slot: int
    ids: list[str]
    sent_at: float
    #: Key under which what follows leaves its task ids; "" when nothing follows.
    mark: str = ""
    #: Task whose result comes last, "" for none.
    body: str = ""
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    cancel_sent: bool = False


def _name(workload: str, slot: int, plan: str, member: int = 0) -> str:
    return f"kp-{slot}-{workload}-{plan}-{member}"


class Workloads:
    """Sends by name; each function takes a slot and a plan."""

    def __init__(self, house: House) -> None:
        """Everything goes through the house's foreign app."""
        self.house = house
        self.by_name: dict[str, Callable[[int, str, float], Sent]] = {
            "link": self.link,
            "failing": self.failing,
            "retried": self.retried,
            "streamed": self.streamed,
            "cancelled": self.cancelled,
            "chord": self.chord,
            "json": self.json,
            "batch": self.batch,
        }

    def _mark(self, key: str) -> Any:
        return self.house.app.signature("tests.foreign.mark", args=[key])

    def link(self, slot: int, plan: str, now: float) -> Sent:
        """A job with a link."""
        name = _name("link", slot, plan)
        self.house.send({"ref": name, "mock_delay": 0.05}, task_id=name, link=self._mark(f"m{slot}"))
        return Sent("link", slot, [name], now, mark=f"m{slot}")

    def failing(self, slot: int, plan: str, now: float) -> Sent:
        """A job whose handler fails, with an errback."""
        name = _name("failing", slot, plan)
        errback = self.house.app.signature("tests.foreign.mark", args=[f"m{slot}"])
        self.house.send({"ref": name, "mock_error": "boom"}, task_id=name, link_error=errback)
        return Sent("failing", slot, [name], now, mark=f"m{slot}")

    def retried(self, slot: int, plan: str, now: float) -> Sent:
        """A job that fails once and succeeds when it is retried."""
        name = _name("retried", slot, plan)
        self.house.send({"ref": name, "mock_error": 1}, task_id=name, retries=5)
        return Sent("retried", slot, [name], now)

    def streamed(self, slot: int, plan: str, now: float) -> Sent:
        """A generator whose chunks are read on the way."""
        name = _name("streamed", slot, plan)
        asked = {"ref": name, "mock_stream": CHUNKS, "mock_delay": 0.1, "mock_aggregate": True}
        self.house.send(asked, task_id=name, stream=True)
        return Sent("streamed", slot, [name], now)

    def cancelled(self, slot: int, plan: str, now: float) -> Sent:
        """A long job that a second message cancels."""
        name = _name("cancelled", slot, plan)
        self.house.send({"ref": name, "mock_delay": 600}, task_id=name)
        return Sent("cancelled", slot, [name], now)

    def cancel(self, sent: Sent) -> None:
        """The second message, once the request is known."""
        sent.cancel_sent = True
        self.house.app.send_task("bridge.cancel", kwargs={"id": sent.ids[0]}, queue="bridge.control")

    def chord(self, slot: int, plan: str, now: float) -> Sent:
        """Ten jobs and a body."""
        names = [_name("chord", slot, plan, member) for member in range(MEMBERS)]
        header = [
            self.house.app.signature(
                "bridge.run", kwargs={"input": {"ref": name, "mock_delay": 0.05}}, queue="bridge.run", task_id=name
            )
            for name in names
        ]
        body = chord(header, app=self.house.app)(self._mark(f"m{slot}"))
        return Sent("chord", slot, names, now, mark=f"m{slot}", body=body.id)

    def json(self, slot: int, plan: str, now: float) -> Sent:
        """A plain document on the door of the lane's broker."""
        name = _name("json", slot, plan)
        asked = json.dumps({"id": name, "endpoint": "demo", "input": {"ref": name, "mock_delay": 0.05}})
        if self.house.broker.startswith("amqp"):
            with self.house.app.producer_or_acquire() as producer:
                producer.publish(
                    asked, exchange="", routing_key="bridge.requests", content_type="application/json",
                    content_encoding="utf-8", serializer=None, delivery_mode=2,
                )  # fmt: skip
        else:
            self.house.client.xadd(self.house.ledger.names.requests, {"data": asked})
        return Sent("json", slot, [name], now)

    def batch(self, slot: int, plan: str, now: float) -> Sent:
        """A job of the batch lane, with a link."""
        name = _name("batch", slot, plan)
        asked = {"ref": name, "mock_delay": 0.05}
        self.house.send(asked, task_id=name, lane="batch", link=self._mark(f"m{slot}"))
        return Sent("batch", slot, [name], now, mark=f"m{slot}")


#: How each workload's requests end: RunPod's word, and Celery's (None: Celery has not heard of it).
ENDS: dict[str, tuple[str, str | None]] = {
    "link": ("COMPLETED", "SUCCESS"),
    "failing": ("FAILED", "FAILURE"),
    "retried": ("COMPLETED", "SUCCESS"),
    "streamed": ("COMPLETED", "SUCCESS"),
    "cancelled": ("CANCELLED", "REVOKED"),
    "chord": ("COMPLETED", "SUCCESS"),
    "json": ("COMPLETED", None),
    "batch": ("COMPLETED", "SUCCESS"),
}


def output_of(workload: str, name: str) -> Any:
    """What a completed request of this kind brings."""
    match workload:
        case "streamed":
            return CHUNKS
        case "retried":
            return {"ref": name, "mock_error": 1}
        case _:
            return {"ref": name, "mock_delay": 0.05}
