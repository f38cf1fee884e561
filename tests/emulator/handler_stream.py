"""An unmodified RunPod handler: a generator, aggregated, two jobs at once."""

import asyncio
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> Any:
    """Yield as many chunks as the input says."""
    for number in range(job["input"]["count"]):
        yield {"number": number}
        await asyncio.sleep(job["input"].get("every", 0))
    if job["input"].get("raise"):
        raise ValueError("in the middle")


runpod.serverless.start(
    {"handler": handler, "return_aggregate_stream": True, "concurrency_modifier": lambda _current: 2}
)
