"""An unmodified RunPod handler: a generator, aggregated, two jobs at once."""

import asyncio
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> Any:
    """Yield as many chunks as the input says."""
    if "openai_route" in job["input"]:  # as worker-vllm answers: text of server-sent events, ready to relay
        for word in ("Hello", "world"):
            yield f'data: {{"choices": [{{"delta": {{"content": "{word}"}}}}]}}\n\n'
        yield "data: [DONE]\n\n"
        return
    for number in range(job["input"]["count"]):
        yield {"number": number}
        await asyncio.sleep(job["input"].get("every", 0))
    if job["input"].get("raise"):
        raise ValueError("in the middle")


runpod.serverless.start(
    {"handler": handler, "return_aggregate_stream": True, "concurrency_modifier": lambda _current: 2}
)
