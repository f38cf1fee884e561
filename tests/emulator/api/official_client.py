"""A program as users write it with RunPod's own Python package; prints what it saw as one JSON document.

RUNPOD_ENDPOINT_BASE_URL is read once, at import, so the program is a process of its own.
"""

import asyncio
import json
from typing import Any

import aiohttp
import runpod

runpod.api_key = "test-key"


def synchronous() -> dict[str, Any]:
    """Use everything that `runpod.Endpoint` has."""
    endpoint = runpod.Endpoint("demo")
    seen: dict[str, Any] = {"run_sync": endpoint.run_sync({"input": {"prompt": "hi"}}, timeout=30)}
    job = endpoint.run({"input": {"mock_delay": 0.2, "mock_return": {"n": 1}}})
    seen["output"] = job.output(timeout=30)
    seen["status"] = job.status()
    streaming = endpoint.run({"input": {"mock_stream": ["a", "b", "c"]}})
    seen["stream"] = list(streaming.stream())
    cancelled = endpoint.run({"input": {"mock_delay": 600}})
    seen["cancel"] = cancelled.cancel()
    seen["cancelled"] = cancelled.status()
    failed = endpoint.run({"input": {"mock_error": "no"}})
    seen["failed_output"] = failed.output(timeout=30)
    seen["failed"] = failed.status()
    seen["health"] = endpoint.health()
    seen["purge"] = endpoint.purge_queue()
    return seen


async def asynchronous() -> dict[str, Any]:
    """Use everything that `runpod.AsyncioEndpoint` has."""
    seen: dict[str, Any] = {}
    async with aiohttp.ClientSession() as session:
        endpoint = runpod.AsyncioEndpoint("demo", session)
        job = await endpoint.run({"mock_delay": 0.2, "mock_return": {"n": 2}})
        seen["output"] = await job.output(timeout=30)
        seen["status"] = await job.status()
        streaming = await endpoint.run({"mock_stream": ["a", "b"]})
        seen["stream"] = [chunk async for chunk in streaming.stream()]
        cancelled = await endpoint.run({"mock_delay": 600})
        seen["cancel"] = await cancelled.cancel()
        seen["health"] = await endpoint.health()
        seen["purge"] = await endpoint.purge_queue()
    return seen


print(json.dumps({"sync": synchronous(), "asyncio": asyncio.run(asynchronous())}))  # noqa: T201 - its answer
