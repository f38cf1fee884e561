"""`/openai/v1/*`: the platform turns the call into a job and relays what the RunPod worker says.

The job's input is `{"openai_route": "/v1/...", "openai_input": {...}}` (worker-vllm, src/handler.py); a bare route
without body for /models. With `"stream": true` the RunPod worker yields raw text of server-sent events.
"""

from __future__ import annotations

import json
from typing import Any

from bridge.emulator.api import operations
from bridge.emulator.http import answers
from bridge.emulator.http.answers import EVENTS, RELAYED, Answer, bad_request, too_large
from bridge.emulator.http.asgi import Send
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.job import ABSENT, COMPLETED, Job

#: How long the platform keeps such a connection, in seconds (raised from 60 after a report).
HELD_S = 300.0


async def openai(endpoint: Endpoint, method: str, rest: str, body: bytes, send: Send) -> Answer:
    """Answer one call of `/openai/<rest>`. A stream is sent from here, and RELAYED is returned."""
    request: dict[str, Any] = {"openai_route": f"/{rest}"}
    if method == "POST":
        limit = endpoint.config.runsync_body
        if len(body) > limit:
            return too_large(limit)
        try:
            asked = answers.decode(body)
        except ValueError:
            return bad_request("body: invalid JSON")
        if not isinstance(asked, dict):
            return bad_request("body: must be a JSON object")
        request["openai_input"] = asked
    job = endpoint.submit({"input": request}, sync=True)
    if request.get("openai_input", {}).get("stream") is True:
        return await _relay(endpoint, job, send)
    await operations.ended(endpoint.clock, job, HELD_S)
    return answer_of(job)


def answer_of(job: Job) -> Answer:
    """Answer with what a finished job said: its only chunk, or its output."""
    if job.status != COMPLETED:
        if (told := _error_of(job.error)) is not None:
            return told
        return answers.problem(500, "Internal Server Error", job.error or f"job is {job.status}")
    if job.chunks:
        return _said(job.chunks[-1]["output"])
    output = None if job.output is ABSENT else job.output
    return _said(output[0] if isinstance(output, list) and len(output) == 1 else output)


def _said(output: Any) -> Answer:
    """Answer with what the RunPod worker said, an error of vLLM with the code that it names."""
    error = output.get("error", output) if isinstance(output, dict) else None
    if isinstance(error, dict) and (error is not output or error.get("object") == "error"):
        return answers.document(output, _code_of(error))
    return answers.document(output)


def _error_of(text: str | None) -> Answer | None:
    """Answer in OpenAI's shape when a failed job's error is an object of that shape; clients raise by it."""
    try:
        error = json.loads(text or "")
    except ValueError:
        return None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    return answers.document({"error": error}, _code_of(error))


def _code_of(error: dict[str, Any]) -> int:
    code = error.get("code")
    return code if isinstance(code, int) and 400 <= code <= 599 else 500  # noqa: PLR2004


async def _relay(endpoint: Endpoint, job: Job, send: Send) -> Answer:
    """Send chunks as they come. A job that fails before its first chunk is answered as an error."""
    until = endpoint.clock.now() + HELD_S
    started = False
    while True:
        while job.chunks:
            if not started:
                head = [(b"content-type", EVENTS)]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                started = True
            text = job.chunks.popleft()["output"]
            piece = text if isinstance(text, str) else f"data: {answers.encode(text).decode()}\n\n"
            await send({"type": "http.response.body", "body": utf8(piece), "more_body": True})
        if job.ended or job.gone or not await operations.changed(endpoint.clock, job, until):
            break
    if not started:
        return answer_of(job)
    await send({"type": "http.response.body", "body": b""})
    return RELAYED


def utf8(text: str) -> bytes:
    """Return text of a RunPod worker's as it is relayed: what is no character is U+FFFD, as decoders have it."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
