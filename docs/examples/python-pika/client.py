"""A service on RabbitMQ, in Python with pika: submits a job, follows it, takes chunks and result, cancels another.

pip install pika
AMQP_URL=amqp://guest:guest@127.0.0.1:5672/ python client.py
"""

import json
import os
import sys
import urllib.request
import uuid

import pika
import pika.exceptions

# What a RunPod handler is given. These words are the emulator's (docs/emulator.md); put your own input here.
INPUT = json.loads(os.environ.get("INPUT", '{"mock_stream": ["once", "upon", "a time"], "mock_return": "the end"}'))
LONG_INPUT = json.loads(os.environ.get("LONG_INPUT", '{"mock_delay": 600}'))

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()  # with `mandatory`: publishing raises when nobody takes it


def declare(queue: str, key: str) -> None:
    """What the bridge declares too, in case it has never run here. A queue that is there is used as it is."""
    look = connection.channel()
    try:
        look.queue_declare(queue, passive=True)
        look.close()
    except pika.exceptions.ChannelClosedByBroker:  # there is none
        channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, "bridge.jobs", key)


channel.exchange_declare("bridge.jobs", "topic", durable=True)
declare("bridge.requests", "job.submit.#")
declare("bridge.commands", "job.command.#")

# A queue of this service for replies, which outlasts a connection as jobs do; and one for the events of all jobs.
replies = channel.queue_declare("story-service-pika", durable=True).method.queue
events = channel.queue_declare("", exclusive=True).method.queue
channel.exchange_declare("bridge.events", "topic", durable=True)
channel.queue_bind(events, "bridge.events", "job.#")


def send(key: str, document: dict) -> None:
    """Persistent, and refused loudly when nobody takes it."""
    properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
    channel.basic_publish("bridge.jobs", key, json.dumps(document), properties, mandatory=True)


# Both queues tell of all requests at once: what is heard of one while another is followed is kept for who asks for it.
heard: dict[tuple[str, str], list[dict]] = {}
sendings: dict[str, str] = {}  # requests by the `correlation_id` of their sending, of which each has its own


def submit(request_id: str, **asked: object) -> None:
    """Ask for replies."""
    sending = f"order 66 {uuid.uuid4()}"
    sendings[sending] = request_id
    send("job.submit", {"id": request_id, "reply_to": replies, "correlation_id": sending, **asked})


def subject(event: dict) -> str:
    """The request that an event is of. The refusal of an id that is none names no request: its sending does."""
    refused = event.get("type") == "bridge.job.rejected"
    return sendings.get(event["data"].get("correlation_id"), "") if refused else str(event.get("subject"))


def hear(queue: str, request_id: str):
    """The events of one request on a queue, as they come."""
    yield from heard.pop((queue, request_id), [])
    for method, _, body in channel.consume(queue, inactivity_timeout=60):
        if method is None:
            sys.exit(f"nothing was heard of {request_id} for 60 s")
        channel.basic_ack(method.delivery_tag)
        event = json.loads(body)
        if subject(event) == request_id:
            yield event
        elif queue == replies:
            heard.setdefault((queue, subject(event)), []).append(event)


def follow(queue: str, request_id: str):
    """Those events in order, each once, to the end: one whose sequence is not above the last is a copy."""
    last = ""
    for event in hear(queue, request_id):
        if event.get("sequence", "") <= last:
            continue
        last = event["sequence"]
        if event["type"] == "bridge.job.rejected":
            sys.exit(f"{request_id} was refused: {event['data']['error']}")
        yield event
        if event["data"].get("completed"):
            break
    channel.cancel()


def output_of(data: dict):
    """The whole output. One over 8 MiB (BRIDGE_MESSAGE_LIMIT) is in no message: the bridge's HTTP API gives it."""
    if "output_ref" not in data:
        return data["output"]
    base, where = os.environ.get("BRIDGE_HTTP_URL"), data["output_ref"]
    if not base:
        sys.exit(f"{data['id']}: its output of {where['size']} bytes is at {where['href']}: set BRIDGE_HTTP_URL")
    with urllib.request.urlopen(base + where["href"]) as answer:  # noqa: S310
        return json.load(answer)


# The id is yours: the same id with the same content is never run twice, however often it is sent.
job = f"story-{uuid.uuid4()}"
submit(job, input=INPUT, stream=True)
told = list(follow(replies, job))
seen = [event["type"] for event in follow(events, job)]

# A job that is not wanted any more, on its GPU or still waiting.
long_job = f"long-{uuid.uuid4()}"
submit(long_job, input=LONG_INPUT)
send("job.command", {"op": "cancel", "id": long_job, "by": "python-pika"})
cancelled = list(follow(replies, long_job))[-1]

print(
    json.dumps(
        {
            "chunks": [event["data"]["output"] for event in told if event["type"] == "bridge.job.chunk"],
            "output": output_of(told[-1]["data"]),
            "correlation_id": told[-1]["data"]["correlation_id"],
            "events": seen,
            "cancelled": cancelled["data"]["status"],
        }
    )
)
connection.close()
