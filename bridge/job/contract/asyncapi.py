"""The AsyncAPI 3 document: every channel and message of the plain JSON contract, made from the models.

Actions are the bridge's: it receives requests and commands, and sends everything else.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from bridge import __version__
from bridge.job.contract.documents import Chunk, Document, Transition
from bridge.job.contract.events import CommandAnswer, DeadLetter, EndpointEvent, JobEvent
from bridge.job.contract.models import JsonCommand, JsonRequest, Names
from bridge.job.document import CONTENT_TYPE
from bridge.job.enums import ENDS, EventName
from bridge.redis.public_keys import PublicNames

_MODELS = (
    JsonRequest, JsonCommand, JobEvent, Transition, Document, EndpointEvent, CommandAnswer, DeadLetter, Chunk,
)  # fmt: skip
_OF_ENDPOINTS = (EventName.PURGED, EventName.PAUSED, EventName.RESUMED)
_EVENTS = tuple(name for name in EventName if name not in {*ENDS, *_OF_ENDPOINTS})
_ENDPOINT = {"endpoint": {"description": "An endpoint's name, as BRIDGE_ENDPOINTS has it."}}


def document() -> dict[str, Any]:
    """The whole document, as JSON."""
    _, found = models_json_schema(
        [(model, "validation") for model in _MODELS],
        ref_template="#/components/schemas/{model}",
        schema_generator=Names,
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Runpod bridge",
            "version": __version__,
            "description": "Plain JSON in; CloudEvents 1.0 in structured mode out. docs/services.md is the quickstart.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "rabbitmq": {"host": "rabbitmq:5672", "protocol": "amqp", "description": "CELERY_BROKER_URL"},
            "redis": {
                "host": "redis:6379",
                "protocol": "redis",
                "description": "BRIDGE_REDIS_URL; data in field `data`",
            },
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": found["$defs"]},
    }


def _messages() -> dict[str, Any]:
    told = {
        "request": _message("A request", "JsonRequest", content_type="application/json"),
        "command": _message("A command", "JsonCommand", content_type="application/json"),
        "commandAnswer": _message("The answer to a command", "CommandAnswer"),
        "deadLetter": _message("What could not be taken or told", "DeadLetter"),
        "chunk": _message("A chunk, or the end of them", "Chunk", content_type="application/json"),
    }
    for name in EventName:
        what = f"An endpoint was {name.value}" if name in _OF_ENDPOINTS else f"A request: {name.value}"
        told[name.value] = _message(what, model_of(name), name=f"bridge.job.{name.value}")
    return told


def model_of(name: EventName) -> str:
    """The model of an event: `TimedOutEvent`."""
    return "".join(word.capitalize() for word in name.value.split("_")) + "Event"


def _message(title: str, schema: str, *, content_type: str = CONTENT_TYPE, name: str | None = None) -> dict[str, Any]:
    told = {"title": title, "contentType": content_type, "payload": {"$ref": f"#/components/schemas/{schema}"}}
    return {"name": name, **told} if name else told


def _channels() -> dict[str, Any]:
    names = PublicNames()
    requests, commands = ("request",), ("command",)
    events = tuple(name.value for name in EventName)
    ends = tuple(name.value for name in ENDS)
    replies = (*(name.value for name in (*_EVENTS, *ENDS)), "commandAnswer")
    reply_to = {"reply_to": {"description": "A queue of the caller's own, by the pattern BRIDGE_REPLY_PATTERN."}}
    return {
        "amqpRequests": _exchange("bridge.jobs", "job.submit.{endpoint}", requests, _ENDPOINT),
        "amqpCommands": _exchange("bridge.jobs", "job.command.{endpoint}", commands, _ENDPOINT),
        "amqpRequestQueue": _queue("bridge.requests", requests),
        "amqpCommandQueue": _queue("bridge.commands", commands),
        "amqpEvents": _exchange(
            "bridge.events", "job.{event}.{endpoint}", events,
            {"event": {"description": "The last word of the event's type.", "enum": list(events)}, **_ENDPOINT},
        ),
        "amqpReplies": _queue("{reply_to}", replies, reply_to),
        "amqpResults": _queue("bridge.results", ends),
        "amqpDead": _queue("bridge.dead", ("deadLetter",)),
        "redisRequests": _stream(names.requests, requests),
        "redisCommands": _stream(names.commands, commands),
        "redisEvents": _stream(names.events, events),
        "redisReplies": _stream(names.reply("{reply_to}"), replies, reply_to),
        "redisResults": _stream(names.results, ends),
        "redisDead": _stream(names.dead, ("deadLetter",)),
        "redisChunks": _stream(names.chunks("{id}"), ("chunk",), {"id": {"description": "The request's id."}}),
    }  # fmt: skip


def _channel(server: str, address: str, messages: tuple[str, ...], parameters: dict[str, Any] | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "address": address,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }
    if parameters:
        told["parameters"] = parameters
    return told


def _exchange(
    exchange: str, key: str, messages: tuple[str, ...], parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    told = {"name": exchange, "type": "topic", "durable": True, "autoDelete": False, "vhost": "/"}
    bindings = {"amqp": {"is": "routingKey", "exchange": told, "bindingVersion": "0.3.0"}}
    return {**_channel("rabbitmq", key, messages, parameters), "bindings": bindings}


def _queue(name: str, messages: tuple[str, ...], parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    told = {"durable": True, "exclusive": False, "autoDelete": False, "vhost": "/"}
    if not parameters:
        told["name"] = name
    return {
        **_channel("rabbitmq", name, messages, parameters),
        "bindings": {"amqp": {"is": "queue", "queue": told, "bindingVersion": "0.3.0"}},
    }


def _stream(name: str, messages: tuple[str, ...], parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    told = _channel("redis", name, messages, parameters)
    return {**told, "description": "A Redis stream; the document stands in field `data`."}


def _operations() -> dict[str, Any]:
    replies = {"amqp": "amqpReplies", "redis": "redisReplies"}
    told = {}
    for channel in _channels():
        action = "receive" if channel.endswith(("Requests", "Commands", "RequestQueue", "CommandQueue")) else "send"
        operation: dict[str, Any] = {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}
        if action == "receive":
            reply = replies["amqp" if channel.startswith("amqp") else "redis"]
            operation["reply"] = {"channel": {"$ref": f"#/channels/{reply}"}}
        told[f"{action}{channel[0].upper()}{channel[1:]}"] = operation
    return told
