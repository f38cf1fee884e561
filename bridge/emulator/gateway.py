"""`/openai/v1/*`: the platform turns the call into a job and relays what the RunPod worker says.

The job's input is `{"openai_route": "/v1/...", "openai_input": {...}}` (worker-vllm, src/handler.py); a bare route
without body for /models. With `"stream": true` the RunPod worker yields raw text of server-sent events.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bridge.emulator import answers, operations
from bridge.emulator.answers import Answer
from bridge.emulator.endpoint import Endpoint
from bridge.emulator.job import ABSENT, COMPLETED, Job

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: How long the platform keeps such a connection, in seconds (raised from 60 after a report).
HELD_S = 300.0


async def openai(endpoint: Endpoint, method: str, rest: str, body: bytes, send: Send) -> int:
    """Answer one call of `/openai/<rest>`; return the code sent."""
    asked: Any = None
    if method == "POST":
        if len(body) > endpoint.config.runsync_body:
            return await _whole(send, operations.parse(endpoint, body, endpoint.config.runsync_body))
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            return await _whole(send, answers.bad_request("body: must be a JSON object"))
    request: dict[str, Any] = {"openai_route": f"/{rest}"}
    if asked is not None:
        request["openai_input"] = asked
    job = endpoint.submit({"input": request}, sync=True)
    if asked is not None and asked.get("stream") is True:
        return await _relay(endpoint, job, send)
    await operations.ended(endpoint.clock, job, HELD_S)
    return await _whole(send, _answer(job))


def _answer(job: Job) -> Answer:
    if job.status != COMPLETED:
        return answers.problem(500, "Internal Server Error", job.error or f"job is {job.status}")
    if job.chunks:
        return answers.document(job.chunks[-1]["output"])
    output = None if job.output is ABSENT else job.output
    return answers.document(output[0] if isinstance(output, list) and len(output) == 1 else output)


async def _relay(endpoint: Endpoint, job: Job, send: Send) -> int:
    until = endpoint.clock.now() + HELD_S
    started = False
    while True:
        while job.chunks:
            if not started:
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", answers.EVENTS)]}
                )
                started = True
            text = job.chunks.popleft()["output"]
            piece = text if isinstance(text, str) else f"data: {json.dumps(text)}\n\n"
            await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
        if job.ended or job.gone or not await operations.changed(endpoint.clock, job, until):
            break
    if not started:
        return await _whole(send, _answer(job))
    await send({"type": "http.response.body", "body": b""})
    return 200


async def _whole(send: Send, answer: Answer | dict[str, Any]) -> int:
    if not isinstance(answer, Answer):
        raise TypeError("a request is no answer")
    headers = [(b"content-type", answer.kind), (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.code, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
    return answer.code
