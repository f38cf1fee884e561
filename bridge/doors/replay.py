"""Sends a dead letter again, to the door it came by; that door judges it anew, as if it had just come.

The letter goes only after the broker has what was sent. A kill in between leaves both, and the same request twice
changes nothing (I2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bridge.errors import NotReplayable
from bridge.job.change import lane_of
from bridge.job.document import CONTENT_TYPE
from bridge.job.record import Long
from bridge.job.request import check_request_id
from bridge.ledger.streams.dead_letters import original_of
from bridge.ledger.streams.inbox import send

if TYPE_CHECKING:
    from celery import Celery

    from bridge.ledger import Ledger

#: What an AMQP message may carry again; the rest was the broker's.
_PROPERTIES = ("content_type", "content_encoding", "message_id", "correlation_id", "reply_to", "type", "app_id")
_JOBS, _EVENTS = "bridge.jobs", "bridge.events"


def replay(app: Celery, ledger: Ledger, letter: Mapping[str, Any], *, amqp: bool, request_id: str | None = None) -> str:
    """Where it was sent to. `amqp`: the broker speaks it; `request_id` gives a request another id.

    Raises NotReplayable with the reason.
    """
    raw = original_of(letter)
    if raw is None:
        cut = letter["truncated"]
        raise NotReplayable(
            f"{letter['size']} bytes came, and only 64 KiB are kept" if cut else "originals are not kept here"
        )
    if request_id is not None:
        raw = _renamed(raw, letter, check_request_id(request_id))
    match letter["door"]:
        case "amqp" | "publish":
            if not amqp:
                raise NotReplayable("it came by AMQP, and the broker is Redis now")
            return _to_queue(app, letter, raw)
        case "stream" if letter["reason"] == "undeliverable":
            return _as_reply(ledger, letter, raw)
        case "stream":
            return _to_stream(ledger, letter, raw, request_id)
        case "celery":
            return _as_task(app, letter, raw, request_id)
        case "callback":
            return _as_callback(ledger, letter, raw)
        case "finish":
            told = f"`bridge status {letter['request_id']} --content`"
            raise NotReplayable(f"Celery was told that this result cannot be delivered; {told} has it")
    raise NotReplayable(f"nobody takes letters of the door {letter['door']!r}")


def _renamed(raw: bytes, letter: Mapping[str, Any], request_id: str) -> bytes:
    if letter["door"] not in {"amqp", "stream"} or letter["reason"] == "undeliverable":
        return raw
    try:
        document = json.loads(raw)
    except ValueError:
        raise NotReplayable("it is no JSON object, so it can be given no id") from None
    if not isinstance(document, dict):
        raise NotReplayable("it is no JSON object, so it can be given no id")
    inner = document.get("data") if "specversion" in document and isinstance(document.get("data"), dict) else document
    assert isinstance(inner, dict)  # noqa: S101  (a dict either way)
    inner["id"] = request_id
    return json.dumps(document, ensure_ascii=False).encode()


def _parts(letter: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    headers = letter.get("headers") or {}
    said = {k.removeprefix("property:"): v for k, v in headers.items() if k.startswith("property:")}
    return {k: v for k, v in headers.items() if not k.startswith("property:")}, said


def _to_queue(app: Celery, letter: Mapping[str, Any], raw: bytes) -> str:
    """Back through the exchange where its routing key names the endpoint; else straight into the queue."""
    from amqp import Message  # noqa: PLC0415  (only where the broker speaks AMQP)

    headers, said = _parts(letter)
    undeliverable = letter["reason"] == "undeliverable"
    key = str(said.pop("routing_key", ""))
    exchange = _JOBS if not undeliverable and key.startswith(("job.submit.", "job.command.")) else ""
    target = key if exchange else str(letter["source"])
    if undeliverable:
        exchange = str(headers.get("exchange") or "")
        said = {"correlation_id": headers.get("correlation_id"), "content_type": CONTENT_TYPE}
        headers = {}
    properties = {name: said[name] for name in _PROPERTIES if said.get(name)}
    returned: list[str] = []
    # The library waits for the confirm of each message; a return comes before it.
    with app.connection_for_write(transport_options={"confirm_publish": True}) as connection:
        connection.ensure_connection(max_retries=1, timeout=5)
        channel = connection.channel()
        channel.events["basic_return"].add(lambda fault, *_: returned.append(str(fault)))
        message = Message(raw, application_headers=headers, delivery_mode=2, **properties)
        channel.basic_publish(message, exchange=exchange, routing_key=target, mandatory=exchange != _EVENTS)
    if returned:
        raise NotReplayable(f"there is no queue {target}: {returned[0]}")
    return target


def _to_stream(ledger: Ledger, letter: Mapping[str, Any], raw: bytes, request_id: str | None) -> str:
    headers, said = _parts(letter)
    fields = {name: str(value) for name, value in {**headers, **said}.items() if name != "routing_key"}
    if fields.get("content_type", "").startswith("("):
        raise NotReplayable("the entry had no field `data`: send it again with one")
    if request_id is not None:
        fields.pop("message_id", None)
    send(ledger.client, ledger.names, str(letter["source"]), raw, fields)
    return str(letter["source"])


def _as_reply(ledger: Ledger, letter: Mapping[str, Any], raw: bytes) -> str:
    ledger.replies.write([(str(letter["source"]), raw.decode())])
    return f"reply_to {letter['source']}"


def _as_callback(ledger: Ledger, letter: Mapping[str, Any], raw: bytes) -> str:
    """Owed once more to the address that its request names; the letter holds none, for it may be a secret."""
    request_id, key = str(letter["request_id"]), (letter.get("headers") or {}).get("lane")
    held = ledger.load(request_id)
    known = held.json(Long.CALLBACK) or () if held is not None else ()
    callback = next((one for one in known if one["lane"] == key), None)
    if callback is None:
        raise NotReplayable("its request is no longer kept, and with it the address went")
    ledger.callbacks.owe(lane_of(callback, request_id), callback["host"], callback["url"], raw.decode())
    return str(letter["source"])


def _as_task(app: Celery, letter: Mapping[str, Any], raw: bytes, request_id: str | None) -> str:
    if letter["reason"] in {"malformed", "too_large", "unknown_kind"}:
        raise NotReplayable("Celery could not read it, and would not now: have its producer send it again")
    if letter["reason"] == "undeliverable":
        raise NotReplayable("whoever waited for what follows a request was told that it cannot be sent: send it anew")
    arguments = json.loads(raw)
    if veiled := [name for name in ("s3Config", "callback") if arguments.get(name) == "***"]:
        raise NotReplayable(f"its {veiled[0]} may be a secret and is not kept: let its producer send it again")
    task_id = request_id or str(letter["request_id"])
    task = str(letter["source"])  # a control task's letter goes back as that task, never as a run
    queue = task if task == "bridge.run" else "bridge.control"
    app.send_task(task, kwargs=arguments, task_id=task_id, queue=queue)
    return task
